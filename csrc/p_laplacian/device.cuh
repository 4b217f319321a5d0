// What the CUDA kernels share beside their tiles: types, matrices, sums over a block, and which pairs exist.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common/cuda_launch.h"
#include "p_laplacian/kernel.h"

namespace vlmadapt::p_laplacian {

constexpr int kThreads = 128;

template <class E>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class E>
using Accumulator = typename AccumulatorOf<E>::type;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

// What is done for every pair, in powers of two and, of floats, in the approximations of the special function units:
// two units in the last place, and of a logarithm 2^-22 at most where it is near zero.
constexpr double kLog2OfE = 1.4426950408889634, kLogOf2 = 0.69314718055994531;
__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }
__device__ __forceinline__ float log_to_two(float x) { return __log2f(x); }
__device__ __forceinline__ double log_to_two(double x) { return log2(x); }
__device__ __forceinline__ float quotient(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ double quotient(double a, double b) { return a / b; }

// Constants of the accumulation type; literals, since device code may not call numeric_limits everywhere.
template <class T>
struct Limits;
template <>
struct Limits<float> {
  static constexpr float smallest = 1.17549435e-38f, coincidence = static_cast<float>(coincidence_f32);
};
template <>
struct Limits<double> {
  static constexpr double smallest = 2.2250738585072014e-308, coincidence = coincidence_f64;
};
template <class T>
__device__ __forceinline__ T infinity() {
  return static_cast<T>(INFINITY);
}

// A head's matrix [rows, width].
template <class E>
struct Matrix {
  const E* data;
  int64_t rows, width;

  __device__ Matrix(const void* tensor, int64_t head, int64_t rows_, int64_t width_)
      : data(static_cast<const E*>(tensor) + head * rows_ * width_), rows(rows_), width(width_) {}
};

// The sum over the block; `shared` has room for kThreads.
template <class T>
__device__ __forceinline__ T block_sum(T* shared, T x) {
  __syncthreads();  // what was there has been read
  shared[threadIdx.x] = x;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  return shared[0];
}

// One head's view of what decides which pairs exist.
template <class T>
struct Pairs {
  int64_t offset, key_end;
  const AttentionScores& p;
  int64_t mask_start;

  __device__ Pairs(const AttentionScores& scores, int64_t head)
      : offset(scores.num_keys - scores.num_queries), key_end(scores.num_keys), p(scores) {
    const int64_t batch = head / p.heads;
    if (p.key_lengths) key_end = p.key_lengths[batch] < key_end ? p.key_lengths[batch] : key_end;
    mask_start = batch * p.mask_strides[0] + head % p.heads * p.mask_strides[1];
  }

  // The masked score of an existing pair; scores are in units of 1 / `unit`.
  __device__ T masked(T score, int64_t query, int64_t key, T unit) const {
    if (p.mask_kind == MaskKind::none) return score;
    const int64_t at = mask_start + query * p.mask_strides[2] + key * p.mask_strides[3];
    if (p.mask_kind == MaskKind::additive) return score + unit * static_cast<const T*>(p.mask)[at];
    return static_cast<const uint8_t*>(p.mask)[at] ? score : -infinity<T>();
  }
};

}  // namespace vlmadapt::p_laplacian
