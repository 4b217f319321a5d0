// Backward on the CPU, compiled once per instruction set. One stream.
//
// Work is cut into (1,024 queries) x (a block of keys). For each, phase 1 takes the similarities that the forward
// kept, or computes them again, and leaves W[k, q] = weight scale G[q, k] in a buffer of a few MB; phase 2 adds
// W^T keys to the query gradients and phase 3 W queries to the key gradients. Every phase splits by size alone and
// each output is owned by one task, so there are neither atomics nor a copy of the gradients per thread, and results
// do not depend on the thread count.
//
// W is stored in panels of queries, [panel][key][lanes]: phase 1 writes it straight from its tiles, phase 2 reads a
// panel as the packed side and phase 3 reads rows of it as the broadcast side.
#pragma once

#include "cache_retrieval/cpu_side.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

using vlmadapt::cache_retrieval::BackwardParams;

constexpr int64_t backward_queries = 1024;
constexpr int64_t key_block = 144 * tile_rows;
constexpr int64_t key_group = 12 * tile_rows;      // keys of one task
constexpr int64_t sum_block = 128;                 // terms summed in registers before they join the gradient
constexpr int64_t resident_block = 4 * sum_block;  // depth of the slices that a task keeps in L2
constexpr int64_t width_group = 10;                // tiles of the width in one task
constexpr int64_t panel_group = 8;                 // panels of queries in one task
constexpr int64_t pack_rows = 16;

template <class T>
class Backward {
  using A = Accum<T>;
  using S = Simd<A>;
  using Mask = typename S::Mask;

 public:
  Backward(const BackwardParams& p, const Parallel& parallel)
      : p_(p),
        parallel_(parallel),
        width_(p.side.width),
        few_(p.num_queries > 0 && p.num_queries <= max_dot_queries && max_dot_queries <= S::lanes),
        packed_(!few_ && p.similarities == nullptr),
        most_queries_(round_up(min_of(backward_queries, p.num_queries), S::panel)),
        most_keys_(round_up(min_of(key_block, p.num_keys), tile_rows)),
        width_tiles_((width_ + tile_rows - 1) / tile_rows),
        by_query_(packed_ ? most_queries_ * width_ : 0),
        by_width_(p.grad_keys != nullptr && !few_ ? round_up(width_, S::panel) * most_queries_ : 0),
        grad_by_class_(p.num_classes * most_queries_),
        weights_(most_queries_ * most_keys_),
        packed_keys_(p.grad_queries != nullptr && !few_ ? width_tiles_ * most_keys_ * tile_rows : 0),
        grad_queries_(p.grad_queries != nullptr && !few_ ? width_tiles_ * tile_rows * most_queries_ : 0),
        group_sums_(2 * most_queries_ * (most_keys_ / key_group + 1)),
        few_partials_(few_ ? max_dot_queries * width_ * (most_keys_ / key_group + 1) : 0) {}

  void run() {
    for (int64_t first = 0; first < p_.num_queries || first == 0; first += backward_queries)
      run_queries(first, max_of(min_of(backward_queries, p_.num_queries - first), 0));
  }

 private:
  void run_queries(int64_t first, int64_t count) {
    first_ = first;
    columns_ = Panels<A>{count};
    padded_ = columns_.padded();
    if (count > 0) prepare_queries();
    for (int64_t k0 = 0; k0 < p_.num_keys; k0 += key_block) {
      const int64_t keys = min_of(key_block, p_.num_keys - k0);
      compute_weights(k0, keys);
      if (few_) {
        add_few_gradients(keys);
        continue;
      }
      if (p_.grad_queries != nullptr) add_query_gradients(k0, keys);
      if (p_.grad_keys != nullptr) add_key_gradients(k0, keys);
    }
    if (p_.grad_queries != nullptr && !few_) write_query_gradients();
  }

  void prepare_queries() {
    const int64_t count = columns_.columns;
    if (packed_) pack_queries<T>(p_.side, first_, count, by_query_.data(), parallel_);
    auto by_class = [&](int64_t begin, int64_t end) {
      const A* grad = static_cast<const A*>(p_.grad_scores) + first_ * p_.num_classes;
      constexpr int64_t block = 16;
      for (int64_t c0 = begin; c0 < end; c0 += block)
        for (int64_t q = 0; q < padded_; ++q)
          for (int64_t c = c0; c < min_of(c0 + block, end); ++c)
            grad_by_class_[c * padded_ + q] = q < count ? grad[q * p_.num_classes + c] : A(0);
    };
    parallel_ranges(parallel_, p_.num_classes, by_class);
    if (p_.grad_keys != nullptr && !few_) {
      const Panels<A> widths{width_};
      auto by_width = [&](int64_t begin, int64_t end) {
        const T* queries = static_cast<const T*>(p_.side.queries) + first_ * width_;
        for (int64_t p = begin; p < end; ++p) {
          const int64_t lanes = widths.vectors(p) * S::lanes;
          A* panel = by_width_.data() + p * S::panel * padded_;
          for (int64_t q = 0; q < padded_; ++q)
            for (int64_t d = 0; d < lanes; ++d) {
              const int64_t column = p * S::panel + d;
              panel[q * lanes + d] = q < count && column < width_ ? to_accum(queries[q * width_ + column]) : A(0);
            }
        }
      };
      parallel_ranges(parallel_, widths.count(), by_width);
    }
    if (p_.grad_queries != nullptr && !few_)
      std::memset(grad_queries_.data(), 0, static_cast<size_t>(width_tiles_ * tile_rows * padded_) * sizeof(A));
    if (p_.grad_queries != nullptr && few_)
      std::memset(p_.grad_queries, 0, static_cast<size_t>(count * width_) * sizeof(A));
    A* outputs[] = {grad_of(p_.grad_scale), grad_of(p_.grad_center), grad_of(p_.grad_weight)};
    for (A* output : outputs)
      for (int64_t q = 0; q < count; ++q) output[q] = 0;
  }

  A* grad_of(void* output) const { return static_cast<A*>(output) + first_; }

  // Phase 1. A task is a group of keys and a block of queries.
  void compute_weights(int64_t k0, int64_t keys) {
    const int64_t block = query_block<A>(width_);
    const int64_t blocks = (columns_.columns + block - 1) / block;
    const int64_t groups = (keys + key_group - 1) / key_group;
    auto tasks = [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task / blocks, start = task % blocks * block;
        weigh_group(k0, group * key_group, min_of((group + 1) * key_group, keys), start,
                    min_of(block, columns_.columns - start), group_sums_.data() + group * 2 * most_queries_);
        if (few_) few_gradients(k0, group);
      }
    };
    parallel_ranges(parallel_, groups * blocks, tasks);
    const A* weight = static_cast<const A*>(p_.weight);
    const A* scale = static_cast<const A*>(p_.side.scale);
    for (int64_t group = 0; group < groups; ++group) {
      const A* sums = group_sums_.data() + group * 2 * most_queries_;
      for (int64_t q = 0; q < columns_.columns; ++q) {
        const A share = weight != nullptr ? weight[first_ + q] : A(1);
        grad_of(p_.grad_weight)[q] += sums[q];
        grad_of(p_.grad_scale)[q] += share * sums[most_queries_ + q];
        grad_of(p_.grad_center)[q] -= share * scale[first_ + q] * sums[q];
      }
    }
  }

  void weigh_group(int64_t k0, int64_t begin, int64_t end, int64_t start, int64_t count, A* sums) {
    const Panels<A> columns{count};
    const int64_t padded = columns.padded();
    SideTiles<T> side(p_.side, packed_ ? by_query_.data() + start * width_ : nullptr, first_ + start, columns);
    QueryValues<A> scale(p_.side.scale, first_ + start, count, padded);
    QueryValues<A> center(p_.side.center, first_ + start, count, padded);
    Buffer<A> shares(padded), tile(tile_rows * padded);
    Buffer<Mask> own_row(padded);
    std::memset(tile.data(), 0, static_cast<size_t>(tile_rows * padded) * sizeof(A));
    const A* weight = static_cast<const A*>(p_.weight);
    for (int64_t q = 0; q < padded; ++q) {
      const bool real = q < count;
      const int64_t own = real && p_.own_key != nullptr ? p_.own_key[first_ + start + q] - k0 : -1;
      own_row[q] = own >= begin && own < end ? static_cast<Mask>(own) : Mask(-1);
      shares[q] = !real ? A(0) : weight != nullptr ? weight[first_ + start + q] : A(1);
      sums[start + q] = sums[most_queries_ + start + q] = 0;
    }
    for (int64_t row0 = begin; row0 < end; row0 += tile_rows) {
      const int64_t rows = min_of(tile_rows, end - row0);
      if (p_.similarities == nullptr)
        side.product([&](int64_t r) { return k0 + row0 + r; }, rows, tile.data(), padded);
      else
        load_similarities(k0 + row0, rows, first_ + start, count, tile.data(), padded);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t key = k0 + row0 + r;
        const A* grad = grad_by_class_.data() + p_.labels[key] * padded_ + start;
        const A count_of_key = p_.multiplicity != nullptr ? static_cast<const A*>(p_.multiplicity)[key] : A(1);
        for (int64_t q = 0; q < padded; q += S::lanes) {
          const typename S::V distance = S::load(tile.data() + r * padded + q) - center[q];
          typename S::V counts = S::broadcast(count_of_key);
          if (p_.own_key != nullptr) {
            const typename S::I own = S::load_mask(own_row.data() + q) == static_cast<Mask>(row0 + r);
            counts = own ? counts - A(1) : counts;
          }
          typename S::V g = S::load(grad + q) * counts * exp(scale[q] * distance);
          // Padding lanes have scale and grad zero, so g is zero there and adds nothing.
          A* zero = sums + start + q;
          A* first = sums + most_queries_ + start + q;
          S::store(zero, S::load(zero) + g);
          S::store(first, S::load(first) + g * distance);
          const int64_t panel = (start + q) / S::panel;
          A* target = weights_.data() + panel * S::panel * most_keys_ +
                      (row0 + r) * columns_.vectors(panel) * S::lanes + (start + q) % S::panel;
          S::store(target, g * S::load(shares.data() + q) * scale[q]);
        }
      }
    }
  }

  void load_similarities(int64_t key, int64_t rows, int64_t query, int64_t count, A* tile, int64_t padded) {
    const A* kept = static_cast<const A*>(p_.similarities) + key * p_.num_queries + query;
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(tile + r * padded, kept + r * p_.num_queries, static_cast<size_t>(count) * sizeof(A));
  }

  // With few queries both gradients of a group of keys are sums of rows, taken while its keys are still in cache.
  void few_gradients(int64_t k0, int64_t group) {
    const int64_t begin = group * key_group, end = min_of(begin + key_group, min_of(key_block, p_.num_keys - k0));
    const int64_t count = columns_.columns;
    const T* queries = static_cast<const T*>(p_.side.queries);
    A* partial = few_partials_.data() + group * max_dot_queries * width_;
    std::memset(partial, 0, static_cast<size_t>(count * width_) * sizeof(A));
    for (int64_t k = begin; k < end; ++k) {
      const A* w = weights_.data() + k * S::lanes;
      if (p_.grad_queries != nullptr) {
        const T* key = static_cast<const T*>(p_.side.keys) + (k0 + k) * width_;
        for (int64_t q = 0; q < count; ++q)
          for (int64_t d = 0; d < width_; ++d) partial[q * width_ + d] += w[q] * to_accum(key[d]);
      }
      if (p_.grad_keys != nullptr) {
        A* output = static_cast<A*>(p_.grad_keys) + (k0 + k) * width_;
        for (int64_t d = 0; d < width_; ++d) output[d] = w[0] * to_accum(queries[d]);
        for (int64_t q = 1; q < count; ++q)
          for (int64_t d = 0; d < width_; ++d) output[d] += w[q] * to_accum(queries[q * width_ + d]);
      }
    }
  }

  void add_few_gradients(int64_t keys) {
    if (p_.grad_queries == nullptr) return;
    A* output = static_cast<A*>(p_.grad_queries);
    for (int64_t group = 0; group * key_group < keys; ++group)
      for (int64_t i = 0; i < columns_.columns * width_; ++i)
        output[i] += few_partials_[group * max_dot_queries * width_ + i];
  }

  const A* weight_panel(int64_t panel) { return weights_.data() + panel * S::panel * most_keys_; }

  // Phase 2: grad_queries^T[d, q] += sum_k keys[k, d] W[k, q]. A task is a few tiles of the width and a few panels.
  void add_query_gradients(int64_t k0, int64_t keys) {
    auto packing = [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        pack_keys(k0, block * pack_rows, min_of((block + 1) * pack_rows, keys));
    };
    parallel_ranges(parallel_, (keys + pack_rows - 1) / pack_rows, packing);
    const int64_t groups = (columns_.count() + panel_group - 1) / panel_group;
    auto tasks = [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t tile = task / groups * width_group, panel = task % groups * panel_group;
        for (int64_t k = 0; k < keys; k += resident_block)
          add_query_block(tile, min_of(tile + width_group, width_tiles_), panel,
                          min_of(panel + panel_group, columns_.count()), k, min_of(k + resident_block, keys));
      }
    };
    parallel_ranges(parallel_, (width_tiles_ + width_group - 1) / width_group * groups, tasks);
  }

  void add_query_block(int64_t tile0, int64_t tile1, int64_t panel0, int64_t panel1, int64_t k0, int64_t k1) {
    for (int64_t panel = panel0; panel < panel1; ++panel)
      for (int64_t k = k0; k < k1; k += sum_block)
        for (int64_t t = tile0; t < tile1; ++t) {
          const A* a = packed_keys_.data() + (t * most_keys_ + k) * tile_rows;
          const A* b = weight_panel(panel) + k * columns_.vectors(panel) * S::lanes;
          A* c = grad_queries_.data() + t * tile_rows * padded_ + panel * S::panel;
          const int64_t depth = min_of(sum_block, k1 - k);
          if (columns_.vectors(panel) == 2)
            product_tile<A, 2, 1, tile_rows>(a, b, depth, c, padded_, true);
          else
            product_tile<A, 1, 1, tile_rows>(a, b, depth, c, padded_, true);
        }
  }

  // packed_keys_[tile of the width][key][tile_rows], a few rows of keys at a time so that they are read from L1.
  void pack_keys(int64_t k0, int64_t begin, int64_t end) {
    for (int64_t t = 0; t < width_tiles_; ++t) {
      const int64_t d0 = t * tile_rows, columns = min_of(tile_rows, width_ - d0);
      const T* source = static_cast<const T*>(p_.side.keys) + k0 * width_ + d0;
      A* target = packed_keys_.data() + t * most_keys_ * tile_rows;
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

  void write_query_gradients() {
    auto body = [&](int64_t begin, int64_t end) {
      A* output = static_cast<A*>(p_.grad_queries) + first_ * width_;
      for (int64_t q = begin; q < end; ++q)
        for (int64_t d = 0; d < width_; ++d) output[q * width_ + d] = grad_queries_[d * padded_ + q];
    };
    parallel_ranges(parallel_, columns_.columns, body);
  }

  // Phase 3: grad_keys[k, d] += sum_q W[k, q] queries[q, d]. A task is a group of keys; a block of the packed
  // queries serves all of its tiles while it is in L1.
  void add_key_gradients(int64_t k0, int64_t keys) {
    const Panels<A> widths{width_};
    auto tasks = [&](int64_t begin, int64_t end) {
      Buffer<A> tiles(key_group * S::panel);
      for (int64_t task = begin; task < end; ++task)
        for (int64_t p = 0; p < widths.count(); ++p) {
          const int64_t row0 = task * key_group, row1 = min_of(row0 + key_group, keys);
          const int64_t lanes = widths.vectors(p) * S::lanes;
          const A* b = by_width_.data() + p * S::panel * padded_;
          if (lanes == S::panel)
            multiply_weights<2>(row0, row1, b, tiles.data());
          else
            multiply_weights<1>(row0, row1, b, tiles.data());
          write_key_gradients(k0 + row0, row1 - row0, p * S::panel, lanes, tiles.data());
        }
    };
    parallel_ranges(parallel_, (keys + key_group - 1) / key_group, tasks);
  }

  template <int NV>
  void multiply_weights(int64_t row0, int64_t row1, const A* b, A* tiles) {
    constexpr int64_t lanes = NV * S::lanes;
    constexpr int64_t panels_at_once = sum_block / S::panel;
    if (columns_.count() == 0) std::memset(tiles, 0, sizeof(A) * static_cast<size_t>(key_group * lanes));
    const int64_t full = columns_.count() - (columns_.count() > 0 && columns_.vectors(columns_.count() - 1) == 1);
    for (int64_t panel = 0; panel < full; panel += panels_at_once)
      for (int64_t row = row0; row < row1; row += tile_rows)
        product_tile<A, NV, S::panel, 1>(weight_panel(panel) + row * S::panel, b + panel * S::panel * lanes, S::panel,
                                         tiles + (row - row0) * lanes, lanes, panel > 0,
                                         min_of(panels_at_once, full - panel), S::panel * most_keys_);
    if (full < columns_.count())
      for (int64_t row = row0; row < row1; row += tile_rows)
        product_tile<A, NV, S::lanes, 1>(weight_panel(full) + row * S::lanes, b + full * S::panel * lanes, S::lanes,
                                         tiles + (row - row0) * lanes, lanes, full > 0);
  }

  void write_key_gradients(int64_t key, int64_t rows, int64_t d0, int64_t lanes, const A* tiles) {
    const int64_t columns = min_of(lanes, width_ - d0);
    for (int64_t r = 0; r < rows; ++r) {
      A* output = static_cast<A*>(p_.grad_keys) + (key + r) * width_ + d0;
      const A* tile = tiles + r * lanes;
      if (first_ > 0)
        for (int64_t d = 0; d < columns; ++d) output[d] += tile[d];
      else if (columns == S::panel)
        std::memcpy(output, tile, sizeof(A) * S::panel);
      else
        for (int64_t d = 0; d < columns; ++d) output[d] = tile[d];
    }
  }

  const BackwardParams& p_;
  const Parallel& parallel_;
  const int64_t width_;
  const bool few_;     // at most max_dot_queries: one pass over the keys, no packing
  const bool packed_;  // the product of phase 1 needs packed queries
  const int64_t most_queries_, most_keys_, width_tiles_;
  Buffer<A> by_query_, by_width_, grad_by_class_, weights_, packed_keys_, grad_queries_, group_sums_, few_partials_;
  int64_t first_ = 0, padded_ = 0;
  Panels<A> columns_{0};
};

template <class T>
inline void backward(const BackwardParams& p, const Parallel& parallel) {
  Backward<T>(p, parallel).run();
}

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
