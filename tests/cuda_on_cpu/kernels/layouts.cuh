// Bare tensor-core instructions: lane l's registers come from and go to row l of the buffers.
#pragma once

#include "common/cuda_launch.h"
#include "common/ptx.cuh"

namespace layouts {

template <class T>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, const float* c, float* d) {
  const int lane = threadIdx.x;
  uint32_t fragment_a[4], fragment_b[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) fragment_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) fragment_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) sum[i] = c[lane * 4 + i];
  vlmadapt::ptx::mma<T>(sum, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sum[i];
}

// in: 32 rows of 8 elements, row l given by lane l.
template <bool transposed>
__global__ void ldmatrix_kernel(const uint16_t* in, uint32_t* out) {
  __shared__ __align__(16) uint16_t rows[32 * 8];
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) rows[lane * 8 + i] = in[lane * 8 + i];
  __syncwarp();
  uint32_t fragment[4];
  if (transposed)
    vlmadapt::ptx::load_matrices_transposed(fragment, &rows[lane * 8]);
  else
    vlmadapt::ptx::load_matrices(fragment, &rows[lane * 8]);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = fragment[i];
}

__global__ void tf32_kernel(const float* in, uint32_t* out) {
  out[threadIdx.x] = vlmadapt::ptx::to_tf32(in[threadIdx.x]);
}

}  // namespace layouts
