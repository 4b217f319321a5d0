// The launchers of cache_retrieval for Python. Workspaces are poisoned and of the exact size.
#include <cstring>

#include "cache_retrieval/cuda.cu"
#include "drivers/per_query.h"
#include "drivers/scratch_memory.h"

namespace {
using namespace vlmadapt;
using namespace vlmadapt::cache_retrieval;

const int64_t* integers(void* p) { return static_cast<const int64_t*>(p); }
}  // namespace

extern "C" {

// sizes: dtype, precision, queries, entries, classes, image width, text width, text per class, mask own scores,
//        one scale, center and ratio for all, the numbers where they have no pointers: beta, text beta, share
// pointers: order, offsets, image queries keys scale center, text queries keys scale center, ratio, own entry,
//           scores, disagreement
int cache_forward(const int64_t* n, void* const* p) {
  ForwardParams f{};
  f.dtype = static_cast<Dtype>(n[0]);
  f.num_queries = n[2];
  f.num_entries = n[3];
  f.num_classes = n[4];
  f.order = integers(p[0]);
  f.offsets = integers(p[1]);
  f.image = {p[2], p[3], per_query(p[4], n[10], n[9]), {p[5], !n[9]}, n[5]};
  f.text = {p[6], p[7], per_query(p[8], n[11], n[9]), {p[9], !n[9]}, n[6]};
  f.text_per_class = n[7] != 0;
  f.ratio = per_query(p[10], n[12], n[9]);
  f.own_entry = integers(p[11]);
  f.mask_own_scores = n[8] != 0;
  f.scores = p[12];
  f.disagreement = p[13];
  const ScratchMemory workspace(forward_workspace(f));
  return forward_cuda(f, static_cast<Precision>(n[1]), workspace.bytes, nullptr);
}

// sizes: dtype, precision, queries, keys, classes, width, one scale, center and weight for all, beta, share
// pointers: labels, multiplicity, own key, queries, keys, scale, center, weight, grad scores,
//           grad queries, grad keys, grad scale, grad center, grad weight
int cache_backward(const int64_t* n, void* const* p) {
  BackwardParams b{};
  b.dtype = static_cast<Dtype>(n[0]);
  b.num_queries = n[2];
  b.num_keys = n[3];
  b.num_classes = n[4];
  b.labels = integers(p[0]);
  b.multiplicity = p[1];
  b.own_key = integers(p[2]);
  b.side = {p[3], p[4], per_query(p[5], n[7], n[6]), {p[6], !n[6]}, n[5]};
  b.weight = per_query(p[7], n[8], n[6]);
  b.grad_scores = p[8];
  b.grad_queries = p[9];
  b.grad_keys = p[10];
  b.grad_scale = p[11];
  b.grad_center = p[12];
  b.grad_weight = p[13];
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
