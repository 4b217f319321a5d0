// The two spellings that let one kernel source run on a GPU and on the CPU emulation of tests/cuda_on_cpu.
//
//   CUDA_LAUNCH((kernel<T, 64>), grid, block, shared_bytes, stream, arguments...)
//   CUDA_DYN_SMEM(float, tile)          the dynamic shared memory of the block, as `float* tile`
//
// A launcher ends with `return cudaGetLastError()`: nothing here synchronises.
#pragma once

#include <cuda_runtime.h>

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

// Beyond 48 KiB of dynamic shared memory a kernel has to ask; call before the launch.
template <class Kernel>
cudaError_t allow_shared_memory(Kernel kernel, int bytes) {
  if (bytes <= 48 * 1024) return cudaSuccess;
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                              bytes);
}

}  // namespace vlmadapt
