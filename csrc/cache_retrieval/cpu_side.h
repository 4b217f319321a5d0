// The products of a side, its queries and keys, for forward, backward and grid; compiled once per instruction set.
// Up to max_dot_queries queries there is nothing to reuse and the time is that of reading the keys: plain dot products,
// lanes over the width. More queries are packed into panels, lanes over queries.
#pragma once

#include "cache_retrieval/kernel.h"
#include "common/buffer.h"
#include "common/product.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

using vlmadapt::cache_retrieval::max_dot_queries;
using vlmadapt::cache_retrieval::PerQuery;
using vlmadapt::cache_retrieval::Side;

constexpr int64_t query_block_bytes = 512 * 1024;  // packed queries of a task: half of a typical L2
constexpr int64_t max_query_block = 256;

// The products of one side for tile_rows rows of keys, of type T, against a block of queries, of type Q.
template <class T, class Q = T>
class SideTiles {
  using A = Accum<T>;

 public:
  SideTiles(const Side& side, const A* packed, int64_t first_query, Panels<A> columns)
      : keys_(static_cast<const T*>(side.keys)),
        queries_(static_cast<const Q*>(side.queries) + first_query * side.width),
        packed_(packed),
        width_(side.width),
        columns_(columns),
        staged_(staged_size(side.width)) {}

  // Whether a product was NaN that an exact one need not be.
  static constexpr bool undefined() { return false; }

  // tile[r * ldc + q] for the rows whose key indices row_key(0 .. rows - 1) gives; rows beyond are left undefined, but
  // `more` of them may be fetched.
  template <class RowKey>
  void product(RowKey row_key, int64_t rows, A* tile, int64_t ldc, int64_t = 0) {
    const auto row_pointer = [&](int64_t r) { return keys_ + row_key(r) * width_; };
    if (packed_ == nullptr) {
      dot_products(row_pointer, rows, tile, ldc);
    } else {
      stage_rows<T>(row_pointer, rows, width_, staged_.data());
      staged_product<A>(staged_.data(), packed_, width_, columns_, tile, ldc);
    }
  }

 private:
  template <class RowPointer>
  void dot_products(RowPointer row_pointer, int64_t rows, A* tile, int64_t ldc) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t q = 0; q < columns_.columns; ++q)
        tile[r * ldc + q] = dot(row_pointer(r), queries_ + q * width_, width_);
  }

  static A dot(const T* x, const Q* y, int64_t width) {
    using S = Simd<A>;
    constexpr int chains = 4;  // independent sums hide the latency of the additions
    typename S::V sums[chains] = {};
    int64_t k = 0;
    for (; k + chains * S::lanes <= width; k += chains * S::lanes)
#pragma GCC unroll 4
      for (int i = 0; i < chains; ++i)
        sums[i] += load_widened(x + k + i * S::lanes) * load_widened(y + k + i * S::lanes);
    A total = S::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; k < width; ++k) total += to_accum(x[k]) * to_accum(y[k]);
    return total;
  }

  const T* keys_;
  const Q* queries_;
  const A* packed_;  // nullptr: few queries, dot products
  int64_t width_;
  Panels<A> columns_;
  Buffer<A> staged_;
};

// Affinities as Kept::affinities has them.
inline void keep_affinities(const float* affinities, int64_t count, void* kept) {
  using S = Simd<float>;
  uint16_t* to = static_cast<uint16_t*>(kept);
  for (int64_t q = 0; q < count; q += S::lanes) {
    const typename S::V x = S::load(affinities + q);  // rows end with whole vectors
    const typename S::U bits = (nearest_without<15>(x) & 0x7fffffffu) >> 15;
    if (q + S::lanes <= count)
      store_halves(to + q, bits);
    else
      for (int64_t lane = 0; lane < count - q; ++lane) to[q + lane] = static_cast<uint16_t>(bits[lane]);
  }
}

inline void load_affinities(const void* kept, int64_t count, float* affinities) {
  using S = Simd<float>;
  const uint16_t* from = static_cast<const uint16_t*>(kept);
  int64_t q = 0;
  for (; q + S::lanes <= count; q += S::lanes) {
    const typename S::U bits = load_halves(from + q) << 15;
    std::memcpy(affinities + q, &bits, sizeof(bits));
  }
  for (; q < count; ++q) {
    const uint32_t bits = static_cast<uint32_t>(from[q]) << 15;
    std::memcpy(affinities + q, &bits, sizeof(bits));
  }
}

template <class A>
inline A value_of(const PerQuery& x, int64_t query) {
  return x.values != nullptr ? static_cast<const A*>(x.values)[query * x.stride] : static_cast<A>(x.same);
}

// Per-query values of a block, padded with harmless zeros to whole vectors.
template <class A>
class QueryValues {
 public:
  QueryValues(const PerQuery& values, int64_t first, int64_t count, int64_t padded) : padded_values_(padded) {
    for (int64_t q = 0; q < padded; ++q) padded_values_[q] = q < count ? value_of<A>(values, first + q) : A(0);
  }
  typename Simd<A>::V operator[](int64_t q) { return Simd<A>::load(padded_values_.data() + q); }

 private:
  Buffer<A> padded_values_;
};

// How a kernel multiplies: in the type that it sums in. The other ways are PairProducts and PairSums
// (cpu_pairs_side.h).
template <class T>
struct FloatProducts {
  using Input = T;
  using Packed = Accum<T>;
  struct Scope {};  // what a thread needs while it multiplies
  template <class Q = T>
  using Tiles = SideTiles<T, Q>;

  static constexpr bool exact = true;                     // and good for few queries
  static constexpr bool splits_weights = false;           // in the products of a backward and of values
  static constexpr int64_t rows = tile_rows;              // of keys in a tile
  static constexpr int64_t key_group = 12 * rows;         // keys of one task of a backward
  static constexpr int64_t query_bytes = sizeof(Packed);  // of one element of a packed query
  static constexpr int64_t most_block = max_query_block;

  static int64_t packed_size(int64_t width) { return width; }  // of a query
  template <class Q>
  static void pack_panel(const Q* matrix, int64_t row0, int64_t rows, int64_t width, int64_t panel_width,
                         Packed* panel) {
    pack_panel_transposed(matrix, row0, rows, width, panel_width, panel);
  }
};

// Queries of one task, multiples of a panel.
template <class Products>
inline int64_t query_block(int64_t width) {
  constexpr int64_t panel = Simd<Accum<typename Products::Input>>::panel;
  const int64_t fitting = query_block_bytes / (max_of(width, 1) * Products::query_bytes);
  return max_of(panel, min_of(Products::most_block, fitting) / panel * panel);
}

// Packs the side's queries [first, first + count), of type Q, into panels, in parallel.
template <class Products, class Q>
inline void pack_queries(const Side& side, int64_t first, int64_t count, typename Products::Packed* packed,
                         const Parallel& parallel) {
  using S = Simd<Accum<Q>>;
  const Panels<Accum<Q>> columns{count};
  auto body = [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      Products::pack_panel(static_cast<const Q*>(side.queries), first + p * S::panel,
                           min_of(S::panel, count - p * S::panel), side.width, columns.vectors(p) * S::lanes,
                           packed + p * S::panel * Products::packed_size(side.width));
  };
  parallel_ranges(parallel, columns.count(), body);
}

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
