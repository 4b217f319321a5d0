// The route of cache retrieval through a library's matrix products, a chunk of keys at a time: products into memory
// that the L2 cache holds, then one kernel for all that follows. As cache_retrieval/cuda.h otherwise.
#pragma once

#include "cache_retrieval/cuda.h"
#include "cache_retrieval_chunked/products.h"

namespace vlmadapt::cache_retrieval {

// Bytes of the products of a chunk. An A100 has 40 MB of L2 cache and an H200 50, in two halves that may both keep a
// line: of the 20 MB that are sure, 16 for products leave 4 to the keys that stream through. With a smaller cache a
// part goes to memory and back.
constexpr int64_t kChunkBytes = int64_t{16} << 20;
// Of those of the backward's chunks: what binds there is not the memory but products of too few tiles. 64 MB hold 8,192
// keys and 1,024 queries in bfloat16: 64 x 2 tiles for the keys' gradient of width 512, where 16 MB would leave 16 x 2.
constexpr int64_t kGradientBytes = int64_t{64} << 20;
// With 1,024 queries and 4,096 keys a chunk of float fills it: enough tiles of 128 x 256 for 132 multiprocessors.
constexpr int64_t kQueriesAtOnce = 1024;
// Of a chunk's class sums: a few times what 132 multiprocessors hold at once. With a block for every eight classes most
// would begin for nothing, since a chunk has a part of the classes.
constexpr int64_t kSumBlocks = 2048;

// Smaller ones only where tests want several chunks of a small problem.
struct Limits {
  int64_t bytes = kChunkBytes;
  int64_t queries = kQueriesAtOnce;
  int64_t blocks = kSumBlocks;
};

int64_t forward_chunked_workspace(const ForwardParams& params, const Limits& limits = {});
int64_t backward_chunked_workspace(const BackwardParams& params, const Limits& limits = {kGradientBytes});

cudaError_t forward_chunked(const ForwardParams& params, void* workspace, Products& products, cudaStream_t stream,
                            const Limits& limits = {});
// Of params with labels, in any type but f16, whose range the weights may leave.
cudaError_t backward_chunked(const BackwardParams& params, void* workspace, Products& products, cudaStream_t stream,
                             const Limits& limits = {kGradientBytes});

}  // namespace vlmadapt::cache_retrieval
