// Forward from queries and keys: one pass over the keys for each block of queries, tasks are (head, block).
//
// With h = p/2 and g = p/2 - 1, a running maximum m and
//   P = exp(s - m),  W = exp(h (s - m) + g log |x_i - x_j|^2),
// the sums of P, W, W x_value and P value give everything at the end: lse = m + log(sum P) and M = W (sum P)^-h, since
// exp(-h lse) leaves both row sums as a factor. When m rises, what has been summed is scaled by exp(m - m') or its
// power h.
#pragma once

#include "p_laplacian/cpu_block.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

template <class A, int NV>
class ScoresForward {
  using S = Simd<A>;
  using V = typename S::V;
  using I = typename S::I;
  static constexpr int64_t ld = Block<A, NV>::ld;

 public:
  ScoresForward(const ForwardParams& p, int64_t head, int64_t first, int64_t count)
      : params_(p),
        p_(p.problem),
        block_(p.problem, head, first, count),
        keys_(p_.dtype, p_.key, head, p_.num_keys, p_.width),
        x_values_(p_.dtype, p_.x_value, head, p_.num_keys, p_.features),
        values_(p_.dtype, p_.value, head, p_.num_keys, p_.value_width),
        moved_(p_.features * ld),
        context_(p_.has_value ? p_.value_width * ld : 0) {
    for (int64_t i = 0; i < p_.features * ld; ++i) moved_[i] = 0;
    if (p_.has_value)
      for (int64_t i = 0; i < p_.value_width * ld; ++i) context_[i] = 0;
    for (int v = 0; v < NV; ++v) {
      most_[v] = S::broadcast(-__builtin_inff());
      sum_p_[v] = sum_w_[v] = V{};
    }
  }

  void run() {
    const int64_t end = block_.key_end();
    for (int64_t j0 = 0; j0 < end; j0 += key_tile) add_tile(j0, min_of(key_tile, end - j0));
    finish();
  }

 private:
  void add_tile(int64_t j0, int64_t rows) {
    const A* x_values = x_values_.load(j0, rows);
    block_.scores(keys_.load(j0, rows), j0, rows, tile_);
    raise_maximum(rows);
    const A* weights = weights_;
    if (block_.plain) {
      exponentiate(rows);
      weights = plain_weights(j0, rows);
    } else {
      distances<A, NV>(x_values, p_.features, block_.x.data(), ld, rows, p_.features, weights_, ld);
      block_.mark_diagonal(j0, rows, weights_);
      log_distances(rows);
      weigh_scores(rows);
    }
    multiply<A, NV>(x_values, 1, p_.features, weights, ld, p_.features, rows, moved_.data(), ld, true);
    if (p_.has_value)
      multiply<A, NV>(values_.load(j0, rows), 1, p_.value_width, tile_, ld, p_.value_width, rows, context_.data(), ld,
                      true);
  }

  // Takes the tile into the running maximum, and scales what has been summed where that rises.
  void raise_maximum(int64_t rows) {
    V most[NV];
    for (int v = 0; v < NV; ++v) most[v] = most_[v];
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const V s = S::load(tile_ + r * ld + v * S::lanes);
        most[v] = s > most[v] ? s : most[v];
      }
    for (int v = 0; v < NV; ++v) {
      const I risen = most[v] > most_[v];
      bool any = false;
      for (int lane = 0; lane < S::lanes; ++lane) any = any || risen[lane];
      if (!any) continue;
      base_[v] = most[v] == -__builtin_inff() ? V{} : most[v];  // nothing seen yet: any base does
      const V fall = most_[v] - base_[v];
      const V keep_p = exp(fall), keep_w = exp(block_.exponent * A(0.5) * fall);
      most_[v] = most[v];
      sum_p_[v] *= keep_p;
      sum_w_[v] *= keep_w;
      scale(moved_.data() + v * S::lanes, p_.features, keep_w);
      if (p_.has_value) scale(context_.data() + v * S::lanes, p_.value_width, keep_p);
    }
  }

  static void scale(A* columns, int64_t rows, V factor) {
    for (int64_t c = 0; c < rows; ++c) S::store(columns + c * ld, S::load(columns + c * ld) * factor);
  }

  // weights_: squared distances to g log of them, minus infinity where the pair is dropped. A loop of its own, here and
  // below: one chain through both log and exp is longer than the processor looks ahead.
  void log_distances(int64_t rows) {
    const A g = block_.exponent * A(0.5) - 1;
    for (int64_t at = 0; at < rows * ld; at += S::lanes) {
      const V squared = S::load(weights_ + at);
      const I dropped = squared < coincidence<A>();
      const V power = g * log(dropped ? S::broadcast(1) : squared);
      S::store(weights_ + at, dropped ? S::broadcast(-__builtin_inff()) : power);
    }
  }

  // tile_: scores to P; weights_: logarithms to W.
  void weigh_scores(int64_t rows) {
    const A h = block_.exponent * A(0.5);
    Sums<V, NV> sum_p(sum_p_), sum_w(sum_w_);
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        A* score = tile_ + r * ld + v * S::lanes;
        A* power = weights_ + r * ld + v * S::lanes;
        const V s = S::load(score) - base_[v];
        const V likely = exp(s), weight = exp(h * s + S::load(power));
        sum_p.at[v] += likely;
        sum_w.at[v] += weight;
        S::store(score, likely);
        S::store(power, weight);
      }
  }

  void exponentiate(int64_t rows) {
    Sums<V, NV> sum_p(sum_p_);
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        A* score = tile_ + r * ld + v * S::lanes;
        const V likely = exp(S::load(score) - base_[v]);
        sum_p.at[v] += likely;
        S::store(score, likely);
      }
  }

  // p = 2: the tile itself, without its diagonal where that is dropped.
  const A* plain_weights(int64_t j0, int64_t rows) {
    const A* weights = tile_;
    if (p_.drop_diagonal) {
      for (int64_t i = 0; i < rows * ld; ++i) weights_[i] = 0;
      block_.mark_diagonal(j0, rows, weights_);
      for (int64_t i = 0; i < rows * ld; ++i) weights_[i] = weights_[i] < 0 ? A(0) : tile_[i];
      weights = weights_;
    }
    Sums<V, NV> sum_w(sum_w_);  // as sum_p is taken, so that at p = 2 the two are equal
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum_w.at[v] += S::load(weights + r * ld + v * S::lanes);
    return weights;
  }

  void finish() {
    for (int v = 0; v < NV; ++v) {
      const V size = log(sum_p_[v]);  // minus infinity in a fully masked row, whose sums are zero
      const V lse = most_[v] + size;
      // (sum P)^-h, exact at p = 2
      const V factor = sum_p_[v] == 0 ? V{} : exp((A(1) - block_.exponent * A(0.5)) * size) / sum_p_[v];
      for (int lane = 0; lane < S::lanes; ++lane) {
        const int64_t i = v * S::lanes + lane;
        if (i < block_.count) write_row(i, factor[lane], sum_w_[v][lane] * factor[lane], lse[lane], sum_p_[v][lane]);
      }
    }
  }

  void write_row(int64_t i, A factor, A row_sum, A lse, A sum_p) {
    const int64_t row = block_.head * p_.num_queries + block_.first + i;
    const A pull = block_.pull, total = row_sum + pull;
    A* out = static_cast<A*>(params_.out) + row * p_.features;
    for (int64_t c = 0; c < p_.features; ++c) {
      const A home = p_.residual ? block_.x[c * ld + i] : A(0);
      out[c] = total == 0 ? home : (moved_[c * ld + i] * factor + pull * home) / total;
    }
    static_cast<A*>(params_.row_sum)[row] = row_sum;
    static_cast<A*>(params_.lse)[row] = lse;
    if (!p_.has_value) return;
    A* context = static_cast<A*>(params_.context) + row * p_.value_width;
    for (int64_t c = 0; c < p_.value_width; ++c) context[c] = sum_p == 0 ? A(0) : context_[c * ld + i] / sum_p;
  }

  const ForwardParams& params_;
  const Problem& p_;
  Block<A, NV> block_;
  TileRows<A> keys_, x_values_, values_;
  Buffer<A> moved_, context_;
  V most_[NV], base_[NV] = {}, sum_p_[NV], sum_w_[NV];
  alignas(64) A tile_[key_tile * ld], weights_[key_tile * ld];
};

template <class A>
inline void forward_scores(const ForwardParams& params, const Parallel& parallel) {
  const Problem& p = params.problem;
  const int64_t blocks = divide_up(p.num_queries, block_queries<A>());
  auto tasks = [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / blocks, first = task % blocks * block_queries<A>();
      const int64_t count = min_of(block_queries<A>(), p.num_queries - first);
      with_vectors<A>(
          count, [&](auto vectors) { ScoresForward<A, decltype(vectors)::count>(params, head, first, count).run(); });
    }
  };
  parallel_ranges(parallel, p.batch * p.heads * blocks, tasks);
}

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
