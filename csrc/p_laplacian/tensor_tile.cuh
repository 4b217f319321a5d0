// Products of 16-bit matrices on tensor cores, in and out of the tiles of register_tile.cuh; of other types the
// functions there. A warp has sixteen owned rows and all 64 rows of the other side.
//
// Nothing is rounded that is not elsewhere: products of two 16-bit numbers are exact, a sum of rows takes its weights
// as two tf32 numbers each, of which 22 bits come together, and tf32 holds every 16-bit number.
#pragma once

#include <type_traits>

#include "common/ptx.cuh"
#include "p_laplacian/register_tile.cuh"

namespace vlmadapt::p_laplacian {

constexpr int kTensorChunk = 64;                 // columns of 16 bits at once
constexpr int kTensorStride = 2 * kChunkStride;  // 144 bytes: eight rows fall into different banks, 16 bytes each

struct alignas(16) EightElements {
  uint16_t at[8];
};

// to[r, c] = matrix[first + r, column + c] for the block's 64 rows, zero outside, up to a multiple of eight.
template <class E>
__device__ __forceinline__ void load_bits(uint16_t* to, const Matrix<E>& matrix, int64_t first, int64_t column,
                                          int width) {
  const auto* data = reinterpret_cast<const uint16_t*>(matrix.data);
  const bool wide = reinterpret_cast<uintptr_t>(data) % alignof(EightElements) == 0 && matrix.width % 8 == 0;
  const int c = static_cast<int>(threadIdx.x) % 8 * 8;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const int row = static_cast<int>(threadIdx.x) / 8 + 16 * n;
    const uint16_t* from = data + (first + row) * matrix.width + column + c;
    EightElements x{};
    if (first + row < matrix.rows && c < width) {
      if (wide) {
        x = *reinterpret_cast<const EightElements*>(from);
      } else {
#pragma unroll
        for (int k = 0; k < 8; ++k)
          if (c + k < width) x.at[k] = from[k];
      }
    }
    *reinterpret_cast<EightElements*>(to + row * kTensorStride + c) = x;
  }
}

// sums[i][m] = own[own_row(i)] . other[other_row(m)] over the whole width. The arrays and the pairs must be free; it
// ends with the arrays in use, and every thread has read its own pairs.
template <class E>
__device__ __forceinline__ void tensor_products(PairSums<float>& sums, const Block<float>& b, const Matrix<E>& own,
                                                int64_t first_own, const Matrix<E>& other, int64_t first_other) {
  auto *left = reinterpret_cast<uint16_t*>(b.own), *right = reinterpret_cast<uint16_t*>(b.other);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  float d[8][4] = {};
  for (int64_t column = 0; column < own.width; column += kTensorChunk) {
    const int64_t columns = own.width - column;
    const int width = columns < kTensorChunk ? static_cast<int>(columns) : kTensorChunk;
    if (column > 0) __syncthreads();
    load_bits(left, own, first_own, column, width);
    load_bits(right, other, first_other, column, width);
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < width; c += 16) {
      uint32_t x[4];
      ptx::load_matrices(x, left + (warp_row + lane % 16) * kTensorStride + c + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        uint32_t y[4];
        ptx::load_matrices(y, right + (16 * n + lane % 8 + lane / 16 * 8) * kTensorStride + c + lane / 8 % 2 * 8);
        ptx::mma<E>(d[2 * n], x, {y[0], y[1]});
        ptx::mma<E>(d[2 * n + 1], x, {y[2], y[3]});
      }
    }
  }
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = warp_row + lane / 4 + r / 2 * 8, key = 8 * n + lane % 4 * 2 + r % 2;
      b.pairs[row * kPairStride + key % kLanes * kOthersEach + key / kLanes] = d[n][r];
    }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kOwnedEach<float>; ++i) {
    const Four<float> x = four(b.pairs + b.own_row(i) * kPairStride + kOthersEach * b.lane);
#pragma unroll
    for (int m = 0; m < kOthersEach; ++m) sums[i][m] = x.at[m];
  }
}

// As add_pairs.
template <class E, class Merge>
__device__ __forceinline__ void tensor_add_pairs(float* to, int64_t rows, const Block<float>& b, const float* pairs,
                                                 bool fresh, const Matrix<E>& other, int64_t first_other, bool there,
                                                 const Merge& merge) {
  const int group = static_cast<int>(threadIdx.x) % 32 / 4, quad = static_cast<int>(threadIdx.x) % 4;
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + group;
  for (int64_t column = (other.width - 1) / kChunk * kChunk; column >= 0 && other.width > 0; column -= kChunk) {
    const Chunk chunk(other.width, column);
    __syncthreads();  // the pairs are there, and the chunk before has been read
    if (!there) {
      load_rows<kOthers>(b.other, other, first_other, column, chunk);
      __syncthreads();
    }
    there = false;
    float d[kChunk / 8][4] = {};
#pragma unroll
    for (int j = 0; j < kLanes; j += 4) {
      // Four keys of a row, sixteen apart; what order keys come in does not matter where both sides have the same.
      const Four<float> upper = four(pairs + row * kPairStride + kOthersEach * (quad + j));
      const Four<float> lower = four(pairs + (row + 8) * kPairStride + kOthersEach * (quad + j));
#pragma unroll
      for (int m = 0; m < kOthersEach; m += 2) {
        const float weights[4] = {upper.at[m], lower.at[m], upper.at[m + 1], lower.at[m + 1]};
        uint32_t high[4], low[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          high[k] = ptx::to_tf32(weights[k]);
          low[k] = ptx::to_tf32(weights[k] - __uint_as_float(high[k]));
        }
        const float* x = b.other + (quad + j + kLanes * m) * kChunkStride + group;
#pragma unroll
        for (int n = 0; n < kChunk / 8; ++n) {
          if (8 * n >= chunk.width) continue;
          const bool inside = 8 * n + group < chunk.width;
          const uint32_t y[2] = {inside ? __float_as_uint(x[8 * n]) : 0,
                                 inside ? __float_as_uint(x[kLanes * kChunkStride + 8 * n]) : 0};
          ptx::mma<float>(d[n], high, y);
          ptx::mma<float>(d[n], low, y);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kChunk / 8; ++n)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int own = row + r / 2 * 8, c = 8 * n + 2 * quad + r % 2;
        if (own >= rows || c >= chunk.width) continue;
        float* at = to + own * other.width + column + c;
        *at = merge(own, fresh ? 0.f : *at, d[n][r]);
      }
  }
}

// Whether tensor cores take products of these matrices.
template <class L, class R>
constexpr bool kOnTensorCores = std::is_same<L, R>::value && sizeof(L) == 2;

template <class L, class R, class T>
__device__ __forceinline__ void products(PairSums<T>& sums, const Block<T>& b, const Matrix<L>& own, int64_t first_own,
                                         const Matrix<R>& other, int64_t first_other) {
  if constexpr (kOnTensorCores<L, R>)
    tensor_products(sums, b, own, first_own, other, first_other);
  else
    pair_products(sums, b, own, first_own, other, first_other);
}

template <class E, class T, class Merge>
__device__ __forceinline__ void add_rows(T* to, int64_t rows, const Block<T>& b, const T* pairs, bool fresh,
                                         const Matrix<E>& other, int64_t first_other, bool there, const Merge& merge) {
  if constexpr (sizeof(E) == 2)
    tensor_add_pairs(to, rows, b, pairs, fresh, other, first_other, there, merge);
  else
    add_pairs(to, rows, b, pairs, fresh, other, first_other, there, merge);
}

}  // namespace vlmadapt::p_laplacian
