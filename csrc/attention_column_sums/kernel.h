// Column sums of attention: the contract between kernels and callers. Knows no torch.
//
//   sums[j] = sum_i A[i, j],   A as in common/attention.h
//
// how much all queries together attend to a key. Backward, with g the gradient of the sums:
//
//   grad s[i, j] = A[i, j] (g[j] - sum_k A[i, k] g[k])
//
// No [queries, keys] matrix is stored beyond one block of queries. "accum" marks pointers of the accumulation type:
// double for f64, float for every other dtype.
#pragma once

#include "common/attention.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace vlmadapt::attention_column_sums {

struct ForwardParams {
  AttentionScores scores;
  void* sums;  // accum [batch, heads, num_keys]
  void* lse;   // accum [batch, heads, num_queries]; minus infinity where a query sees no key
};

struct BackwardParams {
  AttentionScores scores;
  const void* lse;        // of the forward
  const void* grad_sums;  // accum [batch, heads, num_keys]
  void* grad_query;       // accum, as query; this and the next nullptr: not wanted
  void* grad_key;         // accum, as key
};

void forward_cpu(const ForwardParams& params, const Parallel& parallel, Isa isa);
void backward_cpu(const BackwardParams& params, const Parallel& parallel, Isa isa);

}  // namespace vlmadapt::attention_column_sums
