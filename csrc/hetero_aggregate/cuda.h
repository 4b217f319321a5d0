// Launchers of the CUDA kernels. Pointers in the params are device pointers, but for the arrays of matrices and
// relations themselves; nothing synchronises or allocates, so a call may be captured into a CUDA graph. The result is
// the launch error, if any.
#pragma once

#include <cuda_runtime.h>

#include "hetero_aggregate/kernel.h"

namespace vlmadapt::hetero_aggregate {

// Bytes of device memory a params needs besides its parameters; the memory is scratch and needs no initial value.
int64_t aggregate_workspace(const AggregateParams& params);

cudaError_t aggregate_cuda(const AggregateParams& params, void* workspace, cudaStream_t stream);

}  // namespace vlmadapt::hetero_aggregate
