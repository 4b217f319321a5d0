// The weights of a block and their two products through bfloat16, as cpu_weights.h has them in float: a weight is one
// or two bfloat16. Compiled once per level of bfloat16. Never for few queries.
//
// In both products the weights are on the left and the rows of a matrix, two of them interleaved to pairs, on the
// right, so that neither keys nor queries are transposed and results come as they lie in memory.
#pragma once

#include "cache_retrieval/cpu_pairs_side.h"
#include "cache_retrieval/cpu_weights.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

constexpr int64_t panels_at_once = 32;  // of the width, packed at a time for a sum over keys
constexpr int64_t task_queries = 128;   // in one task of it, about; up to `own_queries` all of them
constexpr int64_t own_queries = 336;
constexpr int64_t task_pairs = 16;  // of rows, packed in one task

// Twice: with a row a key and pairs of queries, and with a row a query and pairs of keys.
template <class T, int matrix_parts, int parts>
class WeightPanels<PairSums<T, matrix_parts, parts>> {
  using S = Simd<float>;
  using Shape = WeightShape<PairSums<T, matrix_parts, parts>>;

 public:
  using ByKey = PairRows<parts, pair_rows>;
#ifdef VLMADAPT_TILES
  using ByQuery = ByKey;
#else
  using ByQuery = PairColumns<pair_rows>;
#endif

  WeightPanels(const Shape& shape, bool wanted)
      : shape_(shape),
        keys_{pairs_of(shape.most_queries)},
        queries_{pairs_of(shape.most_keys)},
        by_key_(wanted ? keys_.size(shape.most_keys) : 0),
        by_query_(wanted ? queries_.size(shape.most_queries) : 0) {}

  // Takes the weights of a tile of keys and a block of queries, then splits them; a large one makes the sums wrong.
  class Writer {
   public:
    Writer(WeightPanels& panels, int64_t start, int64_t padded, bool wanted)
        : panels_(panels), start_(start), padded_(padded), tile_(wanted ? pair_rows * padded : 0) {}

    void put(int64_t key, int64_t query, S::V weights) {
      S::store(tile_.data() + key % pair_rows * padded_ + query, weights);
    }

    void end_tile(int64_t key, int64_t rows) {
      float* tile = tile_.data();
      std::memset(tile + rows * padded_, 0, static_cast<size_t>((pair_rows - rows) * padded_) * sizeof(float));
      for (int64_t q = 0; q < padded_; q += S::lanes) panels_.split(tile + q, padded_, key, start_ + q);
    }

   private:
    WeightPanels& panels_;
    const int64_t start_, padded_;
    Buffer<float> tile_;
  };

  // Zeros beyond the last query, as far as products read.
  void end_queries(int64_t begin, int64_t end) {
    const int64_t from = shape_.padded() / 2, to = multiplied_pairs(shape_.padded());
    for (int64_t key = begin; key < end; ++key)
      for (int64_t pair = from; pair < to; ++pair)
        for (int part = 0; part < parts; ++part)
          key_tile(key / pair_rows)[ByKey::at(key % pair_rows, pair) + part * ByKey::part] = 0;
  }

  Pair* key_tile(int64_t tile) { return by_key_.data() + keys_.tile_at(tile); }
  Pair* query_tile(int64_t tile) { return by_query_.data() + queries_.tile_at(tile); }

 private:
  // One vector of queries of the tile that begins at `key`.
  void split(const float* weights, int64_t ld, int64_t key, int64_t query) {
#ifdef VLMADAPT_TILES
    alignas(64) Pair by_pair[parts][pair_rows / 2 * S::lanes];
#endif
    Pair* row = key_tile(key / pair_rows) + ByKey::at_pair(query / 2);
    for (int64_t r = 0; r < pair_rows; r += 2, row += 2 * ByKey::row_stride) {
      const Bf16Parts<parts> even(S::load(weights + r * ld), true), odd(S::load(weights + (r + 1) * ld), true);
      for (int part = 0; part < parts; ++part) {
        store_upper_halves(row + part * ByKey::part, even.part[part]);
        store_upper_halves(row + ByKey::row_stride + part * ByKey::part, odd.part[part]);
        const S::U both = even.part[part] >> 16 | odd.part[part];
#ifdef VLMADAPT_TILES
        store_pairs(by_pair[part] + r / 2 * S::lanes, both);
#else
        store_pairs(by_query_.data() + queries_.at(query, (key + r) / 2), both);
#endif
      }
    }
#ifdef VLMADAPT_TILES
    Pair* target = query_tile(query / pair_rows) + ByQuery::at(query % pair_rows, key / 2);
    for (int part = 0; part < parts; ++part)
      for (int64_t pair = 0; pair < pair_rows / 2; pair += S::lanes)
        transpose_block(reinterpret_cast<const float*>(by_pair[part] + pair * S::lanes), S::lanes,
                        reinterpret_cast<float*>(target + part * ByQuery::part + pair), ByQuery::row_stride);
#endif
  }

  const Shape& shape_;
  const ByKey keys_;
  const ByQuery queries_;
  Buffer<Pair> by_key_, by_query_;
};

template <class T, int parts, int weight_parts, class M>
class SumOverKeys<PairSums<T, parts, weight_parts>, M> {
  using S = Simd<float>;
  using Shape = WeightShape<PairSums<T, parts, weight_parts>>;
  using Weights = WeightPanels<PairSums<T, parts, weight_parts>>;
  static constexpr int64_t tile_size = pair_rows * S::panel;

 public:
  SumOverKeys(const Shape& shape, const void* matrix, int64_t width, Result<M> out)
      : shape_(shape),
        matrix_(static_cast<const M*>(matrix)),
        out_(out),
        width_(width),
        widths_{width},
        pairs_(pairs_of(shape.most_keys)),
        packed_(out ? min_of(widths_.count(), panels_at_once) * S::panel * parts * pairs_ : 0),
        sums_(out ? tiles_of(shape.most_queries) * widths_.count() * tile_size : 0) {}

  void begin(int64_t first) {
    first_ = first;
    std::memset(sums_.data(), 0,
                static_cast<size_t>(tiles_of(shape_.padded()) * widths_.count() * tile_size) * sizeof(float));
  }

  void add(Weights& weights, int64_t k0, int64_t keys, const Parallel& parallel) {
    const int64_t pairs = multiplied_pairs(keys);
    for (int64_t first = 0; first < widths_.count(); first += panels_at_once) {
      const int64_t last = min_of(first + panels_at_once, widths_.count());
      const auto panel = [&](int64_t p) { return packed_.data() + (p - first) * S::panel * parts * pairs_; };
      const auto pack = [&](int64_t from, int64_t to, int64_t panel0, int64_t panel1) {
        pack_pairs<parts>(matrix_ + k0 * width_, keys, width_, from, min_of(to, pairs), panel0, panel1, pairs_, panel);
      };
      // What several groups of queries read is packed first, what one reads just before.
      const bool shared = shape_.columns.columns > own_queries;
      const int64_t tiles = tiles_of(shape_.padded()), task_tiles = shared ? task_queries / pair_rows : tiles;
      const int64_t groups = (tiles + task_tiles - 1) / task_tiles,
                    task_panels = widths_.count() > 16 || shared ? 8 : 4;
      auto packing = [&](int64_t begin, int64_t end) { pack(begin * task_pairs, end * task_pairs, first, last); };
      if (shared) parallel_ranges(parallel, (pairs + task_pairs - 1) / task_pairs, packing);
      // A task is a few panels of the width and a few tiles of queries.
      auto tasks = [&](int64_t begin, int64_t end) {
        [[maybe_unused]] ProductScope scope;
        for (int64_t task = begin; task < end; ++task) {
          const int64_t panel0 = first + task / groups * task_panels, tile0 = task % groups * task_tiles;
          const int64_t panel1 = min_of(panel0 + task_panels, last);
          for (int64_t pair = 0; pair < pairs; pair += stage_depth) {
            if (!shared) pack(pair, pair + stage_depth, panel0, panel1);
            for (int64_t t = tile0; t < min_of(tile0 + task_tiles, tiles); ++t)
              for (int64_t p = panel0; p < panel1; ++p)
                pair_product<typename Weights::ByQuery, parts>(weights.query_tile(t), panel(p), widths_.vectors(p),
                                                               pairs_, pair, min_of(pair + stage_depth, pairs),
                                                               sums(t, p), S::panel, true);
          }
        }
      };
      parallel_ranges(parallel, (last - first + task_panels - 1) / task_panels * groups, tasks);
    }
  }

  void finish(const Parallel& parallel) {
    auto body = [&](int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q)
        for (int64_t p = 0; p < widths_.count(); ++p)
          out_.write((first_ + q) * width_ + p * S::panel, sums(q / pair_rows, p) + q % pair_rows * S::panel,
                     min_of(S::panel, width_ - p * S::panel));
    };
    parallel_ranges(parallel, shape_.columns.columns, body);
  }

 private:
  static constexpr int64_t tiles_of(int64_t queries) { return (queries + pair_rows - 1) / pair_rows; }
  float* sums(int64_t tile, int64_t panel) { return sums_.data() + (tile * widths_.count() + panel) * tile_size; }

  const Shape& shape_;
  const M* matrix_;
  const Result<M> out_;
  int64_t first_ = 0;
  const int64_t width_;
  const Panels<float> widths_;
  const int64_t pairs_;
  Buffer<Pair> packed_;
  Buffer<float> sums_;
};

template <class T, int parts, int weight_parts, class M>
class SumOverQueries<PairSums<T, parts, weight_parts>, M> : public RowsOfKeys<T> {
  using S = Simd<float>;
  using Shape = WeightShape<PairSums<T, parts, weight_parts>>;
  using Weights = WeightPanels<PairSums<T, parts, weight_parts>>;

 public:
  SumOverQueries(const Shape& shape, const void* matrix, int64_t width, Result<T> out)
      : RowsOfKeys<T>(shape, width, out),
        shape_(shape),
        matrix_(static_cast<const M*>(matrix)),
        width_(width),
        widths_{width},
        pairs_(pairs_of(shape.most_queries)),
        packed_(out ? round_up(width, S::panel) * parts * pairs_ : 0) {}

  void begin(int64_t first, const Parallel& parallel) {
    this->begin_block(first, shape_.columns.columns);
    const int64_t pairs = multiplied_pairs(shape_.padded());
    auto packing = [&](int64_t begin, int64_t end) {
      pack_pairs<parts>(matrix_ + first * width_, shape_.columns.columns, width_, begin * task_pairs,
                        min_of(end * task_pairs, pairs), 0, widths_.count(), pairs_,
                        [&](int64_t p) { return panel(p); });
    };
    parallel_ranges(parallel, (pairs + task_pairs - 1) / task_pairs, packing);
  }

  // Keys [begin, end) of the block at k0, within a task that owns the group.
  void add_group(Weights& weights, int64_t k0, int64_t begin, int64_t end) {
    Buffer<float> tiles(Shape::key_group * S::panel);
    weights.end_queries(begin, end);
    const int64_t pairs = multiplied_pairs(shape_.padded());
    // All columns of a few rows are written at a time, while the packed matrix stays in cache for the next.
    const bool small = pairs * parts * width_ * static_cast<int64_t>(sizeof(Pair)) <= query_block_bytes / 2;
    const int64_t at_once = small ? pair_rows : Shape::key_group;
    for (int64_t row0 = begin; row0 < end; row0 += at_once) {
      const int64_t row1 = min_of(row0 + at_once, end);
      for (int64_t p = 0; p < widths_.count(); ++p) {
        const int64_t lanes = widths_.vectors(p) * S::lanes;
        for (int64_t row = row0; row < row1; row += pair_rows)
          pair_product<typename Weights::ByKey, parts>(weights.key_tile(row / pair_rows), panel(p), widths_.vectors(p),
                                                       pairs_, 0, pairs, tiles.data() + (row - row0) * lanes, lanes,
                                                       false);
        this->write_columns(tiles.data(), k0 + row0, row1 - row0, lanes, p * S::panel);
      }
    }
  }

 private:
  Pair* panel(int64_t panel) { return packed_.data() + panel * S::panel * parts * pairs_; }

  const Shape& shape_;
  const M* matrix_;
  const int64_t width_;
  const Panels<float> widths_;
  const int64_t pairs_;
  Buffer<Pair> packed_;
};

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
