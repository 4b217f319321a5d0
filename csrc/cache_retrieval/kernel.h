// Cache retrieval: the contract between kernels and callers. Knows no torch.
//
//   affinity   A[b, e] = exp(scale[b] * (queries[b] . keys[e] - center[b]))
//   mixed      A[b, e] = ratio[b] * A_image[b, e] + (1 - ratio[b]) * A_text[b, e]        (two streams)
//   scores     S[b, c] = sum of A[b, e] over the entries e of class c
//
// scale = beta and center = 1 give Tip-Adapter's exp(-beta (1 - q.k)) (arXiv 2111.03930); a standardised
// similarity (s - mean) / std has scale = beta / std and center = mean + std. The products, the exponential and
// the class sum are fused: no [queries, entries] matrix is stored beyond a tile, unless a caller wants to keep the
// similarities for the backward, which is then spared their product.
//
// All matrices are row-major and contiguous; sizes and offsets count elements and are 64-bit.
// "accum" marks pointers of the accumulation type: double for f64, float for every other dtype.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace vlmadapt::cache_retrieval {

// How float32 may be multiplied on a CPU, as torch.set_float32_matmul_precision says: "highest", "high", "medium". Sums
// are float32 in any case. Read only for f32, and where the level gains by products of bfloat16; else they are exact.
enum class Float32 : int {
  exact = 0,
  two_bf16 = 1,  // a number as the sum of two bfloat16, three products in place of one
  bf16 = 2,      // a number as one
};

// Up to as many queries are multiplied by plain dot products on a CPU.
constexpr int64_t max_dot_queries = 4;

// What a forward keeps for its backward, in the accumulation type, or that of affinities in 16 bits: positive, they are
// the upper halves of float32 but for the sign, with 8 bits of mantissa, one more than bfloat16. For bfloat16 alone,
// and only if the gradients of scale, center and weight are not wanted, which need the similarities.
enum class Kept : int { similarities = 0, affinities = 1 };

// A number a query: values[b * stride], or `same` for all where there are no values.
struct PerQuery {
  const void* values = nullptr;  // accum
  int64_t stride = 1;            // 0: one value for all, read where it is
  double same = 1;
};

struct Side {
  const void* queries;  // dtype [num_queries, width]
  const void* keys;     // dtype [num_entries or num_classes, width]
  PerQuery scale;
  PerQuery center;
  int64_t width;
};

struct ForwardParams {
  Dtype dtype;
  int64_t num_queries;
  int64_t num_entries;
  int64_t num_classes;
  const int64_t* order;    // [num_entries]: entry indices sorted by class, rising within a class
  const int64_t* offsets;  // [num_classes + 1]: class c owns order[offsets[c] .. offsets[c + 1])
  Side image;
  Side text;                 // queries == nullptr: one stream only
  bool text_per_class;       // text.keys has one row a class instead of one an entry
  PerQuery ratio;            // read only with two streams
  const int64_t* own_entry;  // [num_queries], -1 for none; nullptr: none at all
  bool mask_own_scores;      // leave the own entry out of the scores (it never counts in the disagreement)
  void* scores;              // accum [num_queries, num_classes], written whole
  void* disagreement;        // accum [num_queries]: mean |A_image - A_text|; nullptr: not wanted
  Kept kept_as;
  void* kept;       // [num_entries, num_queries]: those of image; nullptr or on CUDA: not kept
  void* text_kept;  // the same of text; nullptr with text_per_class
};

// Values in place of classes, one stream:  S[b, c] = sum_k A[b, k] values[k, c]
struct DenseForwardParams {
  Dtype dtype;
  int64_t num_queries;
  int64_t num_keys;
  int64_t num_classes;
  Side side;
  const void* values;      // dtype [num_keys, num_classes]
  const int64_t* own_key;  // [num_queries], -1 for none, left out; nullptr: none at all
  void* scores;            // accum [num_queries, num_classes], written whole
  void* similarities;      // accum [num_keys, num_queries]; nullptr or on CUDA: not kept
};

// One stream. A key stands for `multiplicity` entries of its class; `own_key` counts one entry less.
//   G[b, k] = grad_scores[b, labels[k]] * count[b, k] * A[b, k]
//   grad_weight = sum_k G,  grad_scale = weight * sum_k G (s - center),  grad_center = -weight * scale * sum_k G
//   grad_queries = (weight * scale * G) keys,  grad_keys = (weight * scale * G)^T queries
// With values, (grad_scores values^T)[b, k] takes the place of grad_scores[b, labels[k]], and
//   grad_values = (count * A)^T grad_scores
struct BackwardParams {
  Dtype dtype;
  int64_t num_queries;
  int64_t num_keys;
  int64_t num_classes;
  bool dense;                // values in place of labels, multiplicity and weight
  const int64_t* labels;     // [num_keys]
  const void* values;        // dtype [num_keys, num_classes]
  const void* multiplicity;  // accum [num_keys]; nullptr: all one
  const int64_t* own_key;    // [num_queries], -1 for none; nullptr: none at all
  Side side;
  PerQuery weight;          // the stream's share
  const void* grad_scores;  // accum [num_queries, num_classes]
  Kept kept_as;
  const void* kept;       // [num_keys, num_queries] from the forward; nullptr: recompute (CUDA always)
  bool narrow_gradients;  // these three are of the inputs' dtype, each the sum rounded once; CPU only
  void* grad_queries;     // accum [num_queries, width]; nullptr: not wanted
  void* grad_keys;        // accum [num_keys, width]; nullptr: not wanted
  void* grad_values;      // accum [num_keys, num_classes]; nullptr: not wanted
  void* grad_scale;       // accum [num_queries]; nullptr: none of these three is wanted
  void* grad_center;      // accum [num_queries]
  void* grad_weight;      // accum [num_queries]
};

// One stream under many betas (center = 1), each product computed once. Either or both of:
//   scores[g, b, c] = sum of exp(betas[g] * (s - 1)) over the entries of class c
//   correct[g, a]   = number of queries whose argmax_c(base_logits[b, c] + alphas[a] * scores[g, b, c]) is
//                     targets[b], the lowest class winning ties
struct GridParams {
  Dtype dtype;
  int64_t num_queries;
  int64_t num_entries;
  int64_t num_classes;
  int64_t width;
  int64_t num_betas;
  int64_t num_alphas;
  const int64_t* order;
  const int64_t* offsets;
  const void* queries;      // dtype [num_queries, width]
  const void* keys;         // dtype [num_entries, width]
  const void* betas;        // accum [num_betas]
  const void* alphas;       // accum [num_alphas]
  const void* base_logits;  // accum [num_queries, num_classes]
  const int64_t* targets;   // [num_queries]
  void* scores;             // accum [num_betas, num_queries, num_classes]; nullptr: not wanted
  int64_t* correct;         // [num_betas, num_alphas], added to; nullptr: not wanted
};

void forward_cpu(const ForwardParams& params, Float32 float32, const Parallel& parallel, Isa isa);
void dense_forward_cpu(const DenseForwardParams& params, Float32 float32, const Parallel& parallel, Isa isa);
void backward_cpu(const BackwardParams& params, Float32 float32, const Parallel& parallel, Isa isa);
void grid_cpu(const GridParams& params, Float32 float32, const Parallel& parallel, Isa isa);

// Counting sort of labels into order and offsets; returns the position of the first label outside
// [0, num_classes), or -1 when all are valid.
int64_t class_order(const int64_t* labels, int64_t num_entries, int64_t num_classes, int64_t* order, int64_t* offsets);

}  // namespace vlmadapt::cache_retrieval
