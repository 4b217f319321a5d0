// Launchers of the CUDA kernels. Pointers in the parameters are device pointers; nothing synchronises or allocates,
// so a call may be captured into a CUDA graph. The result is the launch error, if any.
#pragma once

#include <cuda_runtime.h>

#include "cache_retrieval/kernel.h"

namespace vlmadapt::cache_retrieval {

// How float matrices are multiplied. The other types have one way each.
enum class Precision : int { exact = 0, tf32 = 1 };

// Bytes of device memory a call needs besides its parameters; the memory is scratch and needs no initial value.
int64_t forward_workspace(const ForwardParams& params);
int64_t backward_workspace(const BackwardParams& params);

cudaError_t forward_cuda(const ForwardParams& params, Precision precision, void* workspace, cudaStream_t stream);
cudaError_t backward_cuda(const BackwardParams& params, Precision precision, void* workspace, cudaStream_t stream);

// Needs `scores`; adds to `correct` when that is given.
cudaError_t grid_cuda(const GridParams& params, Precision precision, cudaStream_t stream);

}  // namespace vlmadapt::cache_retrieval
