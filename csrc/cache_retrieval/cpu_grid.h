// Scores and accuracies for a whole grid of betas and alphas, compiled once per instruction set.
//
// A task is one panel of queries. Its similarities to all entries are computed once and kept ([entries, lanes]: the
// only place where memory grows with the number of entries, by one panel a thread); every beta is then an
// exponential and a vertical class sum over that buffer, every alpha one pass over the class sums. The exhaustive
// search of the released Tip-Adapter (arXiv 2111.03930) repeats the products for each pair.
#pragma once

#include "cache_retrieval/cpu_side.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

using vlmadapt::cache_retrieval::GridParams;

template <class Products>
class GridPanel {
  using T = typename Products::Input;
  using A = Accum<T>;
  using S = Simd<A>;

 public:
  explicit GridPanel(const GridParams& p)
      : p_(p),
        packed_(S::panel * Products::packed_size(p.width)),
        similarities_((p.num_entries + max_of(Products::rows, tile_rows)) * S::panel),
        sums_(p.num_classes * S::panel),
        base_(p.correct != nullptr ? p.num_classes * S::panel : 0) {}

  void run(int64_t first, int64_t count) {
    lanes_ = Panels<A>{count}.padded();
    if (!multiply<Products>(first, count, packed_.data())) {
      Buffer<A> packed(S::panel * p_.width);
      multiply<FloatProducts<T>>(first, count, packed.data());
    }
    if (p_.correct != nullptr)
      for (int64_t c = 0; c < p_.num_classes; ++c)
        for (int64_t q = 0; q < lanes_; ++q)
          base_[c * lanes_ + q] =
              q < count ? static_cast<const A*>(p_.base_logits)[(first + q) * p_.num_classes + c] : A(0);
    for (int64_t g = 0; g < p_.num_betas; ++g) {
      sum_classes(static_cast<const A*>(p_.betas)[g]);
      if (p_.scores != nullptr) write_scores(g, first, count);
      if (p_.correct != nullptr)
        for (int64_t a = 0; a < p_.num_alphas; ++a)
          __atomic_fetch_add(p_.correct + g * p_.num_alphas + a,
                             count_correct(static_cast<const A*>(p_.alphas)[a], first, count), __ATOMIC_RELAXED);
    }
  }

 private:
  // False where products gave NaN that others might not.
  template <class Way>
  bool multiply(int64_t first, int64_t count, typename Way::Packed* packed) {
    Way::pack_panel(static_cast<const T*>(p_.queries), first, count, p_.width, lanes_, packed);
    const Side side{p_.queries, p_.keys, {}, {}, p_.width};
    typename Way::template Tiles<> tiles(side, packed, first, Panels<A>{count});
    for (int64_t row0 = 0; row0 < p_.num_entries; row0 += Way::rows)
      tiles.product([&](int64_t r) { return p_.order[row0 + r]; }, min_of(Way::rows, p_.num_entries - row0),
                    similarities_.data() + row0 * lanes_, lanes_);
    return !tiles.undefined();
  }

  void sum_classes(A beta) {
    for (int64_t c = 0; c < p_.num_classes; ++c)
      for (int64_t q = 0; q < lanes_; q += S::lanes) {
        typename S::V sum{};
        for (int64_t e = p_.offsets[c]; e < p_.offsets[c + 1]; ++e)
          sum += exp(beta * (S::load(similarities_.data() + e * lanes_ + q) - A(1)));
        S::store(sums_.data() + c * lanes_ + q, sum);
      }
  }

  void write_scores(int64_t g, int64_t first, int64_t count) {
    A* scores = static_cast<A*>(p_.scores) + (g * p_.num_queries + first) * p_.num_classes;
    for (int64_t q = 0; q < count; ++q)
      for (int64_t c = 0; c < p_.num_classes; ++c) scores[q * p_.num_classes + c] = sums_[c * lanes_ + q];
  }

  // A query is right when no class beats its target: a larger logit, or an equal one of a lower class. Comparisons
  // with NaN are false, so a NaN is counted as wrong explicitly.
  int64_t count_correct(A alpha, int64_t first, int64_t count) {
    using Mask = typename S::Mask;
    int64_t correct = 0;
    for (int64_t q0 = 0; q0 < lanes_; q0 += S::lanes) {
      A best[S::lanes];
      Mask target[S::lanes];
      for (int64_t i = 0; i < S::lanes; ++i) {
        const bool real = q0 + i < count;
        const int64_t label = real ? p_.targets[first + q0 + i] : 0;
        target[i] = static_cast<Mask>(label);
        best[i] = base_[label * lanes_ + q0 + i] + alpha * sums_[label * lanes_ + q0 + i];
      }
      const typename S::V limit = S::load(best);
      const typename S::I label = S::load_mask(target);
      typename S::I wrong = limit != limit;
      for (int64_t c = 0; c < p_.num_classes; ++c) {
        const typename S::V logit =
            S::load(base_.data() + c * lanes_ + q0) + alpha * S::load(sums_.data() + c * lanes_ + q0);
        wrong |= (logit > limit) | (logit != logit) | ((logit == limit) & (label > static_cast<Mask>(c)));
      }
      for (int64_t i = 0; i < S::lanes && q0 + i < count; ++i) correct += wrong[i] == 0;
    }
    return correct;
  }

  const GridParams& p_;
  int64_t lanes_ = 0;
  Buffer<typename Products::Packed> packed_;
  Buffer<A> similarities_, sums_, base_;
};

// Always true: a panel whose products are undefined is multiplied again by itself.
template <class Products>
inline bool grid(const GridParams& p, const Parallel& parallel) {
  constexpr int64_t panel = Simd<Accum<typename Products::Input>>::panel;
  auto tasks = [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    [[maybe_unused]] typename Products::Scope scope;
    GridPanel<Products> work(p);
    for (int64_t task = begin; task < end; ++task) work.run(task * panel, min_of(panel, p.num_queries - task * panel));
  };
  parallel_ranges(parallel, (p.num_queries + panel - 1) / panel, tasks);
  return true;
}

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
