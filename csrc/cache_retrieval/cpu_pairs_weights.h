// The weights of a block and their two products through bfloat16, as cpu_weights.h has them in float: a weight is as
// many bfloat16 as a number of the inputs. Compiled once per level of bfloat16. Never for few queries.
#pragma once

#include "cache_retrieval/cpu_pairs_side.h"
#include "cache_retrieval/cpu_weights.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

// Twice: as rows of pairs of queries, one row a key, and as panels of queries of pairs of keys.
template <class T, int matrix_parts, int parts>
class WeightPanels<PairSums<T, matrix_parts, parts>> {
  using S = Simd<float>;
  using Rows = PairRows<parts, pair_rows>;
  using Shape = WeightShape<PairSums<T, matrix_parts, parts>>;

 public:
  WeightPanels(const Shape& shape, bool wanted)
      : shape_(shape),
        rows_{pairs_of(shape.most_queries)},
        key_pairs_(pairs_of(shape.most_keys)),
        by_key_(wanted ? shape.most_keys / pair_rows * rows_.tile() : 0),
        by_query_(wanted ? shape.most_queries * parts * key_pairs_ : 0) {}

  // Of a pair of keys the first comes first.
  void put(int64_t key, int64_t query, S::V weights) {
    const Bf16Parts<parts> x(weights);
    Pair* row = tile(key) + Rows::at(key % pair_rows, query / 2);
    const int64_t lanes = shape_.columns.vectors(query / S::panel) * S::lanes;
    Pair* panel = this->panel(query / S::panel) + key / 2 * lanes + query % S::panel;
    for (int part = 0; part < parts; ++part) {
      store_upper_halves(row + part * Rows::part, x.part[part]);
      Pair* pairs = panel + part * key_pairs_ * lanes;
      typename S::U both;
      std::memcpy(&both, pairs, sizeof(both));
      store_pairs(pairs, key % 2 == 0 ? x.part[part] >> 16 : both | x.part[part]);
    }
  }

  // Zeros beyond the last key and the last query, as far as products read.
  void end_keys(int64_t keys) {
    for (int64_t p = 0; p < shape_.columns.count(); ++p) {
      const int64_t lanes = shape_.columns.vectors(p) * S::lanes, from = (keys + 1) / 2;
      for (int part = 0; part < parts; ++part)
        std::memset(panel(p) + (part * key_pairs_ + from) * lanes, 0,
                    static_cast<size_t>((multiplied_pairs(keys) - from) * lanes) * sizeof(Pair));
    }
  }
  void end_queries(int64_t begin, int64_t end) {
    const int64_t from = shape_.padded() / 2, to = multiplied_pairs(shape_.padded());
    for (int64_t key = begin; key < end; ++key)
      for (int64_t pair = from; pair < to; ++pair)
        for (int part = 0; part < parts; ++part) tile(key)[Rows::at(key % pair_rows, pair) + part * Rows::part] = 0;
  }

  Pair* tile(int64_t key) { return by_key_.data() + key / pair_rows * rows_.tile(); }
  Pair* panel(int64_t panel) { return by_query_.data() + panel * S::panel * parts * key_pairs_; }
  int64_t key_pairs() const { return key_pairs_; }

 private:
  const Shape& shape_;
  const Rows rows_;
  const int64_t key_pairs_;
  Buffer<Pair> by_key_, by_query_;
};

template <class T, int parts, int weight_parts, class M>
class SumOverKeys<PairSums<T, parts, weight_parts>, M> {
  using S = Simd<float>;
  using Rows = PairRows<parts, pair_rows>;
  using Shape = WeightShape<PairSums<T, parts, weight_parts>>;
  using Weights = WeightPanels<PairSums<T, parts, weight_parts>>;

  static constexpr int64_t task_tiles = max_of(width_group * tile_rows / pair_rows, 1);
  static constexpr int64_t packed_tiles = 1120 / (task_tiles * pair_rows) * task_tiles;  // at a time

 public:
  SumOverKeys(const Shape& shape, const void* matrix, int64_t width, void* out)
      : shape_(shape),
        matrix_(static_cast<const M*>(matrix)),
        out_(static_cast<float*>(out)),
        width_(width),
        tiles_((width + pair_rows - 1) / pair_rows),
        rows_{pairs_of(shape.most_keys)},
        packed_(out != nullptr ? min_of(tiles_, packed_tiles) * rows_.tile() : 0),
        sums_(out != nullptr ? tiles_ * pair_rows * shape.most_queries : 0) {}

  void begin(int64_t first) {
    first_ = first;
    std::memset(sums_.data(), 0, static_cast<size_t>(tiles_ * pair_rows * shape_.padded()) * sizeof(float));
  }

  void add(Weights& weights, int64_t k0, int64_t keys, const Parallel& parallel) {
    weights.end_keys(keys);
    for (int64_t first = 0; first < tiles_; first += packed_tiles) {
      const int64_t last = min_of(first + packed_tiles, tiles_);
      auto packing = [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) pack(first, last, k0, keys, block * S::lanes);
      };
      parallel_ranges(parallel, pairs_of(keys) / S::lanes, packing);
      const Panels<float> columns = shape_.columns;
      const int64_t groups = (columns.count() + panel_group - 1) / panel_group;
      // A task is a few tiles of the width and a few panels.
      auto tasks = [&](int64_t begin, int64_t end) {
        [[maybe_unused]] ProductScope scope;
        for (int64_t task = begin; task < end; ++task) {
          const int64_t tile = first + task / groups * task_tiles, panel = task % groups * panel_group;
          for (int64_t pair = 0; pair < multiplied_pairs(keys); pair += stage_depth)
            add_block(weights, first, tile, min_of(tile + task_tiles, last), panel,
                      min_of(panel + panel_group, columns.count()), pair,
                      min_of(pair + stage_depth, multiplied_pairs(keys)));
        }
      };
      parallel_ranges(parallel, (last - first + task_tiles - 1) / task_tiles * groups, tasks);
    }
  }

  void finish(const Parallel& parallel) {
    write_transposed(sums_.data(), shape_.padded(), shape_.columns.columns, width_, out_ + first_ * width_, parallel);
  }

 private:
  void add_block(Weights& weights, int64_t first, int64_t tile0, int64_t tile1, int64_t panel0, int64_t panel1,
                 int64_t pair0, int64_t pair1) {
    const int64_t padded = shape_.padded();
    for (int64_t panel = panel0; panel < panel1; ++panel)
      for (int64_t t = tile0; t < tile1; ++t)
        pair_product<parts, weight_parts>(packed_.data() + (t - first) * rows_.tile(), weights.panel(panel),
                                          shape_.columns.vectors(panel), weights.key_pairs(), pair0, pair1,
                                          sums_.data() + t * pair_rows * padded + panel * S::panel, padded, true);
  }

  // A vector of pairs of keys, from pair `pair` of the block at k0 on, of the columns in tiles [first, last), one row a
  // column.
  void pack(int64_t first, int64_t last, int64_t k0, int64_t keys, int64_t pair) {
    constexpr int64_t lanes = S::lanes;
    alignas(64) Pair by_pair[parts][lanes * lanes], by_column[lanes * lanes];
    const int64_t end = min_of(last * pair_rows, width_);
    for (int64_t d0 = first * pair_rows; d0 < end; d0 += lanes) {
      for (int64_t i = 0; i < lanes; ++i) {
        const int64_t key = 2 * (pair + i);
        const M* row = matrix_ + (k0 + key) * width_ + d0;
        interleave_rows<parts>(key < keys ? row : nullptr, key + 1 < keys ? row + width_ : nullptr, end - d0,
                               by_pair[0] + i * lanes, lanes * lanes);
      }
      for (int part = 0; part < parts; ++part) {
        transpose_block(reinterpret_cast<const float*>(by_pair[part]), lanes, reinterpret_cast<float*>(by_column),
                        lanes);
        for (int64_t d = d0; d < min_of(d0 + lanes, end); ++d)
          std::memcpy(packed_.data() + (d / pair_rows - first) * rows_.tile() + Rows::at(d % pair_rows, pair) +
                          part * Rows::part,
                      by_column + (d - d0) * lanes, sizeof(Pair) * lanes);
      }
    }
  }

  const Shape& shape_;
  const M* matrix_;
  float* out_;
  int64_t first_ = 0;
  const int64_t width_, tiles_;
  const Rows rows_;
  Buffer<Pair> packed_;
  Buffer<float> sums_;
};

template <class T, int parts, int weight_parts, class M>
class SumOverQueries<PairSums<T, parts, weight_parts>, M> {
  using S = Simd<float>;
  using Shape = WeightShape<PairSums<T, parts, weight_parts>>;
  using Weights = WeightPanels<PairSums<T, parts, weight_parts>>;

 public:
  SumOverQueries(const Shape& shape, const void* matrix, int64_t width, void* out)
      : shape_(shape),
        matrix_(static_cast<const M*>(matrix)),
        out_(static_cast<float*>(out)),
        width_(width),
        pairs_(pairs_of(shape.most_queries)),
        packed_(out != nullptr ? round_up(width, S::panel) * parts * pairs_ : 0) {}

  void begin(int64_t first, const Parallel& parallel) {
    first_ = first;
    const Panels<float> widths{width_};
    auto packing = [&](int64_t begin, int64_t end) {
      const int64_t count = shape_.columns.columns;
      for (int64_t p = begin; p < end; ++p) {
        const int64_t lanes = widths.vectors(p) * S::lanes;
        for (int64_t pair = 0; pair < multiplied_pairs(shape_.padded()); ++pair)
          for (int64_t d = 0; d < lanes; d += S::lanes) {
            const int64_t query = 2 * pair, column = p * S::panel + d;
            const M* row = matrix_ + (first + query) * width_ + column;
            interleave_rows<parts>(query < count ? row : nullptr, query + 1 < count ? row + width_ : nullptr,
                                   width_ - column, panel(p) + pair * lanes + d, pairs_ * lanes);
          }
      }
    };
    parallel_ranges(parallel, widths.count(), packing);
  }

  // A task is a group of keys.
  void add(Weights& weights, int64_t k0, int64_t keys, const Parallel& parallel) {
    const Panels<float> widths{width_};
    auto tasks = [&](int64_t begin, int64_t end) {
      [[maybe_unused]] ProductScope scope;
      Buffer<float> tiles(Shape::key_group * S::panel);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row0 = task * Shape::key_group, row1 = min_of(row0 + Shape::key_group, keys);
        weights.end_queries(row0, row1);
        for (int64_t p = 0; p < widths.count(); ++p) {
          const int64_t lanes = widths.vectors(p) * S::lanes;
          for (int64_t row = row0; row < row1; row += pair_rows)
            pair_product<weight_parts, parts>(weights.tile(row), panel(p), widths.vectors(p), pairs_, 0,
                                              multiplied_pairs(shape_.padded()), tiles.data() + (row - row0) * lanes,
                                              lanes, false);
          write_columns(tiles.data(), row1 - row0, lanes, out_ + (k0 + row0) * width_, width_, p * S::panel,
                        first_ > 0);
        }
      }
    };
    parallel_ranges(parallel, (keys + Shape::key_group - 1) / Shape::key_group, tasks);
  }

 private:
  Pair* panel(int64_t panel) { return packed_.data() + panel * S::panel * parts * pairs_; }

  const Shape& shape_;
  const M* matrix_;
  float* out_;
  const int64_t width_, pairs_;
  int64_t first_ = 0;
  Buffer<Pair> packed_;
};

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
