// The operators as torch calls them, for any backend: unpack and check tensors, allocate results, run.
// A Backend has static members forward and backward taking (params, a tensor of the right device).
#pragma once

#include <tuple>

#include "common/torch_attention.h"
#include "p_laplacian/kernel.h"

namespace vlmadapt::p_laplacian {

// What both entries share.
inline Problem problem_of(const Tensor& x_query, const Tensor& x_value, const Tensor& p, const Tensor& pull,
                          bool residual, bool drop_diagonal) {
  Problem problem{};
  problem.dtype = dtype_of(x_query, "x_query");
  const ScalarType type = x_query.scalar_type(), accum = accum_type(problem.dtype);
  problem.batch = x_query.size(0);
  problem.heads = x_query.size(1);
  problem.num_queries = x_query.size(2);
  problem.features = x_query.size(3);
  problem.num_keys = x_value.size(2);
  problem.x_query =
      checked(x_query, "x_query", type, {problem.batch, problem.heads, problem.num_queries, problem.features}, x_query);
  problem.x_value =
      checked(x_value, "x_value", type, {problem.batch, problem.heads, problem.num_keys, problem.features}, x_query);
  problem.p = checked(p, "p", accum, {problem.heads}, x_query);
  problem.pull = checked(pull, "pull", accum, {problem.heads}, x_query);
  problem.residual = residual;
  problem.drop_diagonal = drop_diagonal;
  return problem;
}

inline void add_probabilities(Problem& problem, const Tensor& attention, ScalarType type, bool released, double eps,
                              const Tensor& like) {
  problem.attention = checked(attention, "attention", type,
                              {problem.batch, problem.heads, problem.num_queries, problem.num_keys}, like);
  problem.released = released;
  problem.eps = eps;
}

inline void add_scores(Problem& problem, const Tensor& query, const Tensor& key, const OptionalTensor& value,
                       ScalarType type, const OptionalTensor& mask, const OptionalTensor& key_lengths, double scale,
                       bool is_causal, const Tensor& like) {
  problem.from_scores = true;
  fill_scores(problem, query, key, mask, key_lengths, scale, is_causal, like);
  if (!value.has_value()) return;
  problem.has_value = true;
  problem.value_width = value->size(3);
  problem.value =
      checked(*value, "value", type, {problem.batch, problem.heads, problem.num_keys, problem.value_width}, like);
}

template <class Backend>
struct Operators {
  static std::tuple<Tensor, Tensor> from_probabilities(Tensor attention, Tensor x_query, Tensor x_value, Tensor p,
                                                       Tensor pull, bool residual, bool released, bool drop_diagonal,
                                                       double eps) {
    ForwardParams f{};
    f.problem = problem_of(x_query, x_value, p, pull, residual, drop_diagonal);
    add_probabilities(f.problem, attention, x_query.scalar_type(), released, eps, x_query);
    Results results(f.problem, x_query);
    results.fill(f);
    Backend::forward(f, x_query);
    return {results.out, results.row_sum};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> from_scores(Tensor query, Tensor key, OptionalTensor value,
                                                                Tensor x_query, Tensor x_value, Tensor p, Tensor pull,
                                                                OptionalTensor mask, OptionalTensor key_lengths,
                                                                double scale, bool is_causal, bool residual,
                                                                bool drop_diagonal) {
    ForwardParams f{};
    f.problem = problem_of(x_query, x_value, p, pull, residual, drop_diagonal);
    add_scores(f.problem, query, key, value, x_query.scalar_type(), mask, key_lengths, scale, is_causal, x_query);
    Results results(f.problem, x_query);
    results.fill(f);
    const Problem& n = f.problem;
    const ScalarType accum = accum_type(n.dtype);
    Tensor lse = new_tensor(x_query, {n.batch, n.heads, n.num_queries}, accum);
    Tensor context = n.has_value ? new_tensor(x_query, {n.batch, n.heads, n.num_queries, n.value_width}, accum)
                                 : new_tensor(x_query, {0}, accum);
    f.lse = lse.mutable_data_ptr();
    f.context = n.has_value ? context.mutable_data_ptr() : nullptr;
    Backend::forward(f, x_query);
    return {results.out, results.row_sum, lse, context};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward_probabilities(
      Tensor grad_out, Tensor attention, Tensor x_query, Tensor x_value, Tensor p, Tensor pull, Tensor out,
      Tensor row_sum, bool residual, bool released, bool drop_diagonal, double eps, bool want_attention, bool want_p) {
    BackwardParams b{};
    b.problem = problem_of(x_query, x_value, p, pull, residual, drop_diagonal);
    add_probabilities(b.problem, attention, x_query.scalar_type(), released, eps, x_query);
    Gradients grads(b, x_query, grad_out, out, row_sum);
    const Problem& n = b.problem;
    b.want_p = want_p;
    Tensor grad_attention = wanted(want_attention, x_query, {n.batch, n.heads, n.num_queries, n.num_keys},
                                   accum_type(n.dtype), b.grad_attention);
    Backend::backward(b, x_query);
    return {grad_attention, grads.x_query, grads.x_value, grads.p, grads.pull};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward_scores(
      Tensor grad_out, OptionalTensor grad_context, OptionalTensor grad_lse, Tensor query, Tensor key,
      OptionalTensor value, Tensor x_query, Tensor x_value, Tensor p, Tensor pull, OptionalTensor mask,
      OptionalTensor key_lengths, Tensor out, Tensor row_sum, Tensor lse, OptionalTensor context, double scale,
      bool is_causal, bool residual, bool drop_diagonal, bool want_query, bool want_key, bool want_value, bool want_p) {
    BackwardParams b{};
    b.problem = problem_of(x_query, x_value, p, pull, residual, drop_diagonal);
    add_scores(b.problem, query, key, value, x_query.scalar_type(), mask, key_lengths, scale, is_causal, x_query);
    Gradients grads(b, x_query, grad_out, out, row_sum);
    const Problem& n = b.problem;
    const ScalarType accum = accum_type(n.dtype);
    b.lse = checked(lse, "lse", accum, {n.batch, n.heads, n.num_queries}, x_query);
    b.grad_lse = checked(grad_lse, "grad_lse", accum, {n.batch, n.heads, n.num_queries}, x_query);
    if (grad_context.has_value()) {
      b.with_context = true;
      b.grad_context =
          checked(grad_context, "grad_context", accum, {n.batch, n.heads, n.num_queries, n.value_width}, x_query);
      b.context = checked(context, "context", accum, {n.batch, n.heads, n.num_queries, n.value_width}, x_query);
    }
    b.want_p = want_p;
    Tensor grad_query = wanted(want_query, x_query, {n.batch, n.heads, n.num_queries, n.width}, accum, b.grad_query);
    Tensor grad_key = wanted(want_key, x_query, {n.batch, n.heads, n.num_keys, n.width}, accum, b.grad_key);
    Tensor grad_value = wanted(want_value && grad_context.has_value(), x_query,
                               {n.batch, n.heads, n.num_keys, n.value_width}, accum, b.grad_value);
    Backend::backward(b, x_query);
    return {grad_query, grad_key, grad_value, grads.x_query, grads.x_value, grads.p, grads.pull};
  }

  static void register_all(torch::stable::detail::StableLibrary& library) {
    library.impl("p_laplacian", TORCH_BOX(&from_probabilities));
    library.impl("p_laplacian_backward", TORCH_BOX(&backward_probabilities));
    library.impl("p_laplacian_attention", TORCH_BOX(&from_scores));
    library.impl("p_laplacian_attention_backward", TORCH_BOX(&backward_scores));
  }

 private:
  struct Results {
    Tensor out, row_sum;
    Results(const Problem& n, const Tensor& like)
        : out(new_tensor(like, {n.batch, n.heads, n.num_queries, n.features}, accum_type(n.dtype))),
          row_sum(new_tensor(like, {n.batch, n.heads, n.num_queries}, accum_type(n.dtype))) {}
    void fill(ForwardParams& f) {
      f.out = out.mutable_data_ptr();
      f.row_sum = row_sum.mutable_data_ptr();
    }
  };

  // The gradients both entries have, and the forward's results they come from.
  struct Gradients {
    Tensor x_query, x_value, p, pull;
    Gradients(BackwardParams& b, const Tensor& like, const Tensor& grad_out, const Tensor& out, const Tensor& row_sum)
        : x_query(new_tensor(like, {b.problem.batch, b.problem.heads, b.problem.num_queries, b.problem.features},
                             accum_type(b.problem.dtype))),
          x_value(new_tensor(like, {b.problem.batch, b.problem.heads, b.problem.num_keys, b.problem.features},
                             accum_type(b.problem.dtype))),
          p(new_tensor(like, {b.problem.heads}, accum_type(b.problem.dtype))),
          pull(new_tensor(like, {b.problem.heads}, accum_type(b.problem.dtype))) {
      const Problem& n = b.problem;
      const ScalarType accum = accum_type(n.dtype);
      b.grad_out = checked(grad_out, "grad_out", accum, {n.batch, n.heads, n.num_queries, n.features}, like);
      b.out = checked(out, "out", accum, {n.batch, n.heads, n.num_queries, n.features}, like);
      b.row_sum = checked(row_sum, "row_sum", accum, {n.batch, n.heads, n.num_queries}, like);
      b.grad_x_query = x_query.mutable_data_ptr();
      b.grad_x_value = x_value.mutable_data_ptr();
      b.grad_p = p.mutable_data_ptr();
      b.grad_pull = pull.mutable_data_ptr();
    }
  };
};

}  // namespace vlmadapt::p_laplacian
