// Two small kernels that exercise the harness itself: barriers and shared tiles, and warp shuffles.
#pragma once

#include <cstdint>

#include "common/cuda_launch.h"

namespace demo {

// C[m, n] = A[m, k] B[k, n], row-major; one thread an element, tiles through shared memory.
template <int tile>
__global__ void matmul_kernel(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c,
                              int64_t m, int64_t n, int64_t k) {
  __shared__ float tile_a[tile][tile + 1];
  __shared__ float tile_b[tile][tile + 1];
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * tile + ty, col = static_cast<int64_t>(blockIdx.x) * tile + tx;
  float sum = 0.f;
  for (int64_t start = 0; start < k; start += tile) {
    tile_a[ty][tx] = row < m && start + tx < k ? a[row * k + start + tx] : 0.f;
    tile_b[ty][tx] = start + ty < k && col < n ? b[(start + ty) * n + col] : 0.f;
    __syncthreads();
    for (int i = 0; i < tile; ++i) sum += tile_a[ty][i] * tile_b[i][tx];
    __syncthreads();
  }
  if (row < m && col < n) c[row * n + col] = sum;
}

// y[r, :] = softmax(x[r, :]); one warp a row.
__global__ void softmax_kernel(const float* __restrict__ x, float* __restrict__ y, int64_t rows, int64_t cols) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;  // a whole warp, and there is no block barrier below
  float top = -INFINITY, sum = 0.f;
  for (int64_t i = lane; i < cols; i += 32) top = fmaxf(top, x[row * cols + i]);
  for (int step = 16; step; step >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
  for (int64_t i = lane; i < cols; i += 32) sum += __expf(x[row * cols + i] - top);
  for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  for (int64_t i = lane; i < cols; i += 32) y[row * cols + i] = __expf(x[row * cols + i] - top) / sum;
}

}  // namespace demo
