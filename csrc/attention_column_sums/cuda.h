// Launchers of the CUDA kernels. Pointers in the parameters are device pointers; nothing synchronises or allocates,
// so a call may be captured into a CUDA graph. The result is the launch error, if any.
#pragma once

#include <cuda_runtime.h>

#include "attention_column_sums/kernel.h"

namespace vlmadapt::attention_column_sums {

// Bytes of scratch memory that a backward call needs; it needs no initial value.
int64_t backward_workspace(const BackwardParams& params);

cudaError_t forward_cuda(const ForwardParams& params, cudaStream_t stream);
cudaError_t backward_cuda(const BackwardParams& params, void* workspace, cudaStream_t stream);

}  // namespace vlmadapt::attention_column_sums
