// Register tiles of the p-Laplacian kernels. Vector lanes run over queries (over columns in spread_keys); a tile has
// `rows` rows of NV vectors, `tile_step` of them at a time in registers. Depths are short (a head's width, or a tile of
// keys), so that nothing is packed into panels: rows of A are read at a run-time stride and broadcast.
#pragma once

#include "common/simd.h"
#include "common/transpose.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

#if defined(__AVX512F__)
constexpr int max_vectors = 3;  // of queries in a block
constexpr int tile_step = 8;    // 8 x 3 accumulators of 32 registers
#else
constexpr int max_vectors = 2;
constexpr int tile_step = 4;  // 4 x 2 accumulators of 16 registers
#endif

// Calls tile(integral_constant<rows at a time>, first row) until `rows` are done.
template <int R>
struct Rows {
  static constexpr int count = R;
};
template <class Tile>
VLMADAPT_INLINE void for_row_tiles(int64_t rows, Tile tile) {
  int64_t row = 0;
  for (; row + tile_step <= rows; row += tile_step) tile(Rows<tile_step>{}, row);
  for (; row + 2 <= rows; row += 2) tile(Rows<2>{}, row);
  if (row < rows) tile(Rows<1>{}, row);
}

// c[r, :] (+)= sum_k a[r * row_stride + k * step_stride] b[k, :]; rows of b and c are NV vectors, ldb and ldc apart.
template <class T, int NV>
inline void multiply(const T* a, int64_t row_stride, int64_t step_stride, const T* b, int64_t ldb, int64_t rows,
                     int64_t depth, T* c, int64_t ldc, bool accumulate) {
  using S = Simd<T>;
  for_row_tiles(rows, [&](auto shape, int64_t row) __attribute__((always_inline)) {
    constexpr int R = decltype(shape)::count;
    typename S::V sums[R][NV] = {};
    const T* from = a + row * row_stride;
    for (int64_t k = 0; k < depth; ++k, from += step_stride) {
      typename S::V column[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) column[v] = S::load(b + k * ldb + v * S::lanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sums[r][v] += from[r * row_stride] * column[v];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        T* to = c + (row + r) * ldc + v * S::lanes;
        S::store(to, accumulate ? S::load(to) + sums[r][v] : sums[r][v]);
      }
  });
}

// distances[r, lane] = sum_k (x[k, lane] - rows_x[r, k])^2, by differences: the Gram form would cancel.
template <class T, int NV>
inline void distances(const T* rows_x, int64_t row_stride, const T* x, int64_t ldx, int64_t rows, int64_t depth, T* out,
                      int64_t ldo) {
  using S = Simd<T>;
  for_row_tiles(rows, [&](auto shape, int64_t row) __attribute__((always_inline)) {
    constexpr int R = decltype(shape)::count;
    typename S::V sums[R][NV] = {};
    const T* from = rows_x + row * row_stride;
    for (int64_t k = 0; k < depth; ++k, ++from) {
      typename S::V column[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) column[v] = S::load(x + k * ldx + v * S::lanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
          const typename S::V difference = column[v] - from[r * row_stride];
          sums[r][v] += difference * difference;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) S::store(out + (row + r) * ldo + v * S::lanes, sums[r][v]);
  });
}

// grad[k, lane] += sum_r e[r, lane] (x[k, lane] - rows_x[r, k]).
template <class T, int NV>
inline void spread_queries(const T* e, int64_t lde, const T* rows_x, int64_t row_stride, const T* x, int64_t ldx,
                           int64_t rows, int64_t depth, T* grad, int64_t ldg) {
  using S = Simd<T>;
  for_row_tiles(depth, [&](auto shape, int64_t k) __attribute__((always_inline)) {
    constexpr int R = decltype(shape)::count;
    typename S::V sums[R][NV] = {};
    for (int64_t r = 0; r < rows; ++r) {
      typename S::V factor[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) factor[v] = S::load(e + r * lde + v * S::lanes);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        const T other = rows_x[r * row_stride + k + i];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sums[i][v] += factor[v] * (S::load(x + (k + i) * ldx + v * S::lanes) - other);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        T* to = grad + (k + i) * ldg + v * S::lanes;
        S::store(to, S::load(to) + sums[i][v]);
      }
  });
}

// grad[r, :] += sum_i m[r, i] g[i, :] - e[r, i] (x[i, :] - rows_x[r, :]), lanes over one vector of the features;
// x, g, rows_x and grad have rows of `ld` elements, padded to whole vectors. e may be nullptr: zero.
template <class T>
inline void spread_keys(const T* m, const T* e, int64_t lde, const T* x, const T* g, const T* rows_x, int64_t ld,
                        int64_t rows, int64_t queries, T* grad) {
  using S = Simd<T>;
  for_row_tiles(rows, [&](auto shape, int64_t row) __attribute__((always_inline)) {
    constexpr int R = decltype(shape)::count;
    for (int64_t column = 0; column < ld; column += S::lanes) {
      typename S::V sums[R] = {}, own[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) own[r] = S::load(rows_x + (row + r) * ld + column);
      for (int64_t i = 0; i < queries; ++i) {
        const typename S::V upstream = S::load(g + i * ld + column), there = S::load(x + i * ld + column);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[r] += m[(row + r) * lde + i] * upstream;
        if (e == nullptr) continue;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[r] += e[(row + r) * lde + i] * (own[r] - there);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        T* to = grad + (row + r) * ld + column;
        S::store(to, S::load(to) + sums[r]);
      }
    }
  });
}

// The first `left` lanes of a row.
template <class T>
VLMADAPT_INLINE void store_row(T* to, typename Simd<T>::V value, int64_t left) {
  if (left >= Simd<T>::lanes)
    Simd<T>::store(to, value);
  else
    Simd<T>::store_first(to, value, left);
}

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
