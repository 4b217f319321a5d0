// Backward on the CPU, compiled once per instruction set. One stream.
//
// Work is cut into (1,024 queries) x (a block of keys). For each, phase 1 takes the similarities that the forward
// kept, or computes them again, and leaves W[k, q] = weight scale G[q, k] in a buffer of a few MB; phase 2 adds
// W^T keys to the query gradients and phase 3 W queries to the key gradients (cpu_weights.h), in the tasks of phase 1.
// With values phase 1 also multiplies them by the score gradients, and leaves the affinities, whose product with the
// score gradients is the values' gradient.
#pragma once

#include "cache_retrieval/cpu_weights.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

using vlmadapt::cache_retrieval::BackwardParams;
using vlmadapt::cache_retrieval::Kept;

template <class Products>
class Backward {
  using T = typename Products::Input;
  using A = Accum<T>;
  using S = Simd<A>;
  using Mask = typename S::Mask;

 public:
  Backward(const BackwardParams& p, const Parallel& parallel)
      : p_(p),
        parallel_(parallel),
        dense_(p.dense),
        upstream_{p.grad_scores, p.values, {}, {}, p.num_classes},
        weighs_upstream_(p.grad_queries != nullptr || p.grad_keys != nullptr || p.grad_scale != nullptr),
        shape_(p.num_queries, p.num_keys),
        packed_(!shape_.few && p.kept == nullptr),
        by_query_(packed_ ? shape_.most_queries * Products::packed_size(p.side.width) : 0),
        grads_(dense_ ? 0 : p.num_classes * shape_.most_queries),
        packed_grads_(dense_ && !shape_.few ? Products::packed_size(p.num_classes) * shape_.most_queries : 0),
        group_sums_(2 * shape_.most_queries * (shape_.groups + 1)),
        weights_(shape_, true),
        affinities_(shape_, p.grad_values != nullptr),
        grad_queries_(shape_, p.side.keys, p.side.width, {p.grad_queries, p.narrow_gradients}),
        grad_keys_(shape_, p.side.queries, p.side.width, {p.grad_keys, p.narrow_gradients}),
        grad_values_(shape_, p.grad_scores, p.num_classes, {p.grad_values, p.narrow_gradients}) {}

  bool run() {
    for (int64_t first = 0; first < p_.num_queries || first == 0; first += block_queries)
      run_queries(first, max_of(min_of(block_queries, p_.num_queries - first), 0));
    return !undefined_;
  }

 private:
  void run_queries(int64_t first, int64_t count) {
    first_ = first;
    shape_.columns = Panels<A>{count};
    prepare_queries();
    for (int64_t k0 = 0; k0 < p_.num_keys; k0 += shape_.key_block) {
      const int64_t keys = min_of(shape_.key_block, p_.num_keys - k0);
      compute_weights(k0, keys);
      if (p_.grad_queries != nullptr) grad_queries_.add(weights_, k0, keys, parallel_);
    }
    if (p_.grad_queries != nullptr) grad_queries_.finish(parallel_);
  }

  void prepare_queries() {
    const int64_t count = shape_.columns.columns;
    if (packed_) pack_queries<Products, T>(p_.side, first_, count, by_query_.data(), parallel_);
    if (!dense_)
      transpose_grads();
    else if (!shape_.few)
      pack_queries<Products, A>(upstream_, first_, count, packed_grads_.data(), parallel_);
    if (p_.grad_queries != nullptr) grad_queries_.begin(first_);
    if (p_.grad_keys != nullptr) grad_keys_.begin(first_, parallel_);
    if (p_.grad_values != nullptr) grad_values_.begin(first_, parallel_);
    if (p_.grad_scale == nullptr) return;
    A* outputs[] = {grad_of(p_.grad_scale), grad_of(p_.grad_center), grad_of(p_.grad_weight)};
    for (A* output : outputs)
      for (int64_t q = 0; q < count; ++q) output[q] = 0;
  }

  // grads_[class][query]
  void transpose_grads() {
    const int64_t padded = shape_.padded();
    auto by_class = [&](int64_t begin, int64_t end) {
      const A* grad = static_cast<const A*>(p_.grad_scores) + first_ * p_.num_classes;
      constexpr int64_t block = 16;
      for (int64_t c0 = begin; c0 < end; c0 += block)
        for (int64_t q = 0; q < padded; ++q)
          for (int64_t c = c0; c < min_of(c0 + block, end); ++c)
            grads_[c * padded + q] = q < shape_.columns.columns ? grad[q * p_.num_classes + c] : A(0);
    };
    parallel_ranges(parallel_, p_.num_classes, by_class);
  }

  A* grad_of(void* output) const { return static_cast<A*>(output) + first_; }

  // Phases 1 and 3. A task is a group of keys, whose weights are multiplied while they are in cache.
  void compute_weights(int64_t k0, int64_t keys) {
    const int64_t count = shape_.columns.columns;
    const int64_t block = query_block<Products>(p_.side.width + (dense_ ? p_.num_classes : 0));
    const int64_t groups = (keys + shape_.key_group - 1) / shape_.key_group;
    auto tasks = [&](int64_t begin, int64_t end) {
      [[maybe_unused]] typename Products::Scope scope;
      for (int64_t group = begin; group < end; ++group) {
        const int64_t row0 = group * shape_.key_group, row1 = min_of(row0 + shape_.key_group, keys);
        for (int64_t start = 0; start < count; start += block)
          weigh_group(k0, row0, row1, start, min_of(block, count - start), sums_of(group));
        if constexpr (Products::exact)
          if (shape_.few && p_.grad_queries != nullptr) grad_queries_.sum_few(weights_, k0, row0, row1);
        if (p_.grad_keys != nullptr) grad_keys_.add_group(weights_, k0, row0, row1);
        if (p_.grad_values != nullptr) grad_values_.add_group(affinities_, k0, row0, row1);
      }
    };
    parallel_ranges(parallel_, groups, tasks);
    if (p_.grad_scale == nullptr) return;
    for (int64_t group = 0; group < groups; ++group) {
      const A* sums = sums_of(group);
      for (int64_t q = 0; q < count; ++q) {
        const A share = value_of<A>(p_.weight, first_ + q);
        grad_of(p_.grad_weight)[q] += sums[q];
        grad_of(p_.grad_scale)[q] += share * sums[shape_.most_queries + q];
        grad_of(p_.grad_center)[q] -= share * value_of<A>(p_.side.scale, first_ + q) * sums[q];
      }
    }
  }

  A* sums_of(int64_t group) { return group_sums_.data() + group * 2 * shape_.most_queries; }

  void weigh_group(int64_t k0, int64_t begin, int64_t end, int64_t start, int64_t count, A* sums) {
    const Panels<A> columns{count};
    const int64_t padded = columns.padded();
    const int64_t size = Products::packed_size(p_.side.width), grads_size = Products::packed_size(p_.num_classes);
    typename Products::template Tiles<> side(p_.side, packed_ ? by_query_.data() + start * size : nullptr,
                                             first_ + start, columns);
    typename Products::template Tiles<A> upstream(
        upstream_, shape_.few ? nullptr : packed_grads_.data() + start * grads_size, first_ + start, columns);
    QueryValues<A> scale(p_.side.scale, first_ + start, count, padded);
    QueryValues<A> center(p_.side.center, first_ + start, count, padded);
    QueryValues<A> shares(p_.weight, first_ + start, count, padded);
    typename WeightPanels<Products>::Writer weights(weights_, start, padded, true);
    typename WeightPanels<Products>::Writer affinities(affinities_, start, padded, p_.grad_values != nullptr);
    Buffer<A> tile(Products::rows * padded), upstream_tile(dense_ ? Products::rows * padded : 0);
    Buffer<Mask> own_row(padded);
    const bool kept_affinities = p_.kept != nullptr && p_.kept_as == Kept::affinities;
    typename S::I large{};
    std::memset(tile.data(), 0, static_cast<size_t>(Products::rows * padded) * sizeof(A));
    if (dense_) std::memset(upstream_tile.data(), 0, static_cast<size_t>(Products::rows * padded) * sizeof(A));
    for (int64_t q = 0; q < padded; ++q) {
      own_row[q] = own_row_of<Mask>(q < count ? p_.own_key : nullptr, first_ + start + q, k0, begin, end);
      sums[start + q] = sums[shape_.most_queries + start + q] = 0;
    }
    for (int64_t row0 = begin; row0 < end; row0 += Products::rows) {
      const int64_t rows = min_of(Products::rows, end - row0);
      const auto key_of = [&](int64_t r) { return k0 + row0 + r; };
      if (p_.kept == nullptr)
        side.product(key_of, rows, tile.data(), padded);
      else
        load_kept(k0 + row0, rows, first_ + start, count, tile.data(), padded);
      if (dense_ && weighs_upstream_) upstream.product(key_of, rows, upstream_tile.data(), padded);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t key = k0 + row0 + r;
        const A* grad =
            dense_ ? upstream_tile.data() + r * padded : grads_.data() + p_.labels[key] * shape_.padded() + start;
        const A count_of_key = p_.multiplicity != nullptr ? static_cast<const A*>(p_.multiplicity)[key] : A(1);
        for (int64_t q = 0; q < padded; q += S::lanes) {
          const typename S::V distance = S::load(tile.data() + r * padded + q) - center[q];
          typename S::V counts = S::broadcast(count_of_key);
          if (p_.own_key != nullptr) {
            const typename S::I own = S::load_mask(own_row.data() + q) == static_cast<Mask>(row0 + r);
            counts = own ? counts - A(1) : counts;
          }
          const typename S::V affinity =
              counts * (kept_affinities ? S::load(tile.data() + r * padded + q) : exp(scale[q] * distance));
          const typename S::V g = S::load(grad + q) * affinity;
          // Padding lanes have scale and grad zero, so g is zero there and adds nothing.
          if (p_.grad_scale != nullptr) {
            A* zero = sums + start + q;
            A* first = sums + shape_.most_queries + start + q;
            S::store(zero, S::load(zero) + g);
            S::store(first, S::load(first) + g * distance);
          }
          const typename S::V weight = g * shares[q] * scale[q];
          weights.put(row0 + r, q, weight);
          if constexpr (Products::splits_weights) large |= is_large(weight);
          if (p_.grad_values == nullptr) continue;
          affinities.put(row0 + r, q, affinity);
          if constexpr (Products::splits_weights) large |= is_large(affinity);
        }
      }
      weights.end_tile(row0, rows);
      if (p_.grad_values != nullptr) affinities.end_tile(row0, rows);
    }
    bool undefined = side.undefined() || upstream.undefined();
    for (int lane = 0; lane < S::lanes; ++lane) undefined |= large[lane] != 0;
    if (undefined) __atomic_store_n(&undefined_, true, __ATOMIC_RELAXED);
  }

  void load_kept(int64_t key, int64_t rows, int64_t query, int64_t count, A* tile, int64_t padded) {
    for (int64_t r = 0; r < rows; ++r, tile += padded) {
      const int64_t at = (key + r) * p_.num_queries + query;
      if (p_.kept_as == Kept::similarities)
        std::memcpy(tile, static_cast<const A*>(p_.kept) + at, static_cast<size_t>(count) * sizeof(A));
      if constexpr (std::is_same_v<T, bf16>)
        if (p_.kept_as == Kept::affinities) load_affinities(static_cast<const uint16_t*>(p_.kept) + at, count, tile);
    }
  }

  const BackwardParams& p_;
  const Parallel& parallel_;
  const bool dense_;
  const Side upstream_;         // the score gradients are its queries, the values its keys
  const bool weighs_upstream_;  // not if the values' gradient alone is wanted
  WeightShape<Products> shape_;
  const bool packed_;  // the product of phase 1 needs packed queries
  Buffer<typename Products::Packed> by_query_;
  Buffer<A> grads_;
  Buffer<typename Products::Packed> packed_grads_;
  Buffer<A> group_sums_;
  WeightPanels<Products> weights_, affinities_;
  SumOverKeys<Products, T> grad_queries_;
  SumOverQueries<Products, T> grad_keys_;
  SumOverQueries<Products, A> grad_values_;
  int64_t first_ = 0;
  bool undefined_ = false;
};

// False as of forward, and where a weight is too large to split.
template <class Products>
inline bool backward(const BackwardParams& p, const Parallel& parallel) {
  return Backward<Products>(p, parallel).run();
}

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
