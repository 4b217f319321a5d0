// How many multiprocessors the current device has.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace vlmadapt {

inline int64_t multiprocessors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    return 1;
  return count;
}

}  // namespace vlmadapt
