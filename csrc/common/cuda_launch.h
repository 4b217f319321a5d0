// The two spellings that let one kernel source run on a GPU and on the CPU emulation of tests/cuda_on_cpu.
//
//   CUDA_LAUNCH((kernel<T, 64>), grid, block, shared_bytes, stream, arguments...)
//   CUDA_DYN_SMEM(float, tile)          the dynamic shared memory of the block, as `float* tile`
//
// A launcher ends with `return cudaGetLastError()`: nothing here synchronises.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifdef SIMT_EMU

#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ((void)(stream), simt::launch(kernel, #kernel, dim3(grid), dim3(block), (shared_bytes), __VA_ARGS__))
#define CUDA_DYN_SMEM(type, name) type* name = reinterpret_cast<type*>(simt::g.dynamic_shared)

#else

#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  (kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define CUDA_DYN_SMEM(type, name)                                \
  extern __shared__ __align__(128) unsigned char name##_bytes[]; \
  type* name = reinterpret_cast<type*>(name##_bytes)

#endif

namespace vlmadapt {

// The grid of so many blocks. More than fit into 32 bits become a number that the launch refuses (the limit is 2^31 -
// 1) instead of wrapping around to a small grid that leaves results unwritten.
inline dim3 grid_of(int64_t x, int64_t y = 1) {
  constexpr int64_t largest = UINT32_MAX;
  return dim3(static_cast<unsigned>(x < largest ? x : largest), static_cast<unsigned>(y < largest ? y : largest));
}

// Beyond 48 KiB of dynamic shared memory a kernel has to ask; call before the launch.
template <class Kernel>
cudaError_t allow_shared_memory(Kernel kernel, int bytes) {
  if (bytes <= 48 * 1024) return cudaSuccess;
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                              bytes);
}

}  // namespace vlmadapt
