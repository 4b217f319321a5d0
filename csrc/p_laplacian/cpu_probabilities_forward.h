// Forward from given probabilities. A task is a head and a run of its queries.
#pragma once

#include "p_laplacian/cpu_panel_steps.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

constexpr int64_t task_queries = 128;

template <class A>
class ProbabilitiesForward {
  using S = Simd<A>;
  using V = typename S::V;
  using I = typename S::I;

 public:
  explicit ProbabilitiesForward(const ForwardParams& params)
      : params_(params),
        p_(params.problem),
        tile_(p_, 128 * S::lanes),
        panel_(p_),
        read_(converted_count<A>(p_.dtype, tile_.pairs)),
        x_(tile_.queries * panel_.width),
        moved_(tile_.queries * panel_.width * S::lanes),
        weights_(tile_.pairs + S::lanes) {}

  void run(int64_t head, int64_t first, int64_t end) {
    head_ = head;
    exponent_ = static_cast<const A*>(p_.p)[head % p_.heads];
    pull_ = static_cast<const A*>(p_.pull)[head % p_.heads];
    plain_ = exponent_ == 2;
    panel_.fill(p_, head);
    for (; first < end; first += tile_.queries) add_block(first, min_of(tile_.queries, end - first));
  }

 private:
  void add_block(int64_t first, int64_t count) {
    const int64_t row = head_ * p_.num_queries + first;
    const A* x = padded_rows(p_, p_.x_query, row, count, x_.data());
    const int64_t seen = keys_seen(p_, head_);
    for (int64_t j0 = 0; j0 == 0 || j0 < seen; j0 += tile_.keys) {
      const int64_t keys = min_of(tile_.keys, seen - j0);
      const RowEnd<A> end(keys);
      prefetch_attention<A>(p_, row + count, min_of(count, p_.num_queries - first - count), j0, keys);
      A* weights = weights_.data();
      if (plain_)
        for (int64_t k = 0; k < count * keys; ++k) weights[k] = 1;
      else if (p_.released)
        released_squares(row, count, x, j0, keys);
      else
        for_row_pairs(count, [&](auto rows, int64_t i) __attribute__((always_inline)) {
          row_squares<A, decltype(rows)::count>(x + i * panel_.width, panel_, j0, keys, end, weights + i * keys);
        });
      mark_self_pairs(p_, first, count, j0, keys, weights);
      weigh(row, count, j0, keys);
      for_row_pairs(count, [&](auto rows, int64_t i)
                               __attribute__((always_inline)) { add_values<decltype(rows)::count>(i, j0, keys, end); });
    }
    for_row_pairs(count, [&](auto rows, int64_t i) __attribute__((always_inline)) {
      write_rows<decltype(rows)::count>(row + i, x + i * panel_.width, i);
    });
  }

  // weights_: squared distances (Q itself in released mode) to M.
  void weigh(int64_t row, int64_t count, int64_t j0, int64_t keys) {
    const A g = exponent_ * A(0.5) - 1;
    A* weights = weights_.data();
    if (plain_) {
      for_pairs(p_, row, count, j0, keys, read_.data(), [=](int64_t at, V a, int64_t left) {
        store_row<A>(weights + at, S::load(weights + at) < 0 ? V{} : a, left);
      });
      return;
    }
    const bool released = p_.released;
    const A least = released ? A(-1) : coincidence<A>();
    for_pairs(p_, row, count, j0, keys, read_.data(),
              [=](int64_t at, V a, int64_t left) __attribute__((always_inline)) {
                const V squared = S::load(weights + at);
                const V power = g * bounded_log2<A>(released ? squared : a * squared);
                const I none = (a == 0) | (squared < least);
                store_row<A>(weights + at, none ? S::broadcast(-__builtin_inff()) : power, left);
              });
    for_pairs(p_, row, count, j0, keys, read_.data(),
              [=](int64_t at, V a, int64_t left) __attribute__((always_inline)) {
                store_row<A>(weights + at, a * exp2(S::load(weights + at)), left);
              });
  }

  template <int R>
  VLMADAPT_INLINE void add_values(int64_t i, int64_t j0, int64_t keys, const RowEnd<A>& end) {
    const A* weights = weights_.data() + i * keys;
    for (int64_t c0 = 0; c0 < panel_.width; c0 += features_step) {
      const A* columns = panel_.column(c0) + j0;
      V sums[R][features_step] = {}, row_sums[R] = {};
      for (int64_t j = 0; j < keys; j += S::lanes) {
        V weight[R];
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          weight[r] = end.load(j, weights + r * keys + j);
          row_sums[r] += weight[r];
        }
#pragma GCC unroll 8
        for (int c = 0; c < features_step; ++c) {
          const V other = S::load(columns + c * panel_.ld + j);
#pragma GCC unroll 2
          for (int r = 0; r < R; ++r) sums[r][c] += weight[r] * other;
        }
      }
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        if (c0 == 0) row_sums_[i + r] = (j0 > 0 ? row_sums_[i + r] : A(0)) + S::sum(row_sums[r]);
#pragma GCC unroll 8
        for (int c = 0; c < features_step; ++c) {
          A* to = moved_.data() + (i * panel_.width + c0 * R + r * features_step + c) * S::lanes;
          S::store(to, j0 > 0 ? S::load(to) + sums[r][c] : sums[r][c]);
        }
      }
    }
  }

  // weights_ = |sqrt(A) (x_query - x_value) + eps|^2, the released arithmetic.
  void released_squares(int64_t row, int64_t count, const A* x, int64_t j0, int64_t keys) {
    for (int64_t i = 0; i < count; ++i, x += panel_.width) {
      A* squares = weights_.data() + i * keys;
      for_pairs(p_, row + i, 1, j0, keys, read_.data(), [&](int64_t j, V a, int64_t left) {
        const V root = a == 0 ? V{} : exp2(A(0.5) * log2(a));
        V sum{};
        for (int64_t c = 0; c < p_.features; ++c) {
          const V shifted = root * (x[c] - S::load(panel_.column(c) + j0 + j)) + static_cast<A>(p_.eps);
          sum += shifted * shifted;
        }
        store_row<A>(squares + j, sum, left);
      });
    }
  }

  template <int R>
  void write_rows(int64_t row, const A* x, int64_t i) {
    const int64_t d = p_.features;
    const A pull = pull_, zeros[features_step] = {};
    for (int64_t c0 = 0; c0 < d; c0 += features_step) {
      A sums[R * features_step];
      lane_sums<A, R * features_step>(moved_.data() + (i * panel_.width + c0 * R) * S::lanes, sums);
      for (int r = 0; r < R; ++r) {
        const A total = row_sums_[i + r] + pull;
        const A* home = p_.residual ? x + r * panel_.width + c0 : zeros;
        A moved[features_step];
        for (int c = 0; c < features_step; ++c) moved[c] = (sums[r * features_step + c] + pull * home[c]) / total;
        const A* from = total == 0 ? home : moved;
        A* to = static_cast<A*>(params_.out) + (row + r) * d + c0;
        if (d - c0 >= features_step)
          std::memcpy(to, from, features_step * sizeof(A));
        else
          for (int64_t c = 0; c < d - c0; ++c) to[c] = from[c];
      }
    }
    for (int r = 0; r < R; ++r) static_cast<A*>(params_.row_sum)[row + r] = row_sums_[i + r];
  }

  const ForwardParams& params_;
  const Problem& p_;
  int64_t head_ = 0;
  A exponent_ = 0, pull_ = 0;
  bool plain_ = false;  // p = 2: the weights are the attention itself
  const PairTile tile_;
  KeyPanel<A> panel_;
  Buffer<A> read_, x_, moved_;
  Buffer<A> weights_;  // [queries, keys of the tile]
  A row_sums_[PairTile::max_queries];
};

template <class A>
inline void forward_probabilities(const ForwardParams& params, const Parallel& parallel) {
  const Problem& p = params.problem;
  const int64_t parts = divide_up(p.num_queries, task_queries);
  auto tasks = [&](int64_t begin, int64_t end) {
    ProbabilitiesForward<A> work(params);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % parts * task_queries;
      work.run(task / parts, first, min_of(first + task_queries, p.num_queries));
    }
  };
  parallel_ranges(parallel, p.batch * p.heads * parts, tasks);
}

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
