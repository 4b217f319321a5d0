// The launchers of attention_column_sums for Python. Workspaces are poisoned and of the exact size.
#include <cstring>

#include "attention_column_sums/cuda.cu"
#include "drivers/scratch_memory.h"

namespace {
using namespace vlmadapt;
using namespace vlmadapt::attention_column_sums;

// sizes: dtype, batch, heads, queries, keys, width, mask kind, mask strides (4), causal, scale in millionths
// pointers: query, key, mask, key lengths
AttentionScores scores_of(const int64_t* n, void* const* p) {
  AttentionScores s{};
  s.dtype = static_cast<Dtype>(n[0]);
  s.batch = n[1];
  s.heads = n[2];
  s.num_queries = n[3];
  s.num_keys = n[4];
  s.width = n[5];
  s.mask_kind = static_cast<MaskKind>(n[6]);
  for (int i = 0; i < 4; ++i) s.mask_strides[i] = n[7 + i];
  s.causal = n[11] != 0;
  s.scale = 1e-6 * static_cast<double>(n[12]);
  s.query = p[0];
  s.key = p[1];
  s.mask = p[2];
  s.key_lengths = static_cast<const int64_t*>(p[3]);
  return s;
}
}  // namespace

extern "C" {

// further pointers: sums, lse
int attention_column_sums_forward(const int64_t* n, void* const* p) {
  ForwardParams f{};
  f.scores = scores_of(n, p);
  f.sums = p[4];
  f.lse = p[5];
  return forward_cuda(f, nullptr);
}

// further pointers: lse, grad sums, grad query, grad key
int attention_column_sums_backward(const int64_t* n, void* const* p) {
  BackwardParams b{};
  b.scores = scores_of(n, p);
  b.lse = p[4];
  b.grad_sums = p[5];
  b.grad_query = p[6];
  b.grad_key = p[7];
  const ScratchMemory workspace(backward_workspace(b));
  return backward_cuda(b, workspace.bytes, nullptr);
}

// pointers: out [2]: dynamic shared bytes in float and in double
int attention_column_sums_shared_bytes(const int64_t*, void* const* p) {
  const int64_t bytes[] = {shared_bytes<float>(), shared_bytes<double>()};
  memcpy(p[0], bytes, sizeof bytes);
  return cudaSuccess;
}

}  // extern "C"
