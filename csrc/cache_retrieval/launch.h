// What the launchers of both forms share: how work is split, and how the parts are added up.
#pragma once

#include "cache_retrieval/backward.cuh"
#include "cache_retrieval/kernel.h"

namespace vlmadapt::cache_retrieval {

constexpr int64_t kLargestSplit = 64, kLargestGradientSplit = 8;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

inline int64_t element_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }
inline int64_t accumulator_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }

inline bool aligned(const Side& s, Dtype dtype) {
  const auto start = reinterpret_cast<uintptr_t>(s.queries) | reinterpret_cast<uintptr_t>(s.keys);
  return start % 16 == 0 && s.width * element_bytes(dtype) % 16 == 0;
}

// How many parts to cut `tiles` into so that about two blocks a multiprocessor are there. Depends on the device, not
// on its load: the same device sums in the same order every time.
inline int64_t splits_for(int64_t owner_tiles, int64_t tiles, int64_t largest) {
  int device = 0, multiprocessors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    multiprocessors = 1;
  const int64_t wanted = divide_up(2 * static_cast<int64_t>(multiprocessors), owner_tiles < 1 ? 1 : owner_tiles);
  const int64_t parts = clamp(wanted, 1, clamp(tiles, 1, largest));
  return divide_up(tiles < 1 ? 1 : tiles, divide_up(tiles < 1 ? 1 : tiles, parts));  // no empty last part
}

inline int64_t backward_splits(int64_t num_owner, int64_t num_other) {
  return splits_for(divide_up(num_owner, kTile), divide_up(num_other, kTile), kLargestGradientSplit);
}

// Bytes of the parts of an [owners, width] result, when the other side is split.
inline int64_t split_bytes(int64_t num_owner, int64_t num_other, int64_t width, Dtype dtype) {
  const int64_t splits = backward_splits(num_owner, num_other);
  return splits > 1 ? splits * num_owner * width * accumulator_bytes(dtype) : 0;
}

template <class T>
cudaError_t launch_sum(const void* partial, void* out, int64_t count, int64_t splits, cudaStream_t stream) {
  const int64_t blocks = clamp(divide_up(count, 256), 1, 4096);
  CUDA_LAUNCH(sum_kernel<T>, grid_of(blocks), dim3(256), 0, stream, static_cast<const T*>(partial),
              static_cast<T*>(out), count, static_cast<int>(splits));
  return cudaGetLastError();
}

}  // namespace vlmadapt::cache_retrieval
