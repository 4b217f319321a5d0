// Forward with values in place of classes, on the CPU, compiled once per instruction set.
//
// As the backward, work is cut into (1,024 queries) x (a block of keys): the affinities of a block lie in a buffer of a
// few MB, from which their product with the values is added to the scores (cpu_weights.h).
#pragma once

#include "cache_retrieval/cpu_weights.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

using vlmadapt::cache_retrieval::DenseForwardParams;

template <class Products>
class DenseForward {
  using T = typename Products::Input;
  using A = Accum<T>;
  using S = Simd<A>;
  using Mask = typename S::Mask;

 public:
  DenseForward(const DenseForwardParams& p, const Parallel& parallel)
      : p_(p),
        parallel_(parallel),
        packed_size_(Products::packed_size(p.side.width)),
        shape_(p.num_queries, p.num_keys),
        packed_(shape_.few ? 0 : shape_.most_queries * packed_size_),
        affinities_(shape_, true),
        scores_(shape_, p.values, p.num_classes, {p.scores, false}) {}

  bool run() {
    for (first_ = 0; first_ < p_.num_queries; first_ += block_queries) {
      shape_.columns = Panels<A>{min_of(block_queries, p_.num_queries - first_)};
      if (!shape_.few) pack_queries<Products, T>(p_.side, first_, shape_.columns.columns, packed_.data(), parallel_);
      scores_.begin(first_);
      for (int64_t k0 = 0; k0 < p_.num_keys; k0 += shape_.key_block) {
        const int64_t keys = min_of(shape_.key_block, p_.num_keys - k0);
        compute_affinities(k0, keys);
        scores_.add(affinities_, k0, keys, parallel_);
      }
      scores_.finish(parallel_);
    }
    return !undefined_;
  }

 private:
  // A task is a group of keys and a block of queries.
  void compute_affinities(int64_t k0, int64_t keys) {
    const int64_t count = shape_.columns.columns;
    const int64_t block = query_block<Products>(p_.side.width);
    const int64_t blocks = (count + block - 1) / block;
    auto tasks = [&](int64_t begin, int64_t end) {
      [[maybe_unused]] typename Products::Scope scope;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row0 = task / blocks * shape_.key_group, row1 = min_of(row0 + shape_.key_group, keys);
        const int64_t start = task % blocks * block;
        compute_group(k0, row0, row1, start, min_of(block, count - start));
        if constexpr (Products::exact)
          if (shape_.few) scores_.sum_few(affinities_, k0, row0, row1);
      }
    };
    parallel_ranges(parallel_, (keys + shape_.key_group - 1) / shape_.key_group * blocks, tasks);
  }

  void compute_group(int64_t k0, int64_t begin, int64_t end, int64_t start, int64_t count) {
    const Panels<A> columns{count};
    const int64_t padded = columns.padded();
    typename Products::template Tiles<> side(p_.side, shape_.few ? nullptr : packed_.data() + start * packed_size_,
                                             first_ + start, columns);
    QueryValues<A> scale(p_.side.scale, first_ + start, count, padded);
    QueryValues<A> center(p_.side.center, first_ + start, count, padded);
    typename WeightPanels<Products>::Writer affinities(affinities_, start, padded, true);
    Buffer<A> tile(Products::rows * padded);
    Buffer<Mask> own_row(padded);
    typename S::I large{};
    std::memset(tile.data(), 0, static_cast<size_t>(Products::rows * padded) * sizeof(A));
    for (int64_t q = 0; q < padded; ++q)
      own_row[q] = own_row_of<Mask>(q < count ? p_.own_key : nullptr, first_ + start + q, k0, begin, end);
    for (int64_t row0 = begin; row0 < end; row0 += Products::rows) {
      const int64_t rows = min_of(Products::rows, end - row0);
      side.product([&](int64_t r) { return k0 + row0 + r; }, rows, tile.data(), padded);
      for (int64_t r = 0; r < rows; ++r) {
        const A* similarity = tile.data() + r * padded;
        if (p_.similarities != nullptr)
          std::memcpy(static_cast<A*>(p_.similarities) + (k0 + row0 + r) * p_.num_queries + first_ + start, similarity,
                      static_cast<size_t>(count) * sizeof(A));
        for (int64_t q = 0; q < padded; q += S::lanes) {
          typename S::V affinity = exp(scale[q] * (S::load(similarity + q) - center[q]));
          if (p_.own_key != nullptr) {
            const typename S::I own = S::load_mask(own_row.data() + q) == static_cast<Mask>(row0 + r);
            affinity = own ? typename S::V{} : affinity;
          }
          affinities.put(row0 + r, q, affinity);
          if constexpr (Products::splits_weights) large |= is_large(affinity);
        }
      }
      affinities.end_tile(row0, rows);
    }
    bool undefined = side.undefined();
    for (int lane = 0; lane < S::lanes; ++lane) undefined |= large[lane] != 0;
    if (undefined) __atomic_store_n(&undefined_, true, __ATOMIC_RELAXED);
  }

  const DenseForwardParams& p_;
  const Parallel& parallel_;
  const int64_t packed_size_;  // of a query
  WeightShape<Products> shape_;
  Buffer<typename Products::Packed> packed_;
  WeightPanels<Products> affinities_;
  SumOverKeys<Products, T> scores_;
  bool undefined_ = false;
  int64_t first_ = 0;
};

// False as of forward.
template <class Products>
inline bool dense_forward(const DenseForwardParams& p, const Parallel& parallel) {
  return DenseForward<Products>(p, parallel).run();
}

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
