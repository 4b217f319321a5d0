// The products of a side through bfloat16: the inputs themselves, or one or two bfloat16 in place of each number
// (common/pairs.h). Compiled once per level of bfloat16. Few queries take plain dot products, never these.
//
// Where numbers are split, infinities may give NaN in place of infinity, as their rest is zero and zero times infinity
// is none. So a NaN is no result here: the exact kernels are called again (cpu.cpp).
#pragma once

#include "cache_retrieval/cpu_side.h"
#include "common/pair_product.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

// As SideTiles, for pair_rows rows of keys.
template <class T, class Q, int parts>
class PairTiles {
  using S = Simd<float>;
  using Rows = PairRows<parts, pair_rows>;

 public:
  PairTiles(const Side& side, const Pair* packed, int64_t, Panels<float> columns)
      : keys_(static_cast<const T*>(side.keys)),
        packed_(packed),
        width_(side.width),
        rows_{pairs_of(side.width)},
        columns_(columns),
        staged_(rows_.tile()) {}

  bool undefined() const { return undefined_; }

  template <class RowKey>
  void product(RowKey row_key, int64_t rows, float* tile, int64_t ldc, int64_t more = 0) {
    for (int64_t r = 0; r < rows; ++r) rows_.stage(keys_ + row_key(r) * width_, width_, r, staged_.data());
    for (int64_t p = 0; p < columns_.count(); ++p) {
      for (int64_t r = more * p / columns_.count(); r < more * (p + 1) / columns_.count(); ++r)
        for (int64_t d = 0; d < width_; d += 64 / static_cast<int64_t>(sizeof(T)))
          __builtin_prefetch(keys_ + row_key(rows + r) * width_ + d, 0, 2);
      float* c = tile + p * S::panel;
      if (width_ == 0)
        for (int64_t r = 0; r < rows; ++r) std::memset(c + r * ldc, 0, sizeof(float) * columns_.vectors(p) * S::lanes);
      pair_product<Rows, parts>(staged_.data(), packed_ + p * S::panel * parts * rows_.pairs, columns_.vectors(p),
                                rows_.pairs, 0, multiplied_pairs(width_), c, ldc, false);
    }
    if constexpr (!(std::is_same_v<T, bf16> && std::is_same_v<Q, bf16>)) {
      typename S::I any{};
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t q = 0; q < columns_.padded(); q += S::lanes) {
          const typename S::V x = S::load(tile + r * ldc + q);
          any |= x != x;
        }
      for (int lane = 0; lane < S::lanes; ++lane) undefined_ |= any[lane] != 0;
    }
  }

 private:
  const T* keys_;
  const Pair* packed_;
  const int64_t width_;
  const Rows rows_;
  const Panels<float> columns_;
  Buffer<Pair> staged_;
  bool undefined_ = false;
};

// Where there are weights they stay float32, and so do the products that they take part in.
template <class T, int parts>
struct PairProducts {
  using Input = T;
  using Packed = Pair;
  using Scope = ProductScope;
  template <class Q = T>
  using Tiles = PairTiles<T, Q, parts>;

  static constexpr bool exact = false;
  static constexpr bool splits_weights = false;
  static constexpr int64_t rows = pair_rows;
  static constexpr int64_t key_group = rows == tile_rows ? 12 * rows : tile_rows * rows / 2;  // of both tiles
  static constexpr int64_t query_bytes = parts * sizeof(bf16);
  static constexpr int64_t most_block = 512;

  static int64_t packed_size(int64_t width) { return parts * pairs_of(width); }
  template <class Q>
  static void pack_panel(const Q* matrix, int64_t row0, int64_t rows, int64_t width, int64_t panel_width,
                         Packed* panel) {
    pack_pairs_transposed<parts>(matrix, row0, rows, width, panel_width, panel);
  }
};

// Weights are split as well, into weight_parts bfloat16 (cpu_pairs_weights.h).
template <class T, int parts, int weight_parts>
struct PairSums : PairProducts<T, parts> {
  static constexpr bool splits_weights = true;
};

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
