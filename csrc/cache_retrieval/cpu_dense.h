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

template <class T>
class DenseForward {
  using A = Accum<T>;
  using S = Simd<A>;
  using Mask = typename S::Mask;

 public:
  DenseForward(const DenseForwardParams& p, const Parallel& parallel)
      : p_(p),
        parallel_(parallel),
        shape_(p.num_queries, p.num_keys),
        packed_(shape_.few ? 0 : shape_.most_queries * p.side.width),
        affinities_(shape_, true),
        scores_(shape_, p.values, p.num_classes, p.scores) {}

  void run() {
    for (first_ = 0; first_ < p_.num_queries; first_ += block_queries) {
      shape_.columns = Panels<A>{min_of(block_queries, p_.num_queries - first_)};
      if (!shape_.few) pack_queries<T>(p_.side, first_, shape_.columns.columns, packed_.data(), parallel_);
      scores_.begin(first_);
      for (int64_t k0 = 0; k0 < p_.num_keys; k0 += key_block) {
        const int64_t keys = min_of(key_block, p_.num_keys - k0);
        compute_affinities(k0, keys);
        scores_.add(affinities_, k0, keys, parallel_);
      }
      scores_.finish(parallel_);
    }
  }

 private:
  // A task is a group of keys and a block of queries.
  void compute_affinities(int64_t k0, int64_t keys) {
    const int64_t count = shape_.columns.columns;
    const int64_t block = query_block<A>(p_.side.width);
    const int64_t blocks = (count + block - 1) / block;
    auto tasks = [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row0 = task / blocks * key_group, row1 = min_of(row0 + key_group, keys);
        const int64_t start = task % blocks * block;
        compute_group(k0, row0, row1, start, min_of(block, count - start));
        if (shape_.few) scores_.sum_few(affinities_, k0, row0, row1);
      }
    };
    parallel_ranges(parallel_, (keys + key_group - 1) / key_group * blocks, tasks);
  }

  void compute_group(int64_t k0, int64_t begin, int64_t end, int64_t start, int64_t count) {
    const Panels<A> columns{count};
    const int64_t padded = columns.padded();
    SideTiles<T> side(p_.side, shape_.few ? nullptr : packed_.data() + start * p_.side.width, first_ + start, columns);
    QueryValues<A> scale(p_.side.scale, first_ + start, count, padded);
    QueryValues<A> center(p_.side.center, first_ + start, count, padded);
    Buffer<A> tile(tile_rows * padded);
    Buffer<Mask> own_row(padded);
    std::memset(tile.data(), 0, static_cast<size_t>(tile_rows * padded) * sizeof(A));
    for (int64_t q = 0; q < padded; ++q)
      own_row[q] = own_row_of<Mask>(q < count ? p_.own_key : nullptr, first_ + start + q, k0, begin, end);
    for (int64_t row0 = begin; row0 < end; row0 += tile_rows) {
      const int64_t rows = min_of(tile_rows, end - row0);
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
          S::store(affinities_.at(row0 + r, start + q), affinity);
        }
      }
    }
  }

  const DenseForwardParams& p_;
  const Parallel& parallel_;
  WeightShape<A> shape_;
  Buffer<A> packed_;
  WeightPanels<A> affinities_;
  SumOverKeys<T> scores_;
  int64_t first_ = 0;
};

template <class T>
inline void dense_forward(const DenseForwardParams& p, const Parallel& parallel) {
  DenseForward<T>(p, parallel).run();
}

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
