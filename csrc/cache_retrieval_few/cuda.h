// Launcher of the kernel for few queries, as those of cache_retrieval/cuda.h. Products are exact in the accumulation
// type, whatever the setting of TF32.
#pragma once

#include "cache_retrieval/cuda.h"

namespace vlmadapt::cache_retrieval {

// Whether it takes such a call: one stream, at most 16 queries, rows that 16-byte loads may read.
bool takes_few(const ForwardParams& params);

int64_t few_workspace(const ForwardParams& params);
cudaError_t few_forward(const ForwardParams& params, void* workspace, cudaStream_t stream);

}  // namespace vlmadapt::cache_retrieval
