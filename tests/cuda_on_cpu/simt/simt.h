// Compiles CUDA device code with a host compiler: force-included (-include simt.h) before the kernel's own source.
// Test-only; the package never sees it.
#pragma once
#ifdef __CUDACC__
#error "simt.h is for the host compiler"
#endif
#define SIMT_EMU 1
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Execution-space qualifiers mean nothing here, save that shared memory is one static object (one block at a time).
#undef __shared__
#undef __constant__
#undef __device__
#undef __global__
#undef __host__
#undef __launch_bounds__
#undef __forceinline__
#define __shared__ static
#define __constant__
#define __device__
#define __global__
#define __host__
#define __launch_bounds__(...)
#define __forceinline__ inline

#include "core.h"

#define threadIdx (simt::g.current->tid)
#define blockIdx (simt::g.block)
#define blockDim (simt::g.block_dim)
#define gridDim (simt::g.grid_dim)
static constexpr int warpSize = 32;

#include "atomics.h"
#include "intrinsics.h"
#include "mma.h"
#include "warp.h"
