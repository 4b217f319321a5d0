// The chunked route of cache_retrieval for Python, with plain products and the exact workspace, poisoned.
#include <cstring>

#include "cache_retrieval_chunked/chunks.h"
#include "cache_retrieval_chunked/cuda.cu"
#include "cache_retrieval_chunked/route.h"
#include "drivers/cache_retrieval_params.h"
#include "drivers/plain_products.h"
#include "drivers/scratch_memory.h"

using namespace vlmadapt;
using namespace vlmadapt::cache_retrieval;

extern "C" {

// sizes, pointers: as forward_params, and then the limits of a chunk: bytes, queries, blocks
int chunked_forward(const int64_t* n, void* const* p) {
  const ForwardParams f = forward_params(n, p);
  const Limits limits{n[13], n[14], n[15]};
  const ScratchMemory workspace(forward_chunked_workspace(f, limits));
  PlainProducts products;
  return forward_chunked(f, workspace.bytes, products, nullptr, limits);
}

// sizes, pointers: as backward_params, and then the limits of a chunk: bytes, queries
int chunked_backward(const int64_t* n, void* const* p) {
  const BackwardParams b = backward_params(n, p);
  const Limits limits{n[9], n[10]};
  const ScratchMemory workspace(backward_chunked_workspace(b, limits));
  PlainProducts products;
  return backward_chunked(b, workspace.bytes, products, nullptr, limits);
}

// sizes: queries, keys, bytes a pair, bytes a query; pointers: out [2]: queries and keys at once
int chunked_sizes(const int64_t* n, void* const* p) {
  const Chunks chunks = chunks_of(n[0], n[1], n[2], n[3], {});
  memcpy(p[0], &chunks, sizeof chunks);
  return cudaSuccess;
}

// sizes: dtype, precision, route, queries, keys, width; pointers: out [2]: whether forward and backward are chunked
int chunked_route(const int64_t* n, void* const* p) {
  ForwardParams f{};
  BackwardParams b{};
  f.dtype = b.dtype = static_cast<Dtype>(n[0]);
  f.num_queries = b.num_queries = n[3];
  f.num_entries = b.num_keys = n[4];
  f.image.width = b.side.width = n[5];
  const auto route = static_cast<Route>(n[2]);
  const int64_t found[] = {forward_is_chunked(f, route, static_cast<Precision>(n[1])), backward_is_chunked(b, route)};
  memcpy(p[0], found, sizeof found);
  return cudaSuccess;
}

}  // extern "C"
