// The launchers of p_laplacian for Python. Workspaces are allocated here, poisoned and of the exact size.
#include <cstdlib>
#include <cstring>

#include "p_laplacian/cuda.cu"

namespace {
using namespace vlmadapt;
using namespace vlmadapt::p_laplacian;

// sizes: dtype, batch, heads, queries, keys, width, value width, features, from scores, with value, mask kind, mask
//        strides (4), causal, residual, drop diagonal, keep, scale and eps in millionths
// pointers: attention, query, key, value, x query, x value, p, pull, mask, key lengths
Problem problem_of(const int64_t* n, void* const* p) {
  Problem q{};
  q.dtype = static_cast<Dtype>(n[0]);
  q.batch = n[1];
  q.heads = n[2];
  q.num_queries = n[3];
  q.num_keys = n[4];
  q.width = n[5];
  q.value_width = n[6];
  q.features = n[7];
  q.from_scores = n[8] != 0;
  q.has_value = n[9] != 0;
  q.mask_kind = static_cast<MaskKind>(n[10]);
  for (int i = 0; i < 4; ++i) q.mask_strides[i] = n[11 + i];
  q.causal = n[15] != 0;
  q.residual = n[16] != 0;
  q.drop_diagonal = n[17] != 0;
  q.keep = n[18] != 0;
  q.scale = 1e-6 * static_cast<double>(n[19]);
  q.eps = 1e-6 * static_cast<double>(n[20]);
  q.attention = p[0];
  q.query = p[1];
  q.key = p[2];
  q.value = p[3];
  q.x_query = p[4];
  q.x_value = p[5];
  q.p = p[6];
  q.pull = p[7];
  q.mask = p[8];
  q.key_lengths = static_cast<const int64_t*>(p[9]);
  return q;
}
}  // namespace

extern "C" {

// further pointers: out, row sum, lse, context
int p_laplacian_forward(const int64_t* n, void* const* p) {
  ForwardParams f{};
  f.problem = problem_of(n, p);
  f.out = p[10];
  f.row_sum = p[11];
  f.lse = p[12];
  f.context = p[13];
  return forward_cuda(f, nullptr);
}

// further sizes: want p, with context
// further pointers: out, row sum, lse, context, grad out, grad context, grad lse,
//                   grad attention, query, key, value, x query, x value, p, pull
int p_laplacian_backward(const int64_t* n, void* const* p) {
  BackwardParams b{};
  b.problem = problem_of(n, p);
  b.want_p = n[21] != 0;
  b.with_context = n[22] != 0;
  b.out = p[10];
  b.row_sum = p[11];
  b.lse = p[12];
  b.context = p[13];
  b.grad_out = p[14];
  b.grad_context = p[15];
  b.grad_lse = p[16];
  b.grad_attention = p[17];
  b.grad_query = p[18];
  b.grad_key = p[19];
  b.grad_value = p[20];
  b.grad_x_query = p[21];
  b.grad_x_value = p[22];
  b.grad_p = p[23];
  b.grad_pull = p[24];
  const int64_t bytes = backward_workspace(b);
  void* workspace = malloc(bytes > 0 ? bytes : 1);
  memset(workspace, 0xff, bytes > 0 ? bytes : 1);
  const int error = backward_cuda(b, workspace, nullptr);
  free(workspace);
  return error;
}

// pointers: out [2, 2]: dynamic shared bytes of the forward and backward kernels in float and in double
int p_laplacian_shared_bytes(const int64_t*, void* const* p) {
  const int64_t bytes[] = {forward_shared_bytes<float>(), backward_shared_bytes<float>(),
                           forward_shared_bytes<double>(), backward_shared_bytes<double>()};
  memcpy(p[0], bytes, sizeof bytes);
  return cudaSuccess;
}

}  // extern "C"
