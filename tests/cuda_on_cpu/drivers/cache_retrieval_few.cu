// The kernel of cache_retrieval for few queries, for Python. The workspace is poisoned and of the exact size.
#include <cstring>

#include "cache_retrieval_few/cuda.cu"
#include "drivers/cache_retrieval_params.h"
#include "drivers/scratch_memory.h"

using namespace vlmadapt;
using namespace vlmadapt::cache_retrieval;

// sizes, pointers: as forward_params
extern "C" int few_queries(const int64_t* n, void* const* p) {
  const ForwardParams f = forward_params(n, p);
  if (!takes_few(f)) return cudaErrorInvalidValue;
  const ScratchMemory workspace(few_workspace(f));
  return few_forward(f, workspace.bytes, nullptr);
}

// sizes: dtype, queries that the kernel is made for, width; pointers: out [1]: its dynamic shared bytes
extern "C" int few_shared_bytes(const int64_t* n, void* const* p) {
  const auto dtype = static_cast<Dtype>(n[0]);
  const int queries = static_cast<int>(n[1]);
  const int64_t bytes = dtype == Dtype::f64   ? Cut<double>::shared_bytes(n[2], queries)
                        : dtype == Dtype::f32 ? Cut<float>::shared_bytes(n[2], queries)
                                              : Cut<__half>::shared_bytes(n[2], queries);
  memcpy(p[0], &bytes, sizeof bytes);
  return cudaSuccess;
}

// sizes: dtype, queries, width, two streams, bytes that the rows are moved by; pointers: out [1]: whether it takes them
extern "C" int few_takes(const int64_t* n, void* const* p) {
  ForwardParams f{};
  f.dtype = static_cast<Dtype>(n[0]);
  f.num_queries = n[1];
  f.image.width = n[2];
  f.text.queries = n[3] ? p[0] : nullptr;
  f.image.queries = reinterpret_cast<const void*>(n[4]);
  const int64_t found = takes_few(f);
  memcpy(p[0], &found, sizeof found);
  return cudaSuccess;
}
