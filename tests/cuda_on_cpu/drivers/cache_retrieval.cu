// The launchers of cache_retrieval for Python. Workspaces are poisoned and of the exact size.
#include <cstring>

#include "cache_retrieval/cuda.cu"
#include "drivers/cache_retrieval_params.h"
#include "drivers/scratch_memory.h"

using namespace vlmadapt;
using namespace vlmadapt::cache_retrieval;

extern "C" {

// sizes, pointers: as forward_params
int cache_forward(const int64_t* n, void* const* p) {
  const ForwardParams f = forward_params(n, p);
  const ScratchMemory workspace(forward_workspace(f));
  return forward_cuda(f, static_cast<Precision>(n[1]), workspace.bytes, nullptr);
}

// sizes, pointers: as backward_params
int cache_backward(const int64_t* n, void* const* p) {
  const BackwardParams b = backward_params(n, p);
  const ScratchMemory workspace(backward_workspace(b));
  return backward_cuda(b, static_cast<Precision>(n[1]), workspace.bytes, nullptr);
}

// sizes: dtype, precision, queries, entries, classes, width, betas, alphas
// pointers: order, offsets, queries, keys, betas, alphas, base logits, targets, scores, correct
int cache_grid(const int64_t* n, void* const* p) {
  GridParams g{};
  g.dtype = static_cast<Dtype>(n[0]);
  g.num_queries = n[2];
  g.num_entries = n[3];
  g.num_classes = n[4];
  g.width = n[5];
  g.num_betas = n[6];
  g.num_alphas = n[7];
  g.order = integers(p[0]);
  g.offsets = integers(p[1]);
  g.queries = p[2];
  g.keys = p[3];
  g.betas = p[4];
  g.alphas = p[5];
  g.base_logits = p[6];
  g.targets = integers(p[7]);
  g.scores = p[8];
  g.correct = static_cast<int64_t*>(p[9]);
  return grid_cuda(g, static_cast<Precision>(n[1]), nullptr);
}

}  // extern "C"

// sizes: owner tiles, tiles, largest, multiprocessors; pointers: out [1]: the parts that the rule cuts the tiles into
extern "C" int cache_splits(const int64_t* n, void* const* p) {
  const int64_t parts = splits_for(n[0], n[1], n[2], n[3]);
  memcpy(p[0], &parts, sizeof parts);
  return cudaSuccess;
}

// sizes: dtype, queries, keys, width, whether grad queries, grad keys and grad scale are wanted; pointers: out [1]
extern "C" int cache_backward_workspace(const int64_t* n, void* const* p) {
  BackwardParams b{};
  b.dtype = static_cast<Dtype>(n[0]);
  b.num_queries = n[1];
  b.num_keys = n[2];
  b.side.width = n[3];
  b.grad_queries = n[4] ? p[0] : nullptr;
  b.grad_keys = n[5] ? p[0] : nullptr;
  b.grad_scale = n[6] ? p[0] : nullptr;
  const int64_t bytes = backward_workspace(b);
  memcpy(p[0], &bytes, sizeof bytes);
  return cudaSuccess;
}

// pointers: out [5, 2]: dynamic shared bytes of the forward and backward kernels of each product
extern "C" int cache_shared_bytes(const int64_t*, void* const* p) {
  const int64_t bytes[] = {forward_shared_bytes<FmaProduct<float>>(),
                           backward_shared_bytes<FmaProduct<float>>(),
                           forward_shared_bytes<FmaProduct<double>>(),
                           backward_shared_bytes<FmaProduct<double>>(),
                           forward_shared_bytes<TensorProduct<float>>(),
                           backward_shared_bytes<TensorProduct<float>>(),
                           forward_shared_bytes<TensorProduct<__nv_bfloat16>>(),
                           backward_shared_bytes<TensorProduct<__nv_bfloat16>>(),
                           forward_shared_bytes<TensorProduct<__half>>(),
                           backward_shared_bytes<TensorProduct<__half>>()};
  memcpy(p[0], bytes, sizeof bytes);
  return cudaSuccess;
}
