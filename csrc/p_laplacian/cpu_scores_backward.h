// All blocks of the backward from queries and keys, and their sums over heads.
//
// A task is a head and a run of its blocks of queries. Gradients of the query side are sums over the tiles of a block;
// those of the key side gather in buffers of the task's own, so there are no atomics and the order of summation is
// fixed. Where heads are few, a head's queries are cut into chunks whose key gradients are added afterwards.
#pragma once

#include "p_laplacian/cpu_scores_block_backward.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

template <class A>
class ScoresBackward {
 public:
  ScoresBackward(const BackwardParams& params, const Parallel& parallel)
      : params_(params),
        p_(params.problem),
        parallel_(parallel),
        heads_(p_.batch * p_.heads),
        blocks_(divide_up(p_.num_queries, block_queries<A>())),
        chunks_(chunks_of(heads_, blocks_)),
        row_values_(p_.width + (params.with_context ? p_.value_width : 0) + p_.features),
        partial_(chunks_ > 1 ? heads_ * chunks_ * p_.num_keys * row_values_ : 0),
        scalars_(heads_ * chunks_ * 2) {}

  void run() {
    auto tasks = [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) run_task(task);
    };
    parallel_ranges(parallel_, heads_ * chunks_, tasks);
    if (chunks_ > 1) {
      auto adding = [&](int64_t begin, int64_t end) {
        for (int64_t head = begin; head < end; ++head) add_chunks(head);
      };
      parallel_ranges(parallel_, heads_, adding);
    }
    add_scalars<A>(p_, chunks_, scalars_.data(), params_.grad_p, params_.grad_pull);
  }

 private:
  void run_task(int64_t task) {
    const int64_t head = task / chunks_, chunk = task % chunks_;
    const int64_t share = divide_up(blocks_, chunks_);
    KeyGradients<A> sums(p_, params_.with_context);
    double grad_p = 0, grad_pull = 0;
    for (int64_t block = chunk * share; block < min_of((chunk + 1) * share, blocks_); ++block) {
      const int64_t first = block * block_queries<A>(), count = min_of(block_queries<A>(), p_.num_queries - first);
      with_vectors<A>(count, [&](auto vectors) {
        ScoresBlockBackward<A, decltype(vectors)::count>(params_, head, first, count, sums).run(grad_p, grad_pull);
      });
    }
    scalars_[task * 2] = grad_p;
    scalars_[task * 2 + 1] = grad_pull;
    A* partial = partial_.data() + task * p_.num_keys * row_values_;
    partial = write_keys(sums.keys, sums.key_width, p_.width, head, params_.grad_key, partial);
    partial = write_keys(sums.values, sums.value_width, p_.value_width, head, params_.grad_value, partial);
    write_keys(sums.x_values, sums.features, p_.features, head, params_.grad_x_value, partial);
  }

  // Into the result itself, or into this chunk's share of the partial sums; returns the place after it.
  A* write_keys(Buffer<A>& sums, int64_t ld, int64_t width, int64_t head, void* grad, A* partial) {
    if (ld == 0) return partial;
    A* to = chunks_ > 1 ? partial : static_cast<A*>(grad);
    if (to == nullptr) return partial;
    if (chunks_ == 1) to += head * p_.num_keys * width;
    for (int64_t j = 0; j < p_.num_keys; ++j)
      for (int64_t c = 0; c < width; ++c) to[j * width + c] = sums[j * ld + c];
    return partial + p_.num_keys * width;
  }

  void add_chunks(int64_t head) {
    const A* first = partial_.data() + head * chunks_ * p_.num_keys * row_values_;
    const int64_t widths[] = {p_.width, params_.with_context ? p_.value_width : 0, p_.features};
    void* const grads[] = {params_.grad_key, params_.grad_value, params_.grad_x_value};
    for (int which = 0; which < 3; ++which) {
      const int64_t count = p_.num_keys * widths[which];
      if (grads[which] != nullptr)
        add_partial(first, chunks_, p_.num_keys * row_values_, count, static_cast<A*>(grads[which]) + head * count);
      first += count;
    }
  }

  const BackwardParams& params_;
  const Problem& p_;
  const Parallel& parallel_;
  const int64_t heads_, blocks_, chunks_, row_values_;
  Buffer<A> partial_;
  Buffer<double> scalars_;
};

template <class A>
inline void backward_scores(const BackwardParams& params, const Parallel& parallel) {
  ScoresBackward<A>(params, parallel).run();
}

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
