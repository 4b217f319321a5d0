// The scores of common/attention.h from tensors.
#pragma once

#include "common/attention.h"
#include "common/torch_binding.h"

namespace vlmadapt {

// Everything after dtype, batch, heads, num_queries and num_keys, which must be set; tensors are of the type of `like`
// and on its device.
inline void fill_scores(AttentionScores& scores, const Tensor& query, const Tensor& key, const OptionalTensor& mask,
                        const OptionalTensor& key_lengths, double scale, bool is_causal, const Tensor& like) {
  const ScalarType type = like.scalar_type();
  scores.width = query.size(3);
  scores.query = checked(query, "query", type, {scores.batch, scores.heads, scores.num_queries, scores.width}, like);
  scores.key = checked(key, "key", type, {scores.batch, scores.heads, scores.num_keys, scores.width}, like);
  check_device(mask, "mask", like);
  if (mask.has_value()) {  // any strides: a broadcast mask is not expanded in memory
    const int64_t sizes[] = {scores.batch, scores.heads, scores.num_queries, scores.num_keys};
    const bool boolean = mask->scalar_type() == ScalarType::Bool;
    bool fits = mask->dim() == 4 && (boolean || mask->scalar_type() == accum_type(scores.dtype));
    for (int axis = 0; fits && axis < 4; ++axis) {
      fits = mask->size(axis) == sizes[axis];
      scores.mask_strides[axis] = mask->stride(axis);
    }
    if (!fits) throw std::invalid_argument("mask has an unexpected dtype or shape");
    scores.mask_kind = boolean ? MaskKind::boolean : MaskKind::additive;
    scores.mask = mask->const_data_ptr();
  }
  scores.key_lengths = checked_indices(key_lengths, "key_lengths", scores.batch, like);
  scores.scale = scale;
  scores.causal = is_causal;
}

}  // namespace vlmadapt
