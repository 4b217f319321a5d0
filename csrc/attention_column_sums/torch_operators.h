// The operators as torch calls them, for any backend: unpack and check tensors, allocate results, run.
// A Backend has static members forward and backward taking (params, a tensor of the right device).
#pragma once

#include <tuple>

#include "attention_column_sums/kernel.h"
#include "common/torch_attention.h"

namespace vlmadapt::attention_column_sums {

template <class Backend>
struct Operators {
  static std::tuple<Tensor, Tensor> forward(Tensor query, Tensor key, OptionalTensor mask, OptionalTensor key_lengths,
                                            double scale, bool is_causal) {
    ForwardParams f{};
    f.scores = scores_of(query, key, mask, key_lengths, scale, is_causal);
    const AttentionScores& n = f.scores;
    const ScalarType accum = accum_type(n.dtype);
    Tensor sums = new_tensor(query, {n.batch, n.heads, n.num_keys}, accum);
    Tensor lse = new_tensor(query, {n.batch, n.heads, n.num_queries}, accum);
    f.sums = sums.mutable_data_ptr();
    f.lse = lse.mutable_data_ptr();
    Backend::forward(f, query);
    return {sums, lse};
  }

  static std::tuple<Tensor, Tensor> backward(Tensor grad_sums, Tensor query, Tensor key, OptionalTensor mask,
                                             OptionalTensor key_lengths, Tensor lse, double scale, bool is_causal,
                                             bool want_query, bool want_key) {
    BackwardParams b{};
    b.scores = scores_of(query, key, mask, key_lengths, scale, is_causal);
    const AttentionScores& n = b.scores;
    const ScalarType accum = accum_type(n.dtype);
    b.lse = checked(lse, "lse", accum, {n.batch, n.heads, n.num_queries}, query);
    b.grad_sums = checked(grad_sums, "grad_sums", accum, {n.batch, n.heads, n.num_keys}, query);
    Tensor grad_query = wanted(want_query, query, {n.batch, n.heads, n.num_queries, n.width}, accum, b.grad_query);
    Tensor grad_key = wanted(want_key, query, {n.batch, n.heads, n.num_keys, n.width}, accum, b.grad_key);
    Backend::backward(b, query);
    return {grad_query, grad_key};
  }

  static void register_all(torch::stable::detail::StableLibrary& library) {
    library.impl("attention_column_sums", TORCH_BOX(&forward));
    library.impl("attention_column_sums_backward", TORCH_BOX(&backward));
  }

 private:
  static AttentionScores scores_of(const Tensor& query, const Tensor& key, const OptionalTensor& mask,
                                   const OptionalTensor& key_lengths, double scale, bool is_causal) {
    AttentionScores scores{};
    scores.dtype = dtype_of(query, "query");
    scores.batch = query.size(0);
    scores.heads = query.size(1);
    scores.num_queries = query.size(2);
    scores.num_keys = key.size(2);
    fill_scores(scores, query, key, mask, key_lengths, scale, is_causal, query);
    return scores;
  }
};

}  // namespace vlmadapt::attention_column_sums
