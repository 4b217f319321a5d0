// Square blocks of as many rows as a vector has lanes, transposed in registers.
#pragma once

#include "common/simd.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {

// Lanes of a and b for one round of pairwise exchange: where the bit `block` of a lane is clear, those of a, else those
// of b.
template <class A, int block>
struct Halves {
  constexpr Halves() : low(), high() {
    constexpr int lanes = Simd<A>::lanes;
    for (int lane = 0; lane < lanes; ++lane) {
      low[lane] = lane & block ? lanes + lane - block : lane;
      high[lane] = lane & block ? lanes + lane : lane + block;
    }
  }
  alignas(64) typename Simd<A>::Mask low[Simd<A>::lanes], high[Simd<A>::lanes];
};
template <class A, int block>
constexpr Halves<A, block> halves{};

template <class T, int block>
VLMADAPT_INLINE void exchange_halves(typename Simd<T>::V* row) {
  using S = Simd<T>;
  if constexpr (block < S::lanes) {
    const typename S::I low = S::load_mask(halves<T, block>.low), high = S::load_mask(halves<T, block>.high);
#pragma GCC unroll 16
    for (int r = 0; r < S::lanes; ++r) {
      if (r & block) continue;
      const typename S::V a = row[r], b = row[r + block];
      row[r] = __builtin_shuffle(a, b, low);
      row[r + block] = __builtin_shuffle(a, b, high);
    }
    exchange_halves<T, 2 * block>(row);
  }
}

// to[c * ldt + r] = from[r * ldf + c] for a square block of `lanes` rows, by log2(lanes) rounds of pairwise exchange.
template <class T>
VLMADAPT_INLINE void transpose_block(const T* from, int64_t ldf, T* to, int64_t ldt) {
  using S = Simd<T>;
  typename S::V row[S::lanes];
#pragma GCC unroll 16
  for (int r = 0; r < S::lanes; ++r) row[r] = S::load(from + r * ldf);
  exchange_halves<T, 1>(row);
#pragma GCC unroll 16
  for (int r = 0; r < S::lanes; ++r) S::store(to + r * ldt, row[r]);
}

}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
