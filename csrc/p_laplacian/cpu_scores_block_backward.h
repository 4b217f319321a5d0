// One block of queries in the backward from queries and keys: everything recomputed tile by tile from lse and row_sum:
// one pass serves all gradients.
#pragma once

#include "p_laplacian/cpu_block.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

// The key-side gradients of one task, rows padded to whole vectors.
template <class A>
struct KeyGradients {
  KeyGradients(const Problem& p, bool context)
      : key_width(padded<A>(p.width)),
        value_width(context ? padded<A>(p.value_width) : 0),
        features(padded<A>(p.features)),
        keys(p.num_keys * key_width),
        values(p.num_keys * value_width),
        x_values(p.num_keys * features) {
    clear(keys.data(), p.num_keys * key_width);
    clear(values.data(), p.num_keys * value_width);
    clear(x_values.data(), p.num_keys * features);
  }
  static void clear(A* data, int64_t count) {
    for (int64_t i = 0; i < count; ++i) data[i] = 0;
  }

  int64_t key_width, value_width, features;
  Buffer<A> keys, values, x_values;
};

template <class A, int NV>
class ScoresBlockBackward {
  using S = Simd<A>;
  using V = typename S::V;
  using I = typename S::I;
  static constexpr int64_t ld = Block<A, NV>::ld;

 public:
  ScoresBlockBackward(const BackwardParams& params, int64_t head, int64_t first, int64_t count, KeyGradients<A>& sums)
      : params_(params),
        p_(params.problem),
        block_(p_, head, first, count),
        sums_(sums),
        row_(head * p_.num_queries + first),
        with_context_(params.with_context),
        plain_(block_.plain && !params.want_p),
        keys_(p_.dtype, p_.key, head, p_.num_keys, p_.width),
        x_values_(p_.dtype, p_.x_value, head, p_.num_keys, p_.features),
        values_(p_.dtype, with_context_ ? p_.value : nullptr, head, p_.num_keys, p_.value_width),
        upstream_(p_.features * ld),
        upstream_rows_(count * sums.features),
        x_rows_(count * sums.features),
        x_value_rows_(key_tile * sums.features),
        query_rows_(count * sums.key_width),
        context_upstream_(with_context_ ? p_.value_width * ld : 0),
        context_rows_(with_context_ ? count * sums.value_width : 0),
        grad_query_(p_.width * ld),
        grad_x_(p_.features * ld) {
    prepare_rows();
  }

  // Adds to the task's sums of grad_p and grad_pull.
  void run(double& grad_p, double& grad_pull) {
    KeyGradients<A>::clear(grad_x_.data(), p_.features * ld);
    KeyGradients<A>::clear(grad_query_.data(), p_.width * ld);
    const int64_t end = block_.key_end();
    for (int64_t j0 = 0; j0 < end; j0 += key_tile) add_tile(j0, min_of(key_tile, end - j0));
    for (int v = 0; v < NV; ++v) grad_p += 0.5 * S::sum(sum_p_[v]);
    grad_pull += grad_pull_;
    write();
  }

 private:
  // a grad_out and everything else that belongs to a query; lanes beyond the last query stay without effect.
  void prepare_rows() {
    const int64_t d = p_.features;
    const A* grad_out = static_cast<const A*>(params_.grad_out) + row_ * d;
    const A* out = static_cast<const A*>(params_.out) + row_ * d;
    Buffer<A> converted(converted_count<A>(p_.dtype, block_.count * max_of(p_.width, d)));
    const A* x = read<A>(p_.dtype, p_.x_query, row_ * d, block_.count * d, converted.data());
    KeyGradients<A>::clear(upstream_.data(), d * ld);
    for (int64_t i = 0; i < ld; ++i) {
      lse_[i] = __builtin_inff();
      own_[i] = delta_[i] = home_share_[i] = 0;
    }
    for (int64_t i = 0; i < block_.count; ++i) {
      const A row_sum = static_cast<const A*>(params_.row_sum)[row_ + i], total = row_sum + block_.pull;
      const A a = total == 0 ? A(0) : 1 / total;
      home_share_[i] = total == 0 ? A(1) : block_.pull * a;
      A own = 0, away = 0;
      for (int64_t c = 0; c < sums_.features; ++c) {
        const A g = c < d ? a * grad_out[i * d + c] : A(0);
        upstream_rows_[i * sums_.features + c] = g;
        if (c >= d) continue;
        upstream_[c * ld + i] = g;
        own += g * out[i * d + c];
        away += g * (out[i * d + c] - (p_.residual ? x[i * d + c] : A(0)));
      }
      own_[i] = own;
      grad_pull_ -= away;
      delta_[i] = A(0.5) * block_.exponent * block_.pull * away;
      const A lse = static_cast<const A*>(params_.lse)[row_ + i];
      lse_[i] = lse == -__builtin_inff() ? __builtin_inff() : lse;  // fully masked: every exponential is zero
      if (params_.grad_lse != nullptr) delta_[i] -= static_cast<const A*>(params_.grad_lse)[row_ + i];
    }
    pad_rows<A>(x, d, block_.count, sums_.features, A(1), x_rows_.data());
    const A* query = read<A>(p_.dtype, p_.query, row_ * p_.width, block_.count * p_.width, converted.data());
    pad_rows(query, p_.width, block_.count, sums_.key_width, static_cast<A>(p_.scale), query_rows_.data());
    if (!with_context_) return;
    const A* grad_context = static_cast<const A*>(params_.grad_context) + row_ * p_.value_width;
    const A* context = static_cast<const A*>(params_.context) + row_ * p_.value_width;
    for (int64_t i = 0; i < block_.count; ++i)
      for (int64_t c = 0; c < p_.value_width; ++c)
        delta_[i] += grad_context[i * p_.value_width + c] * context[i * p_.value_width + c];
    transpose_rows<A>(grad_context, p_.value_width, block_.count, ld, A(1), context_upstream_.data());
    pad_rows<A>(grad_context, p_.value_width, block_.count, sums_.value_width, A(1), context_rows_.data());
  }

  void add_tile(int64_t j0, int64_t rows) {
    const int64_t d = p_.features;
    const A* x_values = x_values_.load(j0, rows);
    const A* keys = keys_.load(j0, rows);
    block_.scores(keys, j0, rows, attention_);
    if (plain_)
      for (int64_t i = 0; i < rows * ld; ++i) weights_[i] = 1;
    else
      distances<A, NV>(x_values, d, block_.x.data(), ld, rows, d, weights_, ld);
    block_.mark_diagonal(j0, rows, weights_);
    multiply<A, NV>(x_values, d, 1, upstream_.data(), ld, rows, d, spread_, ld, false);
    if (with_context_)
      multiply<A, NV>(values_.load(j0, rows), p_.value_width, 1, context_upstream_.data(), ld, rows, p_.value_width,
                      grad_scores_, ld, false);
    pad_rows<A>(x_values, d, rows, sums_.features, A(1), x_value_rows_.data());
    A* grad_x_values = sums_.x_values.data() + j0 * sums_.features;
    if (plain_) {
      with_context_ ? differentiate<true, true>(rows) : differentiate<true, false>(rows);
    } else {
      take_logarithms(rows);
      with_context_ ? differentiate<false, true>(rows) : differentiate<false, false>(rows);
    }
    add_query_key(keys, j0, rows);
    const bool by_distance = !block_.plain;
    if (by_distance) spread_queries<A, NV>(spread_, ld, x_values, d, block_.x.data(), ld, rows, d, grad_x_.data(), ld);
    spread_keys<A>(weights_, by_distance ? spread_ : nullptr, ld, x_rows_.data(), upstream_rows_.data(),
                   x_value_rows_.data(), sums_.features, rows, block_.count, grad_x_values);
  }

  // lengths_ = log of the squared distances, in a loop of its own as in the forward.
  void take_logarithms(int64_t rows) {
    for (int64_t at = 0; at < rows * ld; at += S::lanes) {
      const V squared = S::load(weights_ + at);
      S::store(lengths_ + at, log(squared < coincidence<A>() ? S::broadcast(1) : squared));
    }
  }

  // attention_: s to A; weights_: squared distances to M; spread_: a grad_out . x_value to E; grad_scores_: to grad s.
  template <bool plain, bool with_context>
  void differentiate(int64_t rows) {
    const A h = block_.exponent * A(0.5), g = h - 1, threshold = block_.plain ? A(0) : coincidence<A>();
    Sums<V, NV> sum_p(sum_p_);
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const int64_t at = r * ld + v * S::lanes, lane = v * S::lanes;
        V x = S::load(attention_ + at) - S::load(lse_ + lane);
        x = x < -1e4f ? S::broadcast(-1e4f) : x;  // zero all the same, but finite
        const V a = exp(x), squared = S::load(weights_ + at);
        const I dropped = squared < threshold, near = squared < coincidence<A>();
        const V safe = near ? S::broadcast(1) : squared;
        V weight = a, length{};
        if (!plain) {
          length = S::load(lengths_ + at);
          weight = exp(h * x + g * length);
        }
        weight = dropped ? V{} : weight;
        const V u = weight * (S::load(spread_ + at) - S::load(own_ + lane));
        sum_p.at[v] += near ? V{} : u * (x + length);
        V upward = -S::load(delta_ + lane);
        if (with_context) upward += S::load(grad_scores_ + at);
        S::store(grad_scores_ + at, h * u + a * upward);
        S::store(attention_ + at, a);
        S::store(weights_ + at, weight);
        S::store(spread_ + at, (g + g) * u / safe);
      }
  }

  void add_query_key(const A* keys, int64_t j0, int64_t rows) {
    if (params_.grad_query != nullptr)
      multiply<A, NV>(keys, 1, p_.width, grad_scores_, ld, p_.width, rows, grad_query_.data(), ld, true);
    if (params_.grad_key != nullptr)
      add_rows(grad_scores_, ld, rows, query_rows_.data(), block_.count, sums_.keys.data() + j0 * sums_.key_width,
               sums_.key_width);
    if (with_context_ && params_.grad_value != nullptr)
      add_rows(attention_, ld, rows, context_rows_.data(), block_.count, sums_.values.data() + j0 * sums_.value_width,
               sums_.value_width);
  }

  void write() {
    const int64_t d = p_.features, width = p_.width;
    const A* grad_out = static_cast<const A*>(params_.grad_out) + row_ * d;
    if (params_.grad_x_query != nullptr) {
      A* to = static_cast<A*>(params_.grad_x_query) + row_ * d;
      for (int64_t i = 0; i < block_.count; ++i)
        for (int64_t c = 0; c < d; ++c)
          to[i * d + c] = grad_x_[c * ld + i] + (p_.residual ? home_share_[i] * grad_out[i * d + c] : A(0));
    }
    if (params_.grad_query == nullptr) return;
    A* to = static_cast<A*>(params_.grad_query) + row_ * width;
    for (int64_t i = 0; i < block_.count; ++i)
      for (int64_t c = 0; c < width; ++c) to[i * width + c] = static_cast<A>(p_.scale) * grad_query_[c * ld + i];
  }

  const BackwardParams& params_;
  const Problem& p_;
  Block<A, NV> block_;
  KeyGradients<A>& sums_;
  const int64_t row_;
  const bool with_context_;
  const bool plain_;  // p = 2 and its gradient is not wanted: no distances
  TileRows<A> keys_, x_values_, values_;
  Buffer<A> upstream_, upstream_rows_, x_rows_, x_value_rows_, query_rows_, context_upstream_, context_rows_,
      grad_query_, grad_x_;
  double grad_pull_ = 0;
  V sum_p_[NV] = {};
  alignas(64) A lse_[ld], own_[ld], delta_[ld], home_share_[ld];
  alignas(64) A attention_[key_tile * ld], weights_[key_tile * ld], spread_[key_tile * ld], grad_scores_[key_tile * ld];
  alignas(64) A lengths_[key_tile * ld];
};

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
