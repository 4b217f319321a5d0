// Scores of queries and keys, and which pairs of them exist: what the kernels of attention share. Knows no torch.
//
//   s[i, j] = scale query[i] . key[j] + mask[i, j],   A[i, j] = exp(s[i, j] - lse[i]),   lse[i] = log sum_j exp(s[i,
//   j])
//
// A masked pair has s = minus infinity and A = 0; a query that sees no key has A = 0 everywhere.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace vlmadapt {

enum class MaskKind : int { none = 0, boolean = 1, additive = 2 };

// Tensors are [batch, heads, rows, columns], row-major and contiguous, the mask excepted.
struct AttentionScores {
  Dtype dtype;
  int64_t batch, heads, num_queries, num_keys, width;
  const void* query;  // dtype [.., num_queries, width]
  const void* key;    // dtype [.., num_keys, width]
  double scale;
  MaskKind mask_kind;
  const void* mask;            // one byte or accum an element
  int64_t mask_strides[4];     // in elements; 0 along broadcast axes
  const int64_t* key_lengths;  // [batch]; nullptr: all keys
  bool causal;                 // key j is seen by query i where j <= i + num_keys - num_queries
};

}  // namespace vlmadapt
