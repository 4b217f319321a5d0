// p-Laplacian attention: the contract between kernels and callers. Knows no torch.
//
//   A[i, j] = attention[i, j], or that of the scores (common/attention.h)
//   Q[i, j] = A |x_query[i] - x_value[j]|^2                   released: |sqrt(A) (x_query[i] - x_value[j]) + eps|^2
//   M[i, j] = A Q^((p - 2) / 2)                                   0 where A is 0 or the pair is dropped
//   row_sum = sum_j M,   out = (sum_j M x_value[j] + pull r) / (row_sum + pull),   pull = 2 mu / p
//
// (arXiv 2312.10613, arXiv 2111.07337.) r is x_query or 0. Where row_sum + pull is 0, out = r. A pair is dropped when
// its features coincide and p is not 2, or when it joins a node with itself and drop_diagonal is set: query i is key
// i + num_keys - num_queries. No [queries, keys] matrix is stored beyond a tile.
//
// Tensors are [batch, heads, rows, columns], row-major and contiguous, the mask excepted; sizes are 64-bit. "accum"
// marks pointers of the accumulation type: double for f64, float for every other dtype.
#pragma once

#include <cstdint>

#include "common/attention.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace vlmadapt::p_laplacian {

// Squared distances below this are exact coincidences: the powers of smaller ones would leave the type's range.
constexpr double coincidence_f32 = 1e-30, coincidence_f64 = 1e-290;

// Of the scores, what is not from_scores needs only the type and the sizes, and key_lengths where they are given.
struct Problem : AttentionScores {
  int64_t features;       // of x_query and x_value
  bool from_scores;       // from query and key; else from attention (an empty tensor has no address to tell)
  bool has_value;         // the context is wanted too
  const void* attention;  // dtype [.., num_queries, num_keys]
  const void* value;      // dtype [.., num_keys, value_width]
  int64_t value_width;
  const void* x_query;  // dtype [.., num_queries, features]
  const void* x_value;  // dtype [.., num_keys, features]
  const void* p;        // accum [heads]
  const void* pull;     // accum [heads]
  bool residual;        // r = x_query instead of 0
  bool drop_diagonal;
  bool released;  // eps in every coordinate and nothing dropped; only with `attention`
  double eps;
};

struct ForwardParams {
  Problem problem;
  void* out;      // accum [.., num_queries, features]
  void* row_sum;  // accum [.., num_queries]
  void* lse;      // accum [.., num_queries]; from scores only
  void* context;  // accum [.., num_queries, value_width]; with a value only
};

// With a = 1 / (row_sum + pull), U[i, j] = M a grad_out[i] . (x_value[j] - out[i]), in drop mode:
//   grad A = p/2 U / A      or, through the softmax,
//   grad s = p/2 U + A (grad_context[i] . value[j] - delta[i]),
//            delta = p/2 sum_j U + grad_context . context - grad_lse,  sum_j U = a pull grad_out . (out - r)
//   grad x_query = sum_j E (x_query[i] - x_value[j]) + (1 - a row_sum) grad_out,   E = (p - 2) U / |..|^2
//   grad x_value = sum_i M a grad_out[i] - E (x_query[i] - x_value[j])
//   grad p = sum U log(Q) / 2 (pull apart),   grad pull = sum_i a grad_out . (r - out)
struct BackwardParams {
  Problem problem;
  const void *out, *row_sum, *lse, *context;       // of the forward
  const void *grad_out, *grad_context, *grad_lse;  // accum; grad_lse nullptr: zero
  bool with_context;                               // grad_context is given; else it is zero
  bool want_p;                                     // grad_p is wanted
  void* grad_attention;                            // accum, as attention; these and the others nullptr: not wanted
  void *grad_query, *grad_key, *grad_value;        // accum
  void *grad_x_query, *grad_x_value;               // accum
  void *grad_p, *grad_pull;                        // accum [heads], written
};

void forward_cpu(const ForwardParams& params, const Parallel& parallel, Isa isa);
void backward_cpu(const BackwardParams& params, const Parallel& parallel, Isa isa);

}  // namespace vlmadapt::p_laplacian
