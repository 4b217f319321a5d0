// Launchers of the CUDA kernels. Pointers in the parameters are device pointers; nothing synchronises or allocates,
// so a call may be captured into a CUDA graph. The result is the launch error, if any.
#pragma once

#include <cuda_runtime.h>

#include "p_laplacian/kernel.h"

namespace vlmadapt::p_laplacian {

// Bytes of scratch memory that a call needs; it needs no initial value.
int64_t forward_workspace(const ForwardParams& params);
int64_t backward_workspace(const BackwardParams& params);

cudaError_t forward_cuda(const ForwardParams& params, void* workspace, cudaStream_t stream);
cudaError_t backward_cuda(const BackwardParams& params, void* workspace, cudaStream_t stream);

}  // namespace vlmadapt::p_laplacian
