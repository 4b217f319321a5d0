// The route of cache retrieval through a library's matrix products, a chunk of keys at a time: products into memory that
// the L2 cache holds, then one kernel for all that follows. As cache_retrieval/cuda.h otherwise.
#pragma once

#include "cache_retrieval/cuda.h"
#include "cache_retrieval_chunked/chunks.h"
#include "cache_retrieval_chunked/products.h"

namespace vlmadapt::cache_retrieval {

int64_t forward_chunked_workspace(const ForwardParams& params, const Limits& limits = {});
int64_t backward_chunked_workspace(const BackwardParams& params, const Limits& limits = {});

cudaError_t forward_chunked(const ForwardParams& params, void* workspace, Products& products, cudaStream_t stream,
                            const Limits& limits = {});
// Of params with labels, in any type but f16, whose range the weights may leave.
cudaError_t backward_chunked(const BackwardParams& params, void* workspace, Products& products, cudaStream_t stream,
                             const Limits& limits = {});

}  // namespace vlmadapt::cache_retrieval
