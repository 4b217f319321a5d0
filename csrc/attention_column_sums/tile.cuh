// Tiles of 32 owned rows by 32 rows of the other side, 128 threads. Four threads share a row; thread `quad` of a row
// has the columns quad, quad + 4, ..., eight of them. Matrices of any width go by in chunks of 32 columns through two
// shared arrays, so that shared memory does not grow with a head's width. All arithmetic is multiply-add in the
// accumulation type.
#pragma once

#include "p_laplacian/device.cuh"

namespace vlmadapt::attention_column_sums {

using p_laplacian::kThreads;
using p_laplacian::Matrix;
using p_laplacian::widen;

constexpr int kTile = 32;
constexpr int kShare = 8;           // columns of a thread
constexpr int kStride = kTile + 1;  // rows of a shared array fall into different banks
constexpr int kArray = kTile * kStride;

// to[r, c] = matrix[first + r, column + c], zero outside.
template <class E, class T>
__device__ __forceinline__ void load_chunk(T* to, const Matrix<E>& matrix, int64_t first, int64_t column) {
#pragma unroll 4
  for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
    const int r = i / kTile, c = i % kTile;
    const bool inside = first + r < matrix.rows && column + c < matrix.width;
    to[r * kStride + c] = inside ? widen(matrix.data[(first + r) * matrix.width + column + c]) : T(0);
  }
}

template <class T>
struct Work {
  T *left, *right;
  int row, quad;

  __device__ int column(int m) const { return quad + 4 * m; }
};

// Calls term(m, own[row, c], other[column(m), c]) for all columns c, and for zeros up to a multiple of four. Ends with
// the arrays in use: a barrier must follow.
template <class L, class R, class T, class Term>
__device__ __forceinline__ void each_pair(const Work<T>& w, const Matrix<L>& own, int64_t first_own,
                                          const Matrix<R>& other, int64_t first_other, const Term& term) {
  for (int64_t column = 0; column < own.width; column += kTile) {
    __syncthreads();
    load_chunk(w.left, own, first_own, column);
    load_chunk(w.right, other, first_other, column);
    __syncthreads();
    const int width = own.width - column < kTile ? static_cast<int>(own.width - column) : kTile;
#pragma unroll 1
    for (int first = 0; first < width; first += 4)
#pragma unroll
      for (int c = first; c < first + 4; ++c) {
        const T x = w.left[w.row * kStride + c];
#pragma unroll
        for (int m = 0; m < kShare; ++m) term(m, x, w.right[w.column(m) * kStride + c]);
      }
  }
}

// sums[m] = own[row] . other[column(m)] over the whole width.
template <class L, class R, class T>
__device__ __forceinline__ void products(T (&sums)[kShare], const Work<T>& w, const Matrix<L>& own, int64_t first_own,
                                         const Matrix<R>& other, int64_t first_other) {
#pragma unroll
  for (int m = 0; m < kShare; ++m) sums[m] = T(0);
  each_pair(w, own, first_own, other, first_other, [&](int m, T x, T y) { sums[m] += x * y; });
}

// sums[m] = sum over the other rows j of weights[row, j] right[j, column(m)], the right array holding a chunk.
template <class T>
__device__ __forceinline__ void gather(T (&sums)[kShare], const Work<T>& w, const T* weights) {
#pragma unroll
  for (int m = 0; m < kShare; ++m) sums[m] = T(0);
#pragma unroll 4
  for (int j = 0; j < kTile; ++j) {
    const T weight = weights[w.row * kStride + j];
#pragma unroll
    for (int m = 0; m < kShare; ++m) sums[m] += weight * w.right[j * kStride + w.column(m)];
  }
}

// Calls store(to[row, c], sum_j weights[row, j] other[first_other + j, c]) for the owned rows and all columns c.
template <class E, class T, class Store>
__device__ __forceinline__ void add_weighted(T* to, int64_t first_own, int64_t num_own, const Work<T>& w,
                                             const T* weights, const Matrix<E>& other, int64_t first_other,
                                             const Store& store) {
  for (int64_t column = 0; column < other.width; column += kTile) {
    __syncthreads();
    load_chunk(w.right, other, first_other, column);
    __syncthreads();
    T sums[kShare];
    gather(sums, w, weights);
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int64_t c = column + w.column(m);
      if (first_own + w.row < num_own && c < other.width) store(to[(first_own + w.row) * other.width + c], sums[m]);
    }
  }
}

// Of the four threads that share a row.
template <class T>
__device__ __forceinline__ T row_sum(T x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
template <class T>
__device__ __forceinline__ T row_max(T x) {
  const T y = __shfl_xor_sync(0xffffffffu, x, 1);
  x = y > x ? y : x;
  const T z = __shfl_xor_sync(0xffffffffu, x, 2);
  return z > x ? z : x;
}

}  // namespace vlmadapt::attention_column_sums
