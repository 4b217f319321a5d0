// Weights of a block, (up to 1,024 queries) x (a block of keys), and the two products they take part in: W^T rows,
// which is summed over the keys, and W rows, which is summed over the queries. Compiled once per instruction set.
//
// Work is split by size alone and each output is owned by one task, so there are neither atomics nor a copy of the
// outputs per thread, and results do not depend on the thread count. Up to max_dot_queries queries nothing is packed:
// both products are sums of rows, taken a group of keys at a time while its rows are still in cache.
#pragma once

#include "cache_retrieval/cpu_side.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

constexpr int64_t block_queries = 1024;
constexpr int64_t sum_block = 128;                 // terms summed in registers before they join the output
constexpr int64_t resident_block = 4 * sum_block;  // depth of the slices that a task keeps in L2
constexpr int64_t width_group = 10;                // tiles of the width in one task
constexpr int64_t panel_group = 8;                 // panels of queries in one task
constexpr int64_t pack_rows = 16;
constexpr int64_t packed_tiles = 1120 / (tile_rows * width_group) * width_group;  // of the width, packed at a time

// The row of a group [begin, end), in the block at k0, that is the query's own key, or -1.
template <class Mask>
inline Mask own_row_of(const int64_t* own_key, int64_t query, int64_t k0, int64_t begin, int64_t end) {
  const int64_t row = own_key != nullptr ? own_key[query] - k0 : -1;
  return row >= begin && row < end ? static_cast<Mask>(row) : Mask(-1);
}

template <class Products>
struct WeightShape {
  using S = Simd<Accum<typename Products::Input>>;
  static constexpr int64_t key_group = Products::key_group;  // keys of one task
  static constexpr int64_t key_block = 12 * key_group;

  WeightShape(int64_t num_queries, int64_t num_keys)
      : num_queries(num_queries),
        num_keys(num_keys),
        few(Products::exact && num_queries > 0 && num_queries <= max_dot_queries && max_dot_queries <= S::lanes),
        most_queries(round_up(min_of(block_queries, num_queries), S::panel)),
        most_keys(round_up(min_of(key_block, num_keys), Products::rows)),
        groups((most_keys + key_group - 1) / key_group) {}

  const int64_t num_queries, num_keys;
  const bool few;
  const int64_t most_queries, most_keys, groups;
  Panels<Accum<typename Products::Input>> columns{0};  // the queries of the block

  int64_t padded() const { return columns.padded(); }
};

// W in panels of queries, [panel][key][lanes]: stored straight from the tiles it is made in, read as the packed side of
// one product and in rows, as the broadcast side, of the other. Empty unless `wanted`.
template <class Products>
class WeightPanels {
  using A = Accum<typename Products::Input>;
  using S = Simd<A>;
  using Shape = WeightShape<Products>;

 public:
  WeightPanels(const Shape& shape, bool wanted)
      : shape_(shape), data_(wanted ? shape.most_queries * shape.most_keys : 0) {}

  // Takes the weights of a tile of keys and a block of queries.
  class Writer {
   public:
    Writer(WeightPanels& panels, int64_t start, int64_t, bool) : panels_(panels), start_(start) {}
    void put(int64_t key, int64_t query, typename S::V weights) { S::store(panels_.at(key, start_ + query), weights); }
    void end_tile(int64_t, int64_t) {}

   private:
    WeightPanels& panels_;
    const int64_t start_;
  };

  A* at(int64_t key, int64_t query) {
    const int64_t panel = query / S::panel;
    return this->panel(panel) + key * shape_.columns.vectors(panel) * S::lanes + query % S::panel;
  }
  A* panel(int64_t panel) { return data_.data() + panel * S::panel * shape_.most_keys; }

 private:
  const Shape& shape_;
  Buffer<A> data_;
};

// A matrix to write, of the accumulation type or, if `narrow`, of the inputs', or none.
template <class T>
struct Result {
  using A = Accum<T>;
  void* data;
  bool narrow;

  explicit operator bool() const { return data != nullptr; }
  void write(int64_t at, const A* from, int64_t count) const {
    if (narrow)
      convert(from, count, static_cast<T*>(data) + at);
    else
      convert(from, count, static_cast<A*>(data) + at);
  }

 private:
  template <class To>
  static void convert(const A* from, int64_t count, To* to) {
    int64_t i = 0;
    for (; i + Simd<A>::lanes <= count; i += Simd<A>::lanes) store_narrowed(to + i, Simd<A>::load(from + i));
    for (; i < count; ++i) to[i] = from_accum<To>(from[i]);
  }
};

// The rows of a sum over queries, one a key, added up over blocks of queries. Where they are narrow in the end, a
// matrix of sums exists only if there are several blocks.
template <class T>
class RowsOfKeys {
  using A = Accum<T>;

 public:
  template <class Shape>
  RowsOfKeys(const Shape& shape, int64_t width, Result<T> out)
      : out_(out),
        width_(width),
        num_queries_(shape.num_queries),
        own_sums_(out && out.narrow && num_queries_ > block_queries ? shape.num_keys * width : 0),
        sums_{out.narrow ? own_sums_.data() : out.data, false} {}

 protected:
  void begin_block(int64_t first, int64_t columns) {
    first_ = first == 0;
    last_ = first + columns >= num_queries_;
  }

  // Columns [d0, d0 + lanes), as far as there are, of the rows of a block's keys; the tiles' own numbers are lost.
  void write_columns(A* tiles, int64_t key, int64_t rows, int64_t lanes, int64_t d0) {
    const int64_t columns = min_of(lanes, width_ - d0);
    for (int64_t r = 0; r < rows; ++r) {
      A* tile = tiles + r * lanes;
      const int64_t at = (key + r) * width_ + d0;
      if (!first_)
        for (int64_t d = 0; d < columns; ++d) tile[d] += static_cast<const A*>(sums_.data)[at + d];
      (last_ ? out_ : sums_).write(at, tile, columns);
    }
  }

  const Result<T> out_;

 private:
  const int64_t width_, num_queries_;
  Buffer<A> own_sums_;
  const Result<T> sums_;
  bool first_ = true, last_ = true;
};

// out[q, d] += sum_k W[k, q] matrix[k, d], with one row of the matrix, of type M, a key. Gathered as out^T.
template <class Products, class M>
class SumOverKeys {
  using A = Accum<M>;
  using S = Simd<A>;
  using Shape = WeightShape<Products>;
  using Weights = WeightPanels<Products>;

 public:
  // Without a result nothing may be called but the constructor.
  SumOverKeys(const Shape& shape, const void* matrix, int64_t width, Result<M> out)
      : shape_(shape),
        matrix_(static_cast<const M*>(matrix)),
        out_(out),
        width_(width),
        tiles_((width + tile_rows - 1) / tile_rows),
        packed_(out && !shape.few ? min_of(tiles_, packed_tiles) * shape.most_keys * tile_rows : 0),
        sums_(!out        ? 0
              : shape.few ? max_dot_queries * width
                          : tiles_ * tile_rows * shape.most_queries),
        few_sums_(out && shape.few ? max_dot_queries * width * shape.groups : 0) {}

  // Queries [first, first + columns).
  void begin(int64_t first) {
    first_ = first;
    const int64_t size = shape_.few ? max_dot_queries * width_ : tiles_ * tile_rows * shape_.padded();
    std::memset(sums_.data(), 0, static_cast<size_t>(size) * sizeof(A));
  }

  // Keys [begin, end) of the block at k0, when queries are few: within a task that owns the group.
  void sum_few(Weights& weights, int64_t k0, int64_t begin, int64_t end) {
    A* sums = few_sums_.data() + begin / Shape::key_group * max_dot_queries * width_;
    std::memset(sums, 0, static_cast<size_t>(shape_.columns.columns * width_) * sizeof(A));
    constexpr int64_t at_once = 4;  // rows, so that their sums are read and written less often
    for (int64_t k = begin; k < end; k += at_once)
      for (int64_t q = 0; q < shape_.columns.columns; ++q) {
        A w[at_once];
        const M* rows[at_once];
        const int64_t count = min_of(at_once, end - k);
        for (int64_t i = 0; i < count; ++i) {
          w[i] = *weights.at(k + i, q);
          rows[i] = matrix_ + (k0 + k + i) * width_;
        }
        if (count == at_once)
          add_rows<at_once>(w, rows, sums + q * width_);
        else
          for (int64_t i = 0; i < count; ++i) add_rows<1>(w + i, rows + i, sums + q * width_);
      }
  }

  void add(Weights& weights, int64_t k0, int64_t keys, const Parallel& parallel) {
    if (shape_.few) {
      for (int64_t group = 0; group * Shape::key_group < keys; ++group)
        for (int64_t i = 0; i < shape_.columns.columns * width_; ++i)
          sums_[i] += few_sums_[group * max_dot_queries * width_ + i];
      return;
    }
    for (int64_t first = 0; first < tiles_; first += packed_tiles) {
      const int64_t last = min_of(first + packed_tiles, tiles_);
      auto packing = [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block)
          pack(first, last, k0, block * pack_rows, min_of((block + 1) * pack_rows, keys));
      };
      parallel_ranges(parallel, (keys + pack_rows - 1) / pack_rows, packing);
      const Panels<A> columns = shape_.columns;
      const int64_t groups = (columns.count() + panel_group - 1) / panel_group;
      // A task is a few tiles of the width and a few panels.
      auto tasks = [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t tile = first + task / groups * width_group, panel = task % groups * panel_group;
          for (int64_t k = 0; k < keys; k += resident_block)
            add_block(weights, first, tile, min_of(tile + width_group, last), panel,
                      min_of(panel + panel_group, columns.count()), k, min_of(k + resident_block, keys));
        }
      };
      parallel_ranges(parallel, (last - first + width_group - 1) / width_group * groups, tasks);
    }
  }

  void finish(const Parallel& parallel) {
    auto body = [&](int64_t begin, int64_t end) {
      Buffer<A> row(width_);
      const int64_t padded = shape_.padded();
      for (int64_t q = begin; q < end; ++q) {
        for (int64_t d = 0; d < width_; ++d) row[d] = shape_.few ? sums_[q * width_ + d] : sums_[d * padded + q];
        out_.write((first_ + q) * width_, row.data(), width_);
      }
    };
    parallel_ranges(parallel, shape_.columns.columns, body);
  }

 private:
  template <int count>
  void add_rows(const A* w, const M* const* rows, A* sums) const {
    int64_t d = 0;
    for (; d + S::lanes <= width_; d += S::lanes) {
      typename S::V sum = S::load(sums + d);
      for (int i = 0; i < count; ++i) sum += w[i] * load_widened(rows[i] + d);
      S::store(sums + d, sum);
    }
    for (; d < width_; ++d)
      for (int i = 0; i < count; ++i) sums[d] += w[i] * to_accum(rows[i][d]);
  }

  void add_block(Weights& weights, int64_t first, int64_t tile0, int64_t tile1, int64_t panel0, int64_t panel1,
                 int64_t k0, int64_t k1) {
    const Panels<A> columns = shape_.columns;
    const int64_t padded = shape_.padded();
    for (int64_t panel = panel0; panel < panel1; ++panel)
      for (int64_t k = k0; k < k1; k += sum_block)
        for (int64_t t = tile0; t < tile1; ++t) {
          const A* a = packed_.data() + ((t - first) * shape_.most_keys + k) * tile_rows;
          const A* b = weights.panel(panel) + k * columns.vectors(panel) * S::lanes;
          A* c = sums_.data() + t * tile_rows * padded + panel * S::panel;
          const int64_t depth = min_of(sum_block, k1 - k);
          if (columns.vectors(panel) == 2)
            product_tile<A, 2, 1, tile_rows>(a, b, depth, c, padded, true);
          else
            product_tile<A, 1, 1, tile_rows>(a, b, depth, c, padded, true);
        }
  }

  // packed_[tile of the width][key][tile_rows], a few rows of the matrix at a time so that they are read from L1.
  void pack(int64_t first, int64_t last, int64_t k0, int64_t begin, int64_t end) {
    for (int64_t t = first; t < last; ++t) {
      const int64_t d0 = t * tile_rows, columns = min_of(tile_rows, width_ - d0);
      const M* source = matrix_ + k0 * width_ + d0;
      A* target = packed_.data() + (t - first) * shape_.most_keys * tile_rows;
      if (columns == tile_rows) {
        for (int64_t k = begin; k < end; ++k)
          for (int64_t d = 0; d < tile_rows; ++d) target[k * tile_rows + d] = to_accum(source[k * width_ + d]);
      } else {
        for (int64_t k = begin; k < end; ++k)
          for (int64_t d = 0; d < tile_rows; ++d)
            target[k * tile_rows + d] = d < columns ? to_accum(source[k * width_ + d]) : A(0);
      }
    }
  }

  const Shape& shape_;
  const M* matrix_;
  const Result<M> out_;
  int64_t first_ = 0;
  const int64_t width_, tiles_;
  Buffer<A> packed_, sums_, few_sums_;
};

// out[k, d] = sum_q W[k, q] matrix[q, d] over all blocks of queries, with one row of the matrix, of type M, a query.
template <class Products, class M>
class SumOverQueries : public RowsOfKeys<typename Products::Input> {
  using T = typename Products::Input;
  using A = Accum<M>;
  using S = Simd<A>;
  using Shape = WeightShape<Products>;
  using Weights = WeightPanels<Products>;

 public:
  // Without a result nothing may be called but the constructor.
  SumOverQueries(const Shape& shape, const void* matrix, int64_t width, Result<T> out)
      : RowsOfKeys<T>(shape, width, out),
        shape_(shape),
        matrix_(static_cast<const M*>(matrix)),
        width_(width),
        packed_(out ? round_up(width, S::panel) * (shape.few ? max_dot_queries : shape.most_queries) : 0) {}

  // Queries [first, first + columns).
  void begin(int64_t first, const Parallel& parallel) {
    this->begin_block(first, shape_.columns.columns);
    if (shape_.few) {
      for (int64_t i = 0; i < shape_.columns.columns * width_; ++i) packed_[i] = to_accum(matrix_[i]);
      return;
    }
    const Panels<A> widths{width_};
    auto packing = [&](int64_t begin, int64_t end) {
      const M* rows = matrix_ + first * width_;
      for (int64_t p = begin; p < end; ++p) {
        const int64_t lanes = widths.vectors(p) * S::lanes;
        A* panel = packed_.data() + p * S::panel * shape_.padded();
        for (int64_t q = 0; q < shape_.padded(); ++q)
          for (int64_t d = 0; d < lanes; ++d) {
            const int64_t column = p * S::panel + d;
            const bool inside = q < shape_.columns.columns && column < width_;
            panel[q * lanes + d] = inside ? to_accum(rows[q * width_ + column]) : A(0);
          }
      }
    };
    parallel_ranges(parallel, widths.count(), packing);
  }

  // Keys [begin, end) of the block at k0, within a task that owns the group. A block of the packed matrix serves all of
  // its tiles while it is in L1.
  void add_group(Weights& weights, int64_t k0, int64_t begin, int64_t end) {
    if (shape_.few) return add_few(weights, k0, begin, end);
    const Panels<A> widths{width_};
    Buffer<A> tiles(Shape::key_group * S::panel);
    for (int64_t p = 0; p < widths.count(); ++p) {
      const int64_t lanes = widths.vectors(p) * S::lanes;
      const A* b = packed_.data() + p * S::panel * shape_.padded();
      if (lanes == S::panel)
        multiply<2>(weights, begin, end, b, tiles.data());
      else
        multiply<1>(weights, begin, end, b, tiles.data());
      this->write_columns(tiles.data(), k0 + begin, end - begin, lanes, p * S::panel);
    }
  }

 private:
  void add_few(Weights& weights, int64_t k0, int64_t begin, int64_t end) {
    Buffer<A> row(width_);
    for (int64_t k = begin; k < end; ++k) {
      const A* w = weights.at(k, 0);
      for (int64_t d = 0; d < width_; ++d) row[d] = w[0] * packed_[d];
      for (int64_t q = 1; q < shape_.columns.columns; ++q)
        for (int64_t d = 0; d < width_; ++d) row[d] += w[q] * packed_[q * width_ + d];
      this->out_.write((k0 + k) * width_, row.data(), width_);
    }
  }

  template <int NV>
  void multiply(Weights& weights, int64_t row0, int64_t row1, const A* b, A* tiles) {
    const Panels<A> columns = shape_.columns;
    constexpr int64_t lanes = NV * S::lanes;
    constexpr int64_t panels_at_once = sum_block / S::panel;
    if (columns.count() == 0) std::memset(tiles, 0, sizeof(A) * static_cast<size_t>(Shape::key_group * lanes));
    const int64_t full = columns.count() - (columns.count() > 0 && columns.vectors(columns.count() - 1) == 1);
    for (int64_t panel = 0; panel < full; panel += panels_at_once)
      for (int64_t row = row0; row < row1; row += tile_rows)
        product_tile<A, NV, S::panel, 1>(weights.panel(panel) + row * S::panel, b + panel * S::panel * lanes, S::panel,
                                         tiles + (row - row0) * lanes, lanes, panel > 0,
                                         min_of(panels_at_once, full - panel), S::panel * shape_.most_keys);
    if (full < columns.count())
      for (int64_t row = row0; row < row1; row += tile_rows)
        product_tile<A, NV, S::lanes, 1>(weights.panel(full) + row * S::lanes, b + full * S::panel * lanes, S::lanes,
                                         tiles + (row - row0) * lanes, lanes, full > 0);
  }

  const Shape& shape_;
  const M* matrix_;
  const int64_t width_;
  Buffer<A> packed_;
};

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
