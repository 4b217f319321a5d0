// The inner loop on the CPU: the edges of one row, one slice of the width.
#pragma once

#include "common/simd.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace hetero_aggregate {

constexpr int64_t edges_ahead = 8;  // rows prefetched

// What is read and written for one relation, in the accumulation type. In the backward pass weights are brought into
// the order of the edges first, and dots gather one slice after the other.
template <class A, class I>
struct Operands {
  const int64_t* offsets;
  const I* columns;
  const A* weights;  // in the order of the edges; nullptr: all one
  A* dots;           // in the order of the edges; nullptr: not wanted
  const A* rows;     // the slice of the matrix
  int64_t stride;    // between rows of that slice
  int64_t last;      // the last edge: nothing beyond it is prefetched
  A coefficient;
};

// sums = sum of w * row over the edges [begin, end); with dots also dots[k] (+)= own . row.
template <class A, class I, bool weighted, bool with_dots, int slice_vectors>
VLMADAPT_INLINE void sum_edges(const Operands<A, I>& relation, int64_t begin, int64_t end, const A* own, bool first,
                               typename Simd<A>::V (&sums)[slice_vectors]) {
  using S = Simd<A>;
  for (int64_t k = begin; k < end; ++k) {
    const int64_t ahead = k + edges_ahead < relation.last ? k + edges_ahead : relation.last;
    const A* next = relation.rows + static_cast<int64_t>(relation.columns[ahead]) * relation.stride;
#pragma GCC unroll 8
    for (int v = 0; v < slice_vectors * vector_bytes; v += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(next) + v);
    const A* row = relation.rows + static_cast<int64_t>(relation.columns[k]) * relation.stride;
    typename S::V dot = {};
#pragma GCC unroll 8
    for (int v = 0; v < slice_vectors; ++v) {
      const typename S::V x = S::load(row + v * S::lanes);
      if constexpr (weighted)
        sums[v] += relation.weights[k] * x;
      else
        sums[v] += x;
      if constexpr (with_dots) dot += x * S::load(own + v * S::lanes);
    }
    if constexpr (with_dots) relation.dots[k] = first ? S::sum(dot) : relation.dots[k] + S::sum(dot);
  }
}

}  // namespace hetero_aggregate
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
