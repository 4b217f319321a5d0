// Tiles that stay in registers, of 16-bit matrices up to 128 columns wide (FlashAttention-2, arXiv 2307.08691). A block
// of four warps owns 64 rows, a warp sixteen of them; the pairs of those sixteen with a tile of keys are accumulators
// of mma.sync. Neighbouring accumulators are, packed, the left operand of the next product: weights of pairs go from
// the scores to the sums of rows without shared memory.
//
// Of a weight both its rounding to 16 bits and that of the rest are multiplied: 16 bits of bfloat16, 22 of float16.
#pragma once

#include "common/ptx.cuh"
#include "p_laplacian/register_tile.cuh"

namespace vlmadapt::p_laplacian {

// Keys at once: as many as the registers hold beside sums of so many columns.
template <int columns>
constexpr int kFlashKeys = columns > 64 ? 32 : 64;
template <int columns>
constexpr int kFlashStride = columns + 8;  // eight rows fall into different banks, 16 bytes each

// A warp's pairs with so many keys, or its sums of so many columns: eight of them a row of the array.
template <int n>
using Fragments = float[n / 8][4];

// A thread's place in its warp's fragments.
struct FlashPlace {
  int warp, lane, group, quad;

  __device__ FlashPlace()
      : warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32),
        group(lane / 4),
        quad(lane % 4) {}
  __device__ int row(int half) const { return 16 * warp + group + 8 * half; }  // of a block's own
  __device__ int other(int n, int r) const { return 8 * n + 2 * quad + r % 2; }
};

// Calls step(n, r) for all numbers of a thread.
template <int n, class Step>
__device__ __forceinline__ void each_of(const Step& step) {
#pragma unroll
  for (int k = 0; k < n / 8; ++k)
#pragma unroll
    for (int r = 0; r < 4; ++r) step(k, r);
}

// Copies to[r, c] = matrix[first + r, c], zero outside, up to whole sixteens of columns. Rows are of whole 16 bytes.
template <int rows, int stride, class E>
__device__ __forceinline__ void copy_rows(E* to, const Matrix<E>& matrix, int64_t first) {
  constexpr int pieces = stride / 8 - 1, step = kThreads / pieces;
  const int c = static_cast<int>(threadIdx.x) % pieces * 8, row = static_cast<int>(threadIdx.x) / pieces;
  if (c / 16 * 16 >= matrix.width) return;
  const E* from = matrix.data + (first + row) * matrix.width + c;  // nothing is read there beyond the matrix
#pragma unroll
  for (int r = 0; r < rows; r += step, from += step * matrix.width)
    ptx::copy16_async(to + (row + r) * stride + c, from, first + row + r < matrix.rows && c < matrix.width ? 16 : 0);
}

// to[n][r] = attention[first_query + row, first_key + other], zero outside of the bounds.
template <int n, class E>
__device__ __forceinline__ void load_pairs(Fragments<n>& to, const Matrix<E>& attention, int64_t first_query,
                                           int64_t first_key, const TileBounds& bounds, const FlashPlace& place) {
  struct alignas(2 * sizeof(E)) Two {
    E at[2];
  };
  const bool wide = attention.width % 2 == 0 && reinterpret_cast<uintptr_t>(attention.data) % sizeof(Two) == 0;
  const auto load_each = [&](const auto& load) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const E* row = attention.data + (first_query + place.row(half)) * attention.width + first_key + 2 * place.quad;
      const int left = place.row(half) < bounds.queries ? bounds.keys - 2 * place.quad : 0;
#pragma unroll
      for (int k = 0; k < n / 8; ++k) {
        const Two x = load(row + 8 * k, left - 8 * k);
        to[k][2 * half] = widen(x.at[0]);
        to[k][2 * half + 1] = widen(x.at[1]);
      }
    }
  };
  // Two loops, so that in either all loads are on their way before the first is waited for.
  if (wide)
    load_each([](const E* from, int left) { return left > 0 ? *reinterpret_cast<const Two*>(from) : Two{}; });
  else
    load_each([](const E* from, int left) { return Two{{left > 0 ? from[0] : E{}, left > 1 ? from[1] : E{}}}; });
}

// sums += left[16, width] other[n, width]^T.
template <int n, int stride, class E>
__device__ __forceinline__ void multiply_rows(Fragments<n>& sums, const E* left, const E* other, int width, int lane) {
#pragma unroll 1
  for (int c = 0; c < width; c += 16) {
    uint32_t x[4];
    ptx::load_matrices(x, left + lane % 16 * stride + c + lane / 16 * 8);
#pragma unroll
    for (int k = 0; k < n / 16; ++k) {
      uint32_t y[4];
      ptx::load_matrices(y, other + (16 * k + lane % 8 + lane / 16 * 8) * stride + c + lane / 8 % 2 * 8);
      ptx::mma<E>(sums[2 * k], x, {y[0], y[1]});
      ptx::mma<E>(sums[2 * k + 1], x, {y[2], y[3]});
    }
  }
}

// to[r] = |rows[r]|^2 for sixteen rows: the diagonal of their products with themselves, so that the same roundings
// are in it as in the products of two rows.
template <int stride, class E>
__device__ __forceinline__ void square_norms(float* to, const E* rows, int width, const FlashPlace& place) {
  Fragments<16> d = {};
  multiply_rows<16, stride>(d, rows, rows, width, place.lane);
  if (place.group / 2 != place.quad) return;
  to[place.group] = place.group % 2 == 0 ? d[0][0] : d[0][1];
  to[place.group + 8] = place.group % 2 == 0 ? d[1][2] : d[1][3];
}

struct alignas(8) TwoFloats {
  float at[2];
};

// The eight elements from `from` on.
template <class E>
__device__ __forceinline__ void load_eight(float (&to)[8], const E* from) {
  struct alignas(16) Eight {
    E at[8];
  };
  const Eight x = *reinterpret_cast<const Eight*>(from);
#pragma unroll
  for (int k = 0; k < 8; ++k) to[k] = widen(x.at[k]);
}

// As squared_distances, of differences: exact but for the rounding of their squares' sum.
template <int n, int stride, class E>
__device__ __forceinline__ void subtract_rows(Fragments<n>& squared, const E* own, const E* other, int width,
                                              const FlashPlace& place) {
  each_of<n>([&](int k, int r) { squared[k][r] = 0.f; });
#pragma unroll 1
  for (int c = 0; c < width; c += 8) {
    float x[2][8];
#pragma unroll
    for (int half = 0; half < 2; ++half) load_eight(x[half], own + (place.group + 8 * half) * stride + c);
#pragma unroll
    for (int k = 0; k < n / 8; ++k)
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        float y[8];
        load_eight(y, other + place.other(k, side) * stride + c);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float difference = x[half][i] - y[i];
            squared[k][2 * half + side] += difference * difference;
          }
      }
  }
}

// Squared distances of the warp's rows, which begin at `own`, from n others: |a|^2 + |b|^2 - 2 a b where that keeps
// them, else differences.
//
// Each of the three sums is of `width` products that are exact; whatever the order, and if every addition loses the
// last bit as tensor cores may, it is wrong by width 2^-23 times the sum of the products' sizes. With s = |a|^2 +
// |b|^2, 2 |a b| <= s, and with the three roundings of what is done with the sums, that is (2 width + 3) 2^-23 s at
// most. Where every pair of the warp has a squared distance of more than (2 width + 3) 2^-10 s, none is wrong by more
// than 2^-13 of itself, and no weight by more than |p - 2| 2^-14, an eighth of a rounding to float16. The comparison is
// false of NaN and of infinite sums, and close to where products leave the range of float.
template <int n, int stride, class E>
__device__ __forceinline__ void squared_distances(Fragments<n>& squared, const E* own, const float (&own_norms)[2],
                                                  const E* other, const float* norms, int width,
                                                  const FlashPlace& place) {
  each_of<n>([&](int k, int r) { squared[k][r] = 0.f; });
  multiply_rows<n, stride>(squared, own, other, width, place.lane);
  const float share = static_cast<float>(2 * width + 3) / 1024;
  bool far = true;
#pragma unroll
  for (int k = 0; k < n / 8; ++k) {
    const TwoFloats norm = *reinterpret_cast<const TwoFloats*>(norms + place.other(k, 0));
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float sum = own_norms[r / 2] + norm.at[r % 2];
      squared[k][r] = fmaf(-2.f, squared[k][r], sum);
      far = far && fmaf(-share, sum, squared[k][r]) > 1e-25f;
    }
  }
  if (!__all_sync(0xffffffffu, far)) subtract_rows<n, stride>(squared, own, other, width, place);
}

// Two numbers rounded to 16 bits, the first in the lower half; `rest` gets what that has lost, rounded likewise.
template <class E>
__device__ __forceinline__ uint32_t rounded(float first, float second, uint32_t& rest);
#define VLMADAPT_ROUNDED(E, Two, round)                                                       \
  template <>                                                                                 \
  __device__ __forceinline__ uint32_t rounded<E>(float first, float second, uint32_t& rest) { \
    const Two high = round(first, second);                                                    \
    const Two low = round(first - widen(high.x), second - widen(high.y));                     \
    rest = *reinterpret_cast<const uint32_t*>(&low);                                          \
    return *reinterpret_cast<const uint32_t*>(&high);                                         \
  }
VLMADAPT_ROUNDED(__nv_bfloat16, __nv_bfloat162, __floats2bfloat162_rn)
VLMADAPT_ROUNDED(__half, __half2, __floats2half2_rn)
#undef VLMADAPT_ROUNDED

// sums += weights[16, n] rows[n, width]; the weights are at most about one, which float16 needs.
template <int columns, class E, int size>
__device__ __forceinline__ void add_weighted(Fragments<columns>& sums, const float (&weights)[size][4], const E* rows,
                                             int width, int lane) {
#pragma unroll
  for (int k = 0; k < size / 2; ++k) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* pair = weights[2 * k + i / 2] + i % 2 * 2;
      high[i] = rounded<E>(pair[0], pair[1], low[i]);
    }
    const E* row = rows + (16 * k + lane % 16) * kFlashStride<columns> + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < columns / 16; ++n) {
      if (16 * n >= width) continue;
      uint32_t x[4];
      ptx::load_matrices_transposed(x, row + 16 * n);
      ptx::mma<E>(sums[2 * n], high, {x[0], x[1]});
      ptx::mma<E>(sums[2 * n + 1], high, {x[2], x[3]});
      ptx::mma<E>(sums[2 * n], low, {x[0], x[1]});
      ptx::mma<E>(sums[2 * n + 1], low, {x[2], x[3]});
    }
  }
}

// Of the four threads that share a row.
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

}  // namespace vlmadapt::p_laplacian
