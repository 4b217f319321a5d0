// Kernels with one planted mistake each; the last two are correct. test_bugs.py shows which build finds which.
#pragma once

#include <cstdint>

#include "common/cuda_launch.h"
#include "common/ptx.cuh"

namespace bugs {

__global__ void uninitialised_shared(const float*, float* out) {
  __shared__ float s[64];
  if (threadIdx.x < 32) s[threadIdx.x] = 1.f;
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];  // the upper half was never written
}

__global__ void static_shared_overrun(const float*, float* out) {
  __shared__ float s[64];
  s[threadIdx.x + 1] = 1.f;
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void dynamic_shared_overrun(const float*, float* out) {
  CUDA_DYN_SMEM(float, s);
  s[threadIdx.x + 1] = 1.f;
  __syncthreads();
  out[threadIdx.x] = threadIdx.x ? s[threadIdx.x] : 0.f;
}

__global__ void global_overrun(const float*, float* out) {
  for (int i = threadIdx.x; i <= 64; i += 64) out[i] = 1.f;  // should be <
}

__global__ void global_overread(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x + 1]; }

__global__ void missing_barrier(const float* in, float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[63 - threadIdx.x];
}

__global__ void missing_second_barrier(const float* in, float* out) {
  __shared__ float s[64];
  float sum = 0.f;
  for (int k = 0; k < 2; ++k) {
    s[threadIdx.x] = in[threadIdx.x] + k;
    __syncthreads();
    sum += s[63 - threadIdx.x];  // the next round may overwrite this first
  }
  out[threadIdx.x] = sum;
}

__global__ void divergent_barrier(const float*, float* out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else {
    out[threadIdx.x] = 2.f;
    __syncthreads();
  }
  out[threadIdx.x] = 1.f;
}

__global__ void early_return(const float*, float* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = 1.f;
}

__global__ void partial_mask(const float* in, float* out) {
  float v = in[threadIdx.x];
  if (threadIdx.x < 16) v += __shfl_down_sync(0xffffffffu, v, 1);
  out[threadIdx.x] = v;
}

__global__ void shuffle_from_outside(const float* in, float* out) {
  float v = in[threadIdx.x];
  if (threadIdx.x < 16) v = __shfl_sync(0xffffu, v, 20);
  out[threadIdx.x] = v;
}

__global__ void copy_without_wait(const float* in, float* out) {
  CUDA_DYN_SMEM(float, s);
  if (threadIdx.x < 16) vlmadapt::ptx::copy16_async(&s[threadIdx.x * 4], &in[threadIdx.x * 4], 16);
  vlmadapt::ptx::commit_copies();
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
  vlmadapt::ptx::wait_copies<0>();
}

__global__ void copy_wait_without_barrier(const float* in, float* out) {
  CUDA_DYN_SMEM(float, s);
  if (threadIdx.x < 16) vlmadapt::ptx::copy16_async(&s[threadIdx.x * 4], &in[threadIdx.x * 4], 16);
  vlmadapt::ptx::commit_copies();
  vlmadapt::ptx::wait_copies<0>();
  out[threadIdx.x] = s[63 - threadIdx.x];  // another thread's copies
}

__global__ void copy_into_a_tile_in_use(const float* in, float* out) {
  CUDA_DYN_SMEM(float, s);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < 16) vlmadapt::ptx::copy16_async(&s[threadIdx.x * 4], &in[threadIdx.x * 4], 0);
  vlmadapt::ptx::commit_copies();
  out[threadIdx.x] = s[63 - threadIdx.x];  // the copy may have zeroed it already
  vlmadapt::ptx::wait_copies<0>();
}

__global__ void missing_syncwarp(const float* in, float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[threadIdx.x ^ 31];
}

__global__ void unsynchronised_sum(const float* in, float* out) { out[0] += in[threadIdx.x]; }

__global__ void misaligned_vector(const float* in, float* out) {
  const float4 v = *reinterpret_cast<const float4*>(in + 1 + 4 * (threadIdx.x % 8));
  out[threadIdx.x] = v.x;
}

__global__ void correct_reversal(const float* in, float* out) {
  CUDA_DYN_SMEM(float, s);
  if (threadIdx.x < 16) vlmadapt::ptx::copy16_async(&s[threadIdx.x * 4], &in[threadIdx.x * 4], 16);
  vlmadapt::ptx::commit_copies();
  vlmadapt::ptx::wait_copies<0>();
  __syncthreads();
  out[threadIdx.x] = s[63 - threadIdx.x];
}

__global__ void correct_syncwarp(const float* in, float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = s[threadIdx.x ^ 31];
}

}  // namespace bugs
