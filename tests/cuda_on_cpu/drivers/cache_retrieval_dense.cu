// The launchers of cache retrieval with values for Python. Workspaces are poisoned and of the exact size.
#include <cstring>

#include "cache_retrieval_dense/cuda.cu"
#include "drivers/per_query.h"
#include "drivers/scratch_memory.h"

namespace {
using namespace vlmadapt;
using namespace vlmadapt::cache_retrieval;

const int64_t* integers(void* p) { return static_cast<const int64_t*>(p); }
}  // namespace

extern "C" {

// sizes: dtype, precision, queries, keys, classes, width, one scale and center for all, beta
// pointers: queries, keys, scale, center, values, own key, scores
int dense_forward(const int64_t* n, void* const* p) {
  DenseForwardParams f{};
  f.dtype = static_cast<Dtype>(n[0]);
  f.num_queries = n[2];
  f.num_keys = n[3];
  f.num_classes = n[4];
  f.side = {p[0], p[1], per_query(p[2], n[7], n[6]), {p[3], !n[6]}, n[5]};
  f.values = p[4];
  f.own_key = integers(p[5]);
  f.scores = p[6];
  const ScratchMemory workspace(dense_forward_workspace(f));
  return dense_forward_cuda(f, static_cast<Precision>(n[1]), workspace.bytes, nullptr);
}

// sizes: as above
// pointers: queries, keys, scale, center, values, own key, grad scores,
//           grad queries, grad keys, grad values, grad scale, grad center, grad weight
int dense_backward(const int64_t* n, void* const* p) {
  BackwardParams b{};
  b.dtype = static_cast<Dtype>(n[0]);
  b.num_queries = n[2];
  b.num_keys = n[3];
  b.num_classes = n[4];
  b.dense = true;
  b.side = {p[0], p[1], per_query(p[2], n[7], n[6]), {p[3], !n[6]}, n[5]};
  b.values = p[4];
  b.own_key = integers(p[5]);
  b.grad_scores = p[6];
  b.grad_queries = p[7];
  b.grad_keys = p[8];
  b.grad_values = p[9];
  b.grad_scale = p[10];
  b.grad_center = p[11];
  b.grad_weight = p[12];
  const ScratchMemory workspace(dense_backward_workspace(b));
  return dense_backward_cuda(b, static_cast<Precision>(n[1]), workspace.bytes, nullptr);
}

}  // extern "C"

// pointers: out [5]: dynamic shared bytes of the kernels of each product
extern "C" int dense_shared_bytes_of(const int64_t*, void* const* p) {
  const int64_t bytes[] = {dense_shared_bytes<FmaProduct<float>>(), dense_shared_bytes<FmaProduct<double>>(),
                           dense_shared_bytes<TensorProduct<float>>(),
                           dense_shared_bytes<TensorProduct<__nv_bfloat16>>(),
                           dense_shared_bytes<TensorProduct<__half>>()};
  memcpy(p[0], bytes, sizeof bytes);
  return cudaSuccess;
}
