// The launchers of p_laplacian for Python. Workspaces are poisoned and of the exact size.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "drivers/scratch_memory.h"
#include "p_laplacian/cuda.cu"

namespace {
using namespace vlmadapt;
using namespace vlmadapt::p_laplacian;

// sizes: dtype, batch, heads, queries, keys, width, value width, features, from scores, with value, mask kind, mask
//        strides (4), causal, residual, drop diagonal, released, scale and eps in millionths, far
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
  q.released = n[18] != 0;
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

// A copy of a byte mask whose rows are `far` elements apart. Only the pages that are written take memory.
class FarMask {
 public:
  FarMask(Problem& p, int64_t far) {
    if (far == 0) return;
    bytes_ = static_cast<size_t>(far * p.batch * p.num_queries);
    allocate();
    for (int64_t row = 0; row < p.batch * p.num_queries; ++row)
      copy(static_cast<char*>(memory_) + row * far, static_cast<const char*>(p.mask) + row * p.num_keys, p.num_keys);
    p.mask = memory_;
    p.mask_strides[0] = far * p.num_queries;
    p.mask_strides[2] = far;
  }
  FarMask(const FarMask&) = delete;
  FarMask& operator=(const FarMask&) = delete;
#ifdef GPU_ROUTE
  ~FarMask() { cudaFree(memory_); }

 private:
  void allocate() {
    if (cudaMalloc(&memory_, bytes_)) abort();
  }
  static void copy(void* to, const void* from, int64_t bytes) { cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice); }
#else
  ~FarMask() {
    if (bytes_ > 0) munmap(memory_, bytes_);
  }

 private:
  void allocate() {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) abort();
  }
  static void copy(void* to, const void* from, int64_t bytes) { memcpy(to, from, bytes); }
#endif
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};
}  // namespace

extern "C" {

// further pointers: out, row sum, lse, context
int p_laplacian_forward(const int64_t* n, void* const* p) {
  ForwardParams f{};
  f.problem = problem_of(n, p);
  const FarMask mask(f.problem, n[21]);
  f.out = p[10];
  f.row_sum = p[11];
  f.lse = p[12];
  f.context = p[13];
  const ScratchMemory workspace(forward_workspace(f));
  return forward_cuda(f, workspace.bytes, nullptr);
}

// further sizes: want p, with context
// further pointers: out, row sum, lse, context, grad out, grad context, grad lse,
//                   grad attention, query, key, value, x query, x value, p, pull
int p_laplacian_backward(const int64_t* n, void* const* p) {
  BackwardParams b{};
  b.problem = problem_of(n, p);
  const FarMask mask(b.problem, n[21]);
  b.want_p = n[22] != 0;
  b.with_context = n[23] != 0;
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
  const ScratchMemory workspace(backward_workspace(b));
  return backward_cuda(b, workspace.bytes, nullptr);
}

// sizes: dtype, batch * heads, owners, other rows, multiprocessors; pointers: out [3]: tiles, parts, rows of a part
int p_laplacian_cut(const int64_t* n, void* const* p) {
  Problem problem{};
  problem.dtype = static_cast<Dtype>(n[0]);
  problem.batch = 1;
  problem.heads = n[1];
  const Cut cut(problem, n[2], n[3], n[4]);
  const int64_t out[] = {cut.tiles, cut.parts, cut.share};
  memcpy(p[0], out, sizeof out);
  return cudaSuccess;
}

// sizes: features, width, value width, from scores, with value, released, addresses of x query, x value, query, key and
//        value; pointers: out [1]
int p_laplacian_takes_flash(const int64_t* n, void* const* p) {
  Problem q{};
  q.features = n[0];
  q.width = n[1];
  q.value_width = n[2];
  q.from_scores = n[3] != 0;
  q.has_value = n[4] != 0;
  q.released = n[5] != 0;
  const void** places[] = {&q.x_query, &q.x_value, &q.query, &q.key, &q.value};
  for (int i = 0; i < 5; ++i) *places[i] = reinterpret_cast<const void*>(n[6 + i]);
  const int64_t out = takes_flash(q);
  memcpy(p[0], &out, sizeof out);
  return cudaSuccess;
}

// pointers: out [2, 2]: dynamic shared bytes of flash_forward_kernel from probabilities and from scores, by columns: 64
//           and 128
int p_laplacian_flash_shared_bytes(const int64_t*, void* const* p) {
  const int64_t bytes[] = {
      flash_forward_shared_bytes<__half, false, 64>(), flash_forward_shared_bytes<__half, false, 128>(),
      flash_forward_shared_bytes<__half, true, 64>(), flash_forward_shared_bytes<__half, true, 128>()};
  memcpy(p[0], bytes, sizeof bytes);
  return cudaSuccess;
}

// pointers: out [2, 2]: dynamic shared bytes of the forward and backward kernels in float and in double
int p_laplacian_shared_bytes(const int64_t*, void* const* p) {
  const int64_t bytes[] = {forward_shared_bytes<float>(true), backward_shared_bytes<float>(),
                           forward_shared_bytes<double>(true), backward_shared_bytes<double>()};
  memcpy(p[0], bytes, sizeof bytes);
  return cudaSuccess;
}

}  // extern "C"
