// Backward on the CPU, compiled once per instruction set. One stream; the affinities are recomputed.
//
// Work is cut into (1,024 queries) x (a block of keys). For each, phase 1 recomputes the products and leaves
// W[k, q] = weight scale G[q, k] in a buffer of a few MB; phase 2 adds W^T keys to the query gradients and phase 3
// W queries to the key gradients. Every phase splits by size alone and each output is owned by one task, so there
// are neither atomics nor a copy of the gradients per thread, and results do not depend on the thread count.
//
// W is stored in panels of queries, [panel][key][lanes]: phase 1 writes it straight from its tiles, phase 2 reads a
// panel as the packed side and phase 3 reads rows of it as the broadcast side.
#pragma once

#include "cache_retrieval/cpu_forward.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

using vlmadapt::cache_retrieval::BackwardParams;

constexpr int64_t backward_queries = 1024;
constexpr int64_t key_block = 72 * tile_rows;
constexpr int64_t key_group = 6 * tile_rows;  // keys of one task
constexpr int64_t sum_block = 128;             // terms summed in registers before they join the gradient

template <class T>
class Backward {
  using A = Accum<T>;
  using S = Simd<A>;
  using Mask = typename S::Mask;

 public:
  Backward(const BackwardParams& p, const Parallel& parallel)
      : p_(p),
        parallel_(parallel),
        width_(p.stream.width),
        most_queries_(round_up(min_of(backward_queries, p.num_queries), S::panel)),
        most_keys_(round_up(min_of(key_block, p.num_keys), tile_rows)),
        width_tiles_((width_ + tile_rows - 1) / tile_rows),
        by_query_(most_queries_ * width_),
        by_width_(p.grad_keys != nullptr ? round_up(width_, S::panel) * most_queries_ : 0),
        grad_by_class_(p.num_classes * most_queries_),
        weights_(most_queries_ * most_keys_),
        packed_keys_(p.grad_queries != nullptr ? width_tiles_ * most_keys_ * tile_rows : 0),
        grad_queries_(p.grad_queries != nullptr ? width_tiles_ * tile_rows * most_queries_ : 0),
        group_sums_(2 * most_queries_ * (most_keys_ / key_group + 1)) {}

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
      recompute_weights(k0, keys);
      if (p_.grad_queries != nullptr) add_query_gradients(k0, keys);
      if (p_.grad_keys != nullptr) add_key_gradients(k0, keys);
    }
    if (p_.grad_queries != nullptr) write_query_gradients();
  }

  void prepare_queries() {
    const int64_t count = columns_.columns;
    pack_queries<T>(p_.stream, first_, count, by_query_.data(), parallel_);
    auto by_class = [&](int64_t begin, int64_t end) {
      const A* grad = static_cast<const A*>(p_.grad_scores) + first_ * p_.num_classes;
      constexpr int64_t block = 16;
      for (int64_t c0 = begin; c0 < end; c0 += block)
        for (int64_t q = 0; q < padded_; ++q)
          for (int64_t c = c0; c < min_of(c0 + block, end); ++c)
            grad_by_class_[c * padded_ + q] = q < count ? grad[q * p_.num_classes + c] : A(0);
    };
    parallel_ranges(parallel_, p_.num_classes, by_class);
    if (p_.grad_keys != nullptr) {
      const Panels<A> widths{width_};
      auto by_width = [&](int64_t begin, int64_t end) {
        const T* queries = static_cast<const T*>(p_.stream.queries) + first_ * width_;
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
    if (p_.grad_queries != nullptr)
      std::memset(grad_queries_.data(), 0, static_cast<size_t>(width_tiles_ * tile_rows * padded_) * sizeof(A));
    A* outputs[] = {grad_of(p_.grad_scale), grad_of(p_.grad_center), grad_of(p_.grad_weight)};
    for (A* output : outputs)
      for (int64_t q = 0; q < count; ++q) output[q] = 0;
  }

  A* grad_of(void* output) const { return static_cast<A*>(output) + first_; }

  // Phase 1. A task is a group of keys and a block of queries.
  void recompute_weights(int64_t k0, int64_t keys) {
    const int64_t block = query_block<A>(width_);
    const int64_t blocks = (columns_.columns + block - 1) / block;
    const int64_t groups = (keys + key_group - 1) / key_group;
    auto tasks = [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task / blocks, start = task % blocks * block;
        recompute_group(k0, group * key_group, min_of((group + 1) * key_group, keys), start,
                        min_of(block, columns_.columns - start), group_sums_.data() + group * 2 * most_queries_);
      }
    };
    parallel_ranges(parallel_, groups * blocks, tasks);
    const A* weight = static_cast<const A*>(p_.weight);
    const A* scale = static_cast<const A*>(p_.stream.scale);
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

  void recompute_group(int64_t k0, int64_t begin, int64_t end, int64_t start, int64_t count, A* sums) {
    const Panels<A> columns{count};
    const int64_t padded = columns.padded();
    StreamTiles<T> stream(p_.stream, by_query_.data() + start * width_, first_ + start, columns);
    QueryValues<A> scale(p_.stream.scale, first_ + start, count, padded);
    QueryValues<A> center(p_.stream.center, first_ + start, count, padded);
    Buffer<A> shares(padded), tile(tile_rows * padded);
    Buffer<Mask> own_row(padded);
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
      stream.product([&](int64_t r) { return k0 + row0 + r; }, rows, tile.data(), padded);
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

  const A* weight_panel(int64_t panel) { return weights_.data() + panel * S::panel * most_keys_; }

  // Phase 2: grad_queries^T[d, q] += sum_k keys[k, d] W[k, q]. A task is a few tiles of the width.
  void add_query_gradients(int64_t k0, int64_t keys) {
    constexpr int64_t tiles_per_task = 4;
    auto tasks = [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t from = task * tiles_per_task, to = min_of(from + tiles_per_task, width_tiles_);
        for (int64_t t = from; t < to; ++t) pack_keys(k0, keys, t);
        for (int64_t panel = 0; panel < columns_.count(); ++panel)
          for (int64_t t = from; t < to; ++t)
            for (int64_t k = 0; k < keys; k += sum_block) {
              const A* a = packed_keys_.data() + (t * most_keys_ + k) * tile_rows;
              const A* b = weight_panel(panel) + k * columns_.vectors(panel) * S::lanes;
              A* c = grad_queries_.data() + t * tile_rows * padded_ + panel * S::panel;
              const int64_t depth = min_of(sum_block, keys - k);
              if (columns_.vectors(panel) == 2)
                product_tile<A, 2, 1, tile_rows>(a, b, depth, c, padded_, true);
              else
                product_tile<A, 1, 1, tile_rows>(a, b, depth, c, padded_, true);
            }
      }
    };
    parallel_ranges(parallel_, (width_tiles_ + tiles_per_task - 1) / tiles_per_task, tasks);
  }

  void pack_keys(int64_t k0, int64_t keys, int64_t width_tile) {
    const int64_t d0 = width_tile * tile_rows, columns = min_of(tile_rows, width_ - d0);
    const T* source = static_cast<const T*>(p_.stream.keys) + k0 * width_ + d0;
    A* target = packed_keys_.data() + width_tile * most_keys_ * tile_rows;
    for (int64_t k = 0; k < keys; ++k)
      for (int64_t d = 0; d < tile_rows; ++d)
        target[k * tile_rows + d] = d < columns ? to_accum(source[k * width_ + d]) : A(0);
  }

  void write_query_gradients() {
    auto body = [&](int64_t begin, int64_t end) {
      A* output = static_cast<A*>(p_.grad_queries) + first_ * width_;
      for (int64_t q = begin; q < end; ++q)
        for (int64_t d = 0; d < width_; ++d) output[q * width_ + d] = grad_queries_[d * padded_ + q];
    };
    parallel_ranges(parallel_, columns_.columns, body);
  }

  // Phase 3: grad_keys[k, d] += sum_q W[k, q] queries[q, d]. A task is a group of keys.
  void add_key_gradients(int64_t k0, int64_t keys) {
    const Panels<A> widths{width_};
    auto tasks = [&](int64_t begin, int64_t end) {
      Buffer<A> tile(tile_rows * S::panel);
      for (int64_t task = begin; task < end; ++task)
        for (int64_t p = 0; p < widths.count(); ++p) {
          const int64_t lanes = widths.vectors(p) * S::lanes;
          const A* b = by_width_.data() + p * S::panel * padded_;
          for (int64_t row0 = task * key_group; row0 < min_of((task + 1) * key_group, keys); row0 += tile_rows) {
            if (lanes == S::panel)
              multiply_weights<2>(row0, b, tile.data());
            else
              multiply_weights<1>(row0, b, tile.data());
            write_key_gradients(k0 + row0, min_of(tile_rows, keys - row0), p * S::panel, lanes, tile.data());
          }
        }
    };
    parallel_ranges(parallel_, (keys + key_group - 1) / key_group, tasks);
  }

  template <int NV>
  void multiply_weights(int64_t row0, const A* b, A* tile) {
    constexpr int64_t lanes = NV * S::lanes;
    constexpr int64_t panels_at_once = sum_block / S::panel;
    if (columns_.count() == 0) std::memset(tile, 0, sizeof(A) * tile_rows * lanes);
    const int64_t full = columns_.count() - (columns_.count() > 0 && columns_.vectors(columns_.count() - 1) == 1);
    for (int64_t panel = 0; panel < full; panel += panels_at_once)
      product_tile<A, NV, S::panel, 1>(weight_panel(panel) + row0 * S::panel, b + panel * S::panel * lanes, S::panel,
                                       tile, lanes, panel > 0, min_of(panels_at_once, full - panel),
                                       S::panel * most_keys_);
    if (full < columns_.count())
      product_tile<A, NV, S::lanes, 1>(weight_panel(full) + row0 * S::lanes, b + full * S::panel * lanes, S::lanes, tile,
                                       lanes, full > 0);
  }

  void write_key_gradients(int64_t key, int64_t rows, int64_t d0, int64_t lanes, const A* tile) {
    const int64_t columns = min_of(lanes, width_ - d0);
    for (int64_t r = 0; r < rows; ++r) {
      A* output = static_cast<A*>(p_.grad_keys) + (key + r) * width_ + d0;
      for (int64_t d = 0; d < columns; ++d) output[d] = (first_ > 0 ? output[d] : A(0)) + tile[r * lanes + d];
    }
  }

  const BackwardParams& p_;
  const Parallel& parallel_;
  const int64_t width_, most_queries_, most_keys_, width_tiles_;
  Buffer<A> by_query_, by_width_, grad_by_class_, weights_, packed_keys_, grad_queries_, group_sums_;
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
