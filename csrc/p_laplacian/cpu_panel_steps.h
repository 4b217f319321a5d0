// The steps between a few rows of queries and a tile of a head's panel: sums over features or over pairs, in registers.
// Matrices of pairs have rows of `keys`, rows of features are panel.width apart, and a pair's key j is j0 + j.
#pragma once

#include "p_laplacian/cpu_panel.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

// squares[r, j] = sum_c (x[r, c] - panel[c, j])^2, by differences: the Gram form would cancel. `x` are rows of
// panel.width, squares rows of `keys`.
template <class A, int R>
VLMADAPT_INLINE void row_squares(const A* x, KeyPanel<A>& panel, int64_t j0, int64_t keys, const RowEnd<A>& end,
                                 A* squares) {
  using S = Simd<A>;
  for (int64_t c0 = 0; c0 < panel.width; c0 += features_step) {
    const A* columns = panel.column(c0) + j0;
    typename S::V own[R][features_step];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < features_step; ++c) own[r][c] = S::broadcast(x[r * panel.width + c0 + c]);
    for (int64_t j = 0; j < keys; j += S::lanes) {
      typename S::V sums[R] = {};
      if (c0 > 0)
        for (int r = 0; r < R; ++r) sums[r] = S::load(squares + r * keys + j);
#pragma GCC unroll 8
      for (int c = 0; c < features_step; ++c) {
        const typename S::V other = S::load(columns + c * panel.ld + j);
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          const typename S::V difference = own[r][c] - other;
          sums[r] += difference * difference;
        }
      }
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) end.store(j, squares + r * keys + j, sums[r]);
    }
  }
}

// products[r, j] = sum_c upstream[r, c] panel[c, j] - own[r].
template <class A, int R>
VLMADAPT_INLINE void row_products(const A* upstream, const A* own, KeyPanel<A>& panel, int64_t j0, int64_t keys,
                                  const RowEnd<A>& end, A* products) {
  using S = Simd<A>;
  for (int64_t c0 = 0; c0 < panel.width; c0 += features_step) {
    const A* columns = panel.column(c0) + j0;
    typename S::V factor[R][features_step];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < features_step; ++c) factor[r][c] = S::broadcast(upstream[r * panel.width + c0 + c]);
    for (int64_t j = 0; j < keys; j += S::lanes) {
      typename S::V sums[R];
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) sums[r] = c0 > 0 ? S::load(products + r * keys + j) : S::broadcast(-own[r]);
#pragma GCC unroll 8
      for (int c = 0; c < features_step; ++c) {
        const typename S::V other = S::load(columns + c * panel.ld + j);
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) sums[r] += factor[r][c] * other;
      }
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) end.store(j, products + r * keys + j, sums[r]);
    }
  }
}

// grad[c] (+)= sum_j e[j] (x[c] - panel[c, j]) + shifts[j], a vector of partial sums for each feature; begins anew at
// j0 = 0. shifts may be nullptr: zero.
template <class A>
VLMADAPT_INLINE void add_query(const A* x, const A* e, const A* shifts, KeyPanel<A>& panel, int64_t j0, int64_t keys,
                               const RowEnd<A>& end, A* grad) {
  using S = Simd<A>;
  typename S::V shift{};
  if (shifts != nullptr)
    for (int64_t j = 0; j < keys; j += S::lanes) shift += end.load(j, shifts + j);
  for (int64_t c0 = 0; c0 < panel.width; c0 += features_step) {
    const A* columns = panel.column(c0) + j0;
    typename S::V own[features_step], sums[features_step];
#pragma GCC unroll 8
    for (int c = 0; c < features_step; ++c) {
      own[c] = S::broadcast(x[c0 + c]);
      sums[c] = shift;
    }
    for (int64_t j = 0; j < keys; j += S::lanes) {
      const typename S::V factor = end.load(j, e + j);
#pragma GCC unroll 8
      for (int c = 0; c < features_step; ++c) sums[c] += factor * (own[c] - S::load(columns + c * panel.ld + j));
    }
#pragma GCC unroll 8
    for (int c = 0; c < features_step; ++c) {
      A* to = grad + (c0 + c) * S::lanes;
      S::store(to, j0 > 0 ? S::load(to) + sums[c] : sums[c]);
    }
  }
}

// grads[c, j] += sum_i m[i, j] upstream[i, c] - e[i, j] (x[i, c] - panel[c, j]) - shifts[i, j] over `count` queries.
template <class A, bool by_distance>
VLMADAPT_INLINE void add_keys(const A* x, const A* upstream, const A* m, const A* e, const A* shifts, int64_t count,
                              KeyPanel<A>& panel, KeyPanel<A>& grads, int64_t j0, int64_t keys, const RowEnd<A>& end) {
  using S = Simd<A>;
  for (int64_t j = 0; j < keys; j += S::lanes) {
    typename S::V shift{};
    if (shifts != nullptr)
      for (int64_t i = 0; i < count; ++i) shift += end.load(j, shifts + i * keys + j);
    for (int64_t c0 = 0; c0 < panel.width; c0 += features_step) {
      typename S::V own[features_step], sums[features_step];
#pragma GCC unroll 8
      for (int c = 0; c < features_step; ++c) {
        own[c] = S::load(panel.column(c0 + c) + j0 + j);
        sums[c] = S::load(grads.column(c0 + c) + j0 + j) - shift;
      }
      const A *g = upstream + c0, *from = x + c0;
      for (int64_t i = 0; i < count; ++i, g += panel.width, from += panel.width) {
        const typename S::V weight = end.load(j, m + i * keys + j);
#pragma GCC unroll 8
        for (int c = 0; c < features_step; ++c) sums[c] += weight * g[c];
        if constexpr (by_distance) {
          const typename S::V factor = end.load(j, e + i * keys + j);
#pragma GCC unroll 8
          for (int c = 0; c < features_step; ++c) sums[c] += factor * (own[c] - from[c]);
        }
      }
#pragma GCC unroll 8
      for (int c = 0; c < features_step; ++c) S::store(grads.column(c0 + c) + j0 + j, sums[c]);
    }
  }
}

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
