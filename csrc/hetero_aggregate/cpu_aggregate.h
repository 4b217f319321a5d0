// Aggregation on the CPU. Reading source rows is all the time there is: E rows of D elements, in random order.
//
// The ladder (21,000 rows, 64 edges a row, six relations, width 512, float32):
//   1. a row at a time over its whole width: every edge fetches 2 KB from memory, as a sparse-dense product does
//   2. slices of the width, one after the other over all rows: the slice of a source stays in cache. Of 128 bytes where
//      there are many source rows; of eight vectors where there are few, for every slice reads the edges anew
//   3. the slice packed side by side first: no cache set or page entry is shared by rows 2 KB apart. Twice as fast as 2
//   4. rows prefetched eight edges ahead
// Packing also converts 16-bit elements once, so that one inner loop serves all types. Sources that are small or have
// few edges are read where they are: packing would not pay.
//
// A row belongs to one thread and its edges are summed in order, so results do not depend on the number of threads.
// Rows are dealt out by their number of edges.
#pragma once

#include <type_traits>

#include "common/buffer.h"
#include "hetero_aggregate/cpu_edges.h"
#include "hetero_aggregate/kernel.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace hetero_aggregate {

using vlmadapt::hetero_aggregate::AggregateParams;
using vlmadapt::hetero_aggregate::Relation;

constexpr int wide_slice = 8;  // vectors
constexpr int narrow_slice = 128 / vector_bytes < wide_slice ? 128 / vector_bytes : wide_slice;
constexpr int64_t many_sources = 8 << 20;   // bytes of one wide slice of all source rows
constexpr int64_t packed_budget = 8 << 20;  // bytes of slices packed at a time, unless one alone takes more
constexpr int64_t edges_worth_packing = 4;  // a source row
constexpr int64_t small_sources = 2 << 20;  // bytes that the caches hold anyway
constexpr int64_t few_edges = 1 << 15;      // sorted by one thread
constexpr int64_t row_cost = 8;             // in edges
constexpr int64_t max_blocks = 512;

template <class T, class I, int slice_vectors>
class Aggregation {
 public:
  using A = Accum<T>;
  using S = Simd<A>;
  static constexpr int64_t slice = slice_vectors * S::lanes;

  Aggregation(const AggregateParams& params, const Parallel& parallel)
      : params_(params),
        parallel_(parallel),
        operands_(params.num_relations),
        rows_before_(params.num_matrices + 1),
        sorted_(edges_to_sort(params)),
        dots_(edges_with_dots(params)),
        own_(needs_own(params)),
        row_dots_(own_ ? params.num_relations * params.num_rows : 0) {
    rows_before_[0] = 0;
    for (int64_t m = 0; m < params.num_matrices; ++m) rows_before_[m + 1] = rows_before_[m] + params.matrices[m].rows;
    for (int64_t r = 0; r < params.num_relations; ++r) num_edges_ += edges_of(r);
    blocks_ = params.num_rows < max_blocks ? params.num_rows : max_blocks;
  }

  void run() {
    const int64_t all_rows = rows_before_[params_.num_matrices];
    const int64_t whole = params_.width / slice;
    const int64_t slices =
        params_.width > 0 ? (params_.width + slice - 1) / slice : 1;  // no columns: one slice of zeros
    sort_weights();
    int64_t done = 0;
    const bool in_place = num_edges_ < edges_worth_packing * all_rows ||
                          all_rows * params_.width * static_cast<int64_t>(sizeof(T)) < small_sources;
    if (std::is_same<T, A>::value && whole > 0 && in_place) {
      aggregate_slices(nullptr, 0, whole);
      done = whole;
    }
    int64_t at_once = packed_budget / (all_rows * slice * static_cast<int64_t>(sizeof(A)) + 1);
    if (at_once > slices - done) at_once = slices - done;
    if (at_once < 1) at_once = 1;
    if (done < slices) {
      Buffer<A> packed(at_once * all_rows * slice);
      for (; done < slices; done += at_once) {
        const int64_t end = done + at_once < slices ? done + at_once : slices;
        pack(packed.data(), done, end);
        aggregate_slices(packed.data(), done, end);
      }
    }
    if (own_) sum_row_dots();
  }

 private:
  // Weights have to be put into the order of the edges where that is another one.
  static int64_t edges_to_sort(const AggregateParams& params) {
    int64_t count = 0;
    for (int64_t r = 0; r < params.num_relations; ++r)
      if (params.relations[r].edges && params.relations[r].weights)
        count += params.relations[r].offsets[params.num_rows];
    return count;
  }
  static bool needs_own(const AggregateParams& params) {
    for (int64_t r = 0; r < params.num_relations; ++r)
      if (params.relations[r].grad_weights || params.relations[r].grad_coefficient) return true;
    return false;
  }
  static int64_t edges_with_dots(const AggregateParams& params) {
    int64_t count = 0;
    for (int64_t r = 0; r < params.num_relations; ++r)
      if (params.relations[r].grad_weights) count += params.relations[r].offsets[params.num_rows];
    return count;
  }
  int64_t edges_of(int64_t r) const { return params_.relations[r].offsets[params_.num_rows]; }

  void sort_weights() {
    A *sorted = sorted_.data(), *dots = dots_.data();
    for (int64_t r = 0; r < params_.num_relations; ++r) {
      const Relation& relation = params_.relations[r];
      const A* weights = static_cast<const A*>(relation.weights);
      const int64_t count = edges_of(r);
      if (relation.edges && relation.weights) {
        const I* edges = static_cast<const I*>(relation.edges);
        auto body = [=](int64_t begin, int64_t end) {
          for (int64_t k = begin; k < end; ++k) sorted[k] = weights[edges[k]];
        };
        if (count < few_edges)
          body(0, count);
        else
          parallel_ranges(parallel_, count, body);
        weights = sorted;
        sorted += count;
      }
      operands_[r] = {relation.offsets, static_cast<const I*>(relation.columns),
                      weights,          relation.grad_weights ? dots : nullptr,
                      nullptr,          0,
                      count - 1,        *static_cast<const A*>(relation.coefficient)};
      if (relation.grad_weights) dots += count;
    }
  }

  // packed[slice][row of all matrices][element], zeros beyond the width.
  void pack(A* packed, int64_t first, int64_t end_slice) {
    const int64_t all_rows = rows_before_[params_.num_matrices];
    auto body = [&](int64_t begin, int64_t end) {
      int64_t m = 0;
      for (int64_t at = begin; at < end; ++at) {
        while (at >= rows_before_[m + 1]) ++m;
        const T* row = static_cast<const T*>(params_.matrices[m].data) + (at - rows_before_[m]) * params_.width;
        for (int64_t s = first; s < end_slice; ++s) load_slice(row, s, packed + ((s - first) * all_rows + at) * slice);
      }
    };
    parallel_ranges(parallel_, all_rows, body);
  }

  // Slice s of a row in the accumulation type, zeros beyond the width.
  VLMADAPT_INLINE void load_slice(const T* row, int64_t s, A* to) const {
    const int64_t begin = s * slice, left = params_.width - begin;
    if (left >= slice) {
      for (int64_t i = 0; i < slice; ++i) to[i] = to_accum(row[begin + i]);
    } else {
      for (int64_t i = 0; i < slice; ++i) to[i] = i < left ? to_accum(row[begin + i]) : A(0);
    }
  }

  VLMADAPT_INLINE void store_slice(T* row, int64_t s, const typename S::V (&values)[slice_vectors]) const {
    A buffer[slice];
    for (int v = 0; v < slice_vectors; ++v) S::store(buffer + v * S::lanes, values[v]);
    const int64_t begin = s * slice, left = params_.width - begin;
    if (left >= slice) {
      for (int64_t i = 0; i < slice; ++i) row[begin + i] = from_accum<T>(buffer[i]);
    } else {
      for (int64_t i = 0; i < left; ++i) row[begin + i] = from_accum<T>(buffer[i]);
    }
  }

  // Row blocks of about the same number of edges: the first row of block b.
  int64_t first_row(int64_t block) const {
    if (block <= 0) return 0;
    const int64_t total = num_edges_ + row_cost * params_.num_rows;
    const int64_t wanted = total / blocks_ * block + total % blocks_ * block / blocks_;
    int64_t low = 0, high = params_.num_rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      int64_t before = row_cost * middle;
      for (int64_t r = 0; r < params_.num_relations; ++r) before += params_.relations[r].offsets[middle];
      if (before < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    return block >= blocks_ ? params_.num_rows : low;
  }

  void aggregate_slices(const A* packed, int64_t first, int64_t end_slice) {
    const int64_t all_rows = rows_before_[params_.num_matrices];
    auto body = [&](int64_t begin_block, int64_t end_block) {
      const int64_t begin = first_row(begin_block), end = first_row(end_block);
      Buffer<Operands<A, I>> operands(params_.num_relations);
      for (int64_t s = first; s < end_slice; ++s) {
        for (int64_t r = 0; r < params_.num_relations; ++r) {
          const int64_t m = params_.relations[r].matrix;
          operands[r] = operands_[r];
          operands[r].stride = packed ? slice : params_.width;
          operands[r].rows = packed ? packed + ((s - first) * all_rows + rows_before_[m]) * slice
                                    : reinterpret_cast<const A*>(params_.matrices[m].data) + s * slice;
        }
        for (int64_t row = begin; row < end; ++row) aggregate_row(operands.data(), row, s);
      }
      if (end_slice * slice >= params_.width) write_grad_weights(begin, end);
    };
    parallel_ranges(parallel_, blocks_, body);
  }

  VLMADAPT_INLINE void aggregate_row(const Operands<A, I>* operands, int64_t row, int64_t s) {
    typename S::V total[slice_vectors] = {};
    A own[slice];
    if (own_) load_slice(static_cast<const T*>(params_.own) + row * params_.width, s, own);
    for (int64_t r = 0; r < params_.num_relations; ++r) {
      const Operands<A, I>& relation = operands[r];
      const int64_t begin = relation.offsets[row], end = relation.offsets[row + 1];
      typename S::V sums[slice_vectors] = {};
      if (relation.dots) {
        if (relation.weights)
          sum_edges<A, I, true, true, slice_vectors>(relation, begin, end, own, s == 0, sums);
        else
          sum_edges<A, I, false, true, slice_vectors>(relation, begin, end, own, s == 0, sums);
      } else if (relation.weights) {
        sum_edges<A, I, true, false, slice_vectors>(relation, begin, end, own, s == 0, sums);
      } else {
        sum_edges<A, I, false, false, slice_vectors>(relation, begin, end, own, s == 0, sums);
      }
      if (params_.relations[r].grad_coefficient) {
        typename S::V dot = {};
        for (int v = 0; v < slice_vectors; ++v) dot += sums[v] * S::load(own + v * S::lanes);
        A& sum = row_dots_[r * params_.num_rows + row];
        sum = s == 0 ? S::sum(dot) : sum + S::sum(dot);
      }
      if (begin < end)  // a row without edges is zero, whatever the coefficient
        for (int v = 0; v < slice_vectors; ++v) sums[v] *= relation.coefficient;
      if (params_.stacked && params_.out)
        store_slice(static_cast<T*>(params_.out) + (r * params_.num_rows + row) * params_.width, s, sums);
      for (int v = 0; v < slice_vectors; ++v) total[v] += sums[v];
    }
    if (!params_.stacked && params_.out) store_slice(static_cast<T*>(params_.out) + row * params_.width, s, total);
  }

  void write_grad_weights(int64_t begin_row, int64_t end_row) {
    for (int64_t r = 0; r < params_.num_relations; ++r) {
      const Relation& relation = params_.relations[r];
      if (!relation.grad_weights) continue;
      const I* edges = static_cast<const I*>(relation.edges);
      A* grad = static_cast<A*>(relation.grad_weights);
      for (int64_t k = relation.offsets[begin_row]; k < relation.offsets[end_row]; ++k)
        grad[edges ? static_cast<int64_t>(edges[k]) : k] = operands_[r].coefficient * operands_[r].dots[k];
    }
  }

  // Row after row and in double: the same sum at every number of threads.
  void sum_row_dots() {
    for (int64_t r = 0; r < params_.num_relations; ++r) {
      if (!params_.relations[r].grad_coefficient) continue;
      double sum = 0;
      for (int64_t row = 0; row < params_.num_rows; ++row) sum += row_dots_[r * params_.num_rows + row];
      *static_cast<A*>(params_.relations[r].grad_coefficient) = static_cast<A>(sum);
    }
  }

  const AggregateParams& params_;
  const Parallel& parallel_;
  Buffer<Operands<A, I>> operands_;
  Buffer<int64_t> rows_before_;  // of each matrix among all
  Buffer<A> sorted_;             // weights in the order of the edges, relation after relation
  Buffer<A> dots_;               // own row . matrix row of each edge, relation after relation
  const bool own_;               // whether the rows' own values are read
  Buffer<A> row_dots_;           // [relation][row]: own row . sum of the relation
  int64_t num_edges_ = 0;
  int64_t blocks_ = 0;
};

template <class T, class I>
void aggregate(const AggregateParams& params, const Parallel& parallel) {
  int64_t source_rows = 0;
  for (int64_t m = 0; m < params.num_matrices; ++m) source_rows += params.matrices[m].rows;
  if (source_rows * wide_slice * vector_bytes < many_sources)
    Aggregation<T, I, wide_slice>(params, parallel).run();
  else
    Aggregation<T, I, narrow_slice>(params, parallel).run();
}

}  // namespace hetero_aggregate
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
