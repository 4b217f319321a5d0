// Backward from given probabilities, everything recomputed from row_sum. A task is a head, or a share of its queries
// where heads are few; the keys' gradients gather in a panel of the task's own, so there are no atomics and the order
// of summation is fixed.
//
// A block of queries meets a tile of keys in steps, with M and E of kernel.h kept in scratch matrices between them:
//   rows:     distances and grad_out . (x_value - out)
//   pairs:    log Q, then M, E and grad A
//   rows:     grad x_query, sums over keys in registers
//   columns:  grad x_value, sums over the block's queries in registers
#pragma once

#include "p_laplacian/cpu_panel_steps.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

template <class A>
class ProbabilitiesBackward {
  using S = Simd<A>;
  using V = typename S::V;
  using I = typename S::I;

 public:
  explicit ProbabilitiesBackward(const BackwardParams& params)
      : params_(params),
        p_(params.problem),
        tile_(p_, 256 * S::lanes),
        panel_(p_),
        grads_(p_),
        read_(converted_count<A>(p_.dtype, tile_.pairs)),
        x_rows_(tile_.queries * panel_.width),
        upstream_(tile_.queries * panel_.width),
        grad_x_((tile_.queries * panel_.width + features_step) * S::lanes),
        weights_(tile_.pairs + S::lanes),
        spread_(tile_.pairs + S::lanes),
        powers_(tile_.pairs + S::lanes),
        unwanted_(params.grad_attention == nullptr ? tile_.pairs : 0) {}

  // The queries [first, end) of a head; returns the panel of the gradient of x_value.
  KeyPanel<A>& run(int64_t head, int64_t first, int64_t end) {
    head_ = head;
    exponent_ = static_cast<const A*>(p_.p)[head % p_.heads];
    pull_ = static_cast<const A*>(p_.pull)[head % p_.heads];
    plain_ = exponent_ == 2 && !params_.want_p;
    grad_p_ = grad_pull_ = 0;
    panel_.fill(p_, head);
    grads_.clear();
    for (; first < end; first += tile_.queries) add_block(first, min_of(tile_.queries, end - first));
    return grads_;
  }

  double grad_p() const { return 0.5 * 0.69314718055994530942 * grad_p_; }
  double grad_pull() const { return grad_pull_; }

 private:
  void add_block(int64_t first, int64_t count) {
    const int64_t row = head_ * p_.num_queries + first;
    prepare_rows(row, count);
    const bool by_distance = !plain_ && (exponent_ != 2 || p_.released);
    const int64_t seen = keys_seen(p_, head_);
    for (int64_t j0 = 0; j0 == 0 || j0 < seen; j0 += tile_.keys) {
      const int64_t keys = min_of(tile_.keys, seen - j0);
      const RowEnd<A> end(keys);
      prefetch_attention<A>(p_, row + count, min_of(count, p_.num_queries - first - count), j0, keys);
      if (plain_)
        for (int64_t k = 0; k < count * keys; ++k) weights_[k] = 1;
      for_row_pairs(count, [&](auto rows, int64_t i) __attribute__((always_inline)) {
        constexpr int R = decltype(rows)::count;
        const int64_t at = i * keys, c = i * panel_.width;
        if (!plain_) row_squares<A, R>(x_ + c, panel_, j0, keys, end, weights_.data() + at);
        row_products<A, R>(upstream_.data() + c, own_ + i, panel_, j0, keys, end, spread_.data() + at);
      });
      mark_self_pairs(p_, first, count, j0, keys, weights_.data());
      if (plain_)
        differentiate_plain(row, count, j0, keys);
      else if (p_.released)
        differentiate_kept(row, count, j0, keys);
      else
        differentiate(row, count, j0, keys);
      add_sums(count, j0, keys, end, by_distance);
    }
    if (params_.grad_x_query != nullptr) write_rows(row, count, by_distance);
  }

  // a grad_out and what else belongs to a query.
  void prepare_rows(int64_t row, int64_t count) {
    const int64_t d = p_.features, width = panel_.width;
    const A* grad_out = static_cast<const A*>(params_.grad_out) + row * d;
    const A* out = static_cast<const A*>(params_.out) + row * d;
    x_ = padded_rows(p_, p_.x_query, row, count, x_rows_.data());
    for (int64_t i = 0; i < count; ++i) {
      const A total = static_cast<const A*>(params_.row_sum)[row + i] + pull_;
      const A a = total == 0 ? A(0) : 1 / total;
      home_share_[i] = total == 0 ? A(1) : pull_ * a;
      A own = 0, away = 0;
      for (int64_t c = 0; c < width; ++c) {
        const A g = c < d ? a * grad_out[i * d + c] : A(0);
        upstream_[i * width + c] = g;
        if (c >= d) continue;
        own += g * out[i * d + c];
        away += g * (out[i * d + c] - (p_.residual ? x_[i * width + c] : A(0)));
      }
      own_[i] = own;
      grad_pull_ -= static_cast<double>(away);
    }
  }

  // grad x_query and grad x_value of these pairs, from M, E and the shifts.
  void add_sums(int64_t count, int64_t j0, int64_t keys, const RowEnd<A>& end, bool by_distance) {
    const A *weights = weights_.data(), *spread = spread_.data(), *shifts = p_.released ? powers_.data() : nullptr;
    if (!by_distance) {
      add_keys<A, false>(x_, upstream_.data(), weights, nullptr, nullptr, count, panel_, grads_, j0, keys, end);
      return;
    }
    for (int64_t i = 0; i < count; ++i)
      add_query<A>(x_ + i * panel_.width, spread + i * keys, shifts == nullptr ? nullptr : shifts + i * keys, panel_,
                   j0, keys, end, grad_x_.data() + i * panel_.width * S::lanes);
    add_keys<A, true>(x_, upstream_.data(), weights, spread, shifts, count, panel_, grads_, j0, keys, end);
  }

  // Where grad A of these pairs goes: body(offset, attention, its place, lanes that count).
  template <class Body>
  VLMADAPT_INLINE void for_gradients(int64_t row, int64_t count, int64_t j0, int64_t keys, Body body) {
    A* to = static_cast<A*>(params_.grad_attention) + row * p_.num_keys + j0;
    A* const unwanted = params_.grad_attention == nullptr ? unwanted_.data() : nullptr;
    const int64_t gap = p_.num_keys - keys;
    for_pairs(p_, row, count, j0, keys, read_.data(),
              [=](int64_t at, V a, int64_t left) __attribute__((always_inline)) {
                body(at, a, unwanted != nullptr ? unwanted + at : to + at + (gap == 0 ? 0 : at / keys * gap), left);
              });
  }

  // weights_: squared distances to M; spread_ to E.
  void differentiate(int64_t row, int64_t count, int64_t j0, int64_t keys) {
    A *weights = weights_.data(), *spread = spread_.data(), *powers = powers_.data();
    for_pairs(p_, row, count, j0, keys, read_.data(),
              [=](int64_t at, V a, int64_t left) __attribute__((always_inline)) {
                store_row<A>(powers + at, bounded_log2<A>(a * S::load(weights + at)), left);
              });
    const A h = exponent_ * A(0.5), g = h - 1, threshold = exponent_ == 2 ? A(0) : coincidence<A>();
    for_gradients(row, count, j0, keys, [=](int64_t at, V a, A* grad, int64_t left) __attribute__((always_inline)) {
      const V squared = S::load(weights + at), length = S::load(powers + at);
      const I near = squared < coincidence<A>(), none = (a == 0) | (squared < threshold);
      // M / A times grad_out . (x_value - out), which is U / A.
      const V power = none ? V{} : exp2(g * length), ratio = power * S::load(spread + at), u = a * ratio;
      store_row<A>(powers + at, near ? V{} : u * length, left);
      store_row<A>(grad, h * ratio, left);
      store_row<A>(weights + at, a * power, left);
      store_row<A>(spread + at, near ? V{} : (g + g) * u / squared, left);
    });
    if (!params_.want_p) return;
    const RowEnd<A> end(keys);
    for (int64_t i = 0; i < count; ++i) {  // row by row, whether or not rows of attention are joined
      V sum{};
      for (int64_t j = 0; j < keys; j += S::lanes) sum += end.load(j, powers + i * keys + j);
      grad_p_ += static_cast<double>(S::sum(sum));
    }
  }

  void differentiate_plain(int64_t row, int64_t count, int64_t j0, int64_t keys) {
    A *weights = weights_.data(), *spread = spread_.data();
    for_gradients(row, count, j0, keys, [=](int64_t at, V a, A* grad, int64_t left) {
      const I none = (a == 0) | (S::load(weights + at) < 0);
      store_row<A>(grad, none ? V{} : S::load(spread + at), left);
      store_row<A>(weights + at, none ? V{} : a, left);
    });
  }

  static VLMADAPT_INLINE V first_lanes(V v, int64_t count) {
    for (int lane = 0; lane < S::lanes; ++lane) v[lane] = lane < count ? v[lane] : A(0);
    return v;
  }

  // The released arithmetic, Q = |sqrt(A) (x_query - x_value) + eps|^2. What flows through Q to the features is
  // E (x_query - x_value), as otherwise, and the same shift in every coordinate, kept in powers_.
  void differentiate_kept(int64_t row, int64_t count, int64_t j0, int64_t keys) {
    const A g = exponent_ * A(0.5) - 1, eps = static_cast<A>(p_.eps);
    for (int64_t i = 0; i < count; ++i) {
      const A* x = x_ + i * panel_.width;
      A *weights = weights_.data() + i * keys, *spread = spread_.data() + i * keys, *shifts = powers_.data() + i * keys;
      V sum_p{};
      for_gradients(row + i, 1, j0, keys, [&](int64_t j, V a, A* grad, int64_t left) {
        const I none = a == 0;
        const V root = none ? S::broadcast(1) : exp2(A(0.5) * log2(none ? S::broadcast(1) : a));
        V q{}, squared{}, shift{};
        for (int64_t c = 0; c < p_.features; ++c) {
          const V difference = x[c] - S::load(panel_.column(c) + j0 + j), shifted = root * difference + eps;
          q += shifted * shifted;
          squared += difference * difference;
          shift += difference;
        }
        q = S::at_least(smallest_normal<A>(), q);
        const V length = log2(q), power = none ? V{} : exp2(g * length), ratio = power * S::load(spread + j);
        const V u = a * ratio, through = g * u / q;
        sum_p += first_lanes(u * length, left);
        store_row<A>(grad, none ? V{} : ratio + through * (squared + eps * shift / root), left);
        store_row<A>(weights + j, a * power, left);
        store_row<A>(spread + j, (through + through) * root * root, left);
        store_row<A>(shifts + j, (through + through) * root * eps, left);
      });
      grad_p_ += static_cast<double>(S::sum(sum_p));
    }
  }

  void write_rows(int64_t row, int64_t count, bool by_distance) {
    const int64_t d = p_.features;
    const A* grad_out = static_cast<const A*>(params_.grad_out) + row * d;
    A* to = static_cast<A*>(params_.grad_x_query) + row * d;
    const int64_t steps = panel_.width / features_step;
    for (int64_t at = 0; at < count * steps; at += 2) {  // two sets of sums at a time; grad_x_ has room for one more
      A sums[2 * features_step] = {};
      if (by_distance) lane_sums<A, 2 * features_step>(grad_x_.data() + at * features_step * S::lanes, sums);
      for (int64_t set = at; set < min_of(at + 2, count * steps); ++set) {
        const int64_t i = set / steps, c0 = set % steps * features_step;
        const A share = p_.residual ? home_share_[i] : A(0);
        for (int64_t c = c0; c < min_of(c0 + features_step, d); ++c)
          to[i * d + c] = sums[(set - at) * features_step + c - c0] + (share == 0 ? A(0) : share * grad_out[i * d + c]);
      }
    }
  }

  const BackwardParams& params_;
  const Problem& p_;
  int64_t head_ = 0;
  A exponent_ = 0, pull_ = 0;
  bool plain_ = false;  // p = 2 and its gradient is not wanted: no distances
  const PairTile tile_;
  KeyPanel<A> panel_, grads_;
  const A* x_ = nullptr;
  Buffer<A> read_, x_rows_, upstream_, grad_x_;
  Buffer<A> weights_, spread_, powers_, unwanted_;  // [queries, keys of the tile]
  double grad_p_ = 0, grad_pull_ = 0;
  A own_[PairTile::max_queries], home_share_[PairTile::max_queries];
};

template <class A>
inline void backward_probabilities(const BackwardParams& params, const Parallel& parallel) {
  const Problem& p = params.problem;
  const int64_t heads = p.batch * p.heads;
  const int64_t chunks = chunks_of(heads, p.num_queries), share = divide_up(p.num_queries, chunks);
  const int64_t columns = p.num_keys * p.features;
  Buffer<A> partial(chunks > 1 ? heads * chunks * columns : 0);
  Buffer<double> scalars(heads * chunks * 2);
  auto tasks = [&](int64_t begin, int64_t end) {
    ProbabilitiesBackward<A> work(params);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / chunks, first = min_of(task % chunks * share, p.num_queries);
      KeyPanel<A>& grads = work.run(head, first, min_of(first + share, p.num_queries));
      scalars[task * 2] = work.grad_p();
      scalars[task * 2 + 1] = work.grad_pull();
      if (chunks > 1)
        grads.write(p, partial.data() + task * columns);
      else if (params.grad_x_value != nullptr)
        grads.write(p, static_cast<A*>(params.grad_x_value) + head * columns);
    }
  };
  parallel_ranges(parallel, heads * chunks, tasks);
  if (chunks > 1 && params.grad_x_value != nullptr)
    for (int64_t head = 0; head < heads; ++head)
      add_partial(partial.data() + head * chunks * columns, chunks, columns, columns,
                  static_cast<A*>(params.grad_x_value) + head * columns);
  add_scalars<A>(p, chunks, scalars.data(), params.grad_p, params.grad_pull);
}

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
