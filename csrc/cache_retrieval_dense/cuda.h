// Launchers of the CUDA kernels of cache retrieval with values, as those of cache_retrieval/cuda.h.
#pragma once

#include "cache_retrieval/cuda.h"

namespace vlmadapt::cache_retrieval {

int64_t dense_forward_workspace(const DenseForwardParams& params);
int64_t dense_backward_workspace(const BackwardParams& params);

cudaError_t dense_forward_cuda(const DenseForwardParams& params, Precision precision, void* workspace,
                               cudaStream_t stream);
// Of params with values, which know no multiplicity and no weight.
cudaError_t dense_backward_cuda(const BackwardParams& params, Precision precision, void* workspace,
                                cudaStream_t stream);

}  // namespace vlmadapt::cache_retrieval
