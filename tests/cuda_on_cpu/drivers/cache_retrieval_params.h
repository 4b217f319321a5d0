// What the drivers of both routes of cache_retrieval make of the numbers and pointers they are given.
#pragma once

#include "cache_retrieval/kernel.h"
#include "drivers/per_query.h"

inline const int64_t* integers(void* p) { return static_cast<const int64_t*>(p); }

// sizes: dtype, precision, queries, entries, classes, image width, text width, text per class, mask own scores,
//        one scale, center and ratio for all, the numbers where they have no pointers: beta, text beta, share
// pointers: order, offsets, image queries keys scale center, text queries keys scale center, ratio, own entry,
//           scores, disagreement
inline vlmadapt::cache_retrieval::ForwardParams forward_params(const int64_t* n, void* const* p) {
  vlmadapt::cache_retrieval::ForwardParams f{};
  f.dtype = static_cast<vlmadapt::Dtype>(n[0]);
  f.num_queries = n[2];
  f.num_entries = n[3];
  f.num_classes = n[4];
  f.order = integers(p[0]);
  f.offsets = integers(p[1]);
  f.image = {p[2], p[3], per_query(p[4], n[10], n[9]), {p[5], !n[9]}, n[5]};
  f.text = {p[6], p[7], per_query(p[8], n[11], n[9]), {p[9], !n[9]}, n[6]};
  f.text_per_class = n[7] != 0;
  f.ratio = per_query(p[10], n[12], n[9]);
  f.own_entry = integers(p[11]);
  f.mask_own_scores = n[8] != 0;
  f.scores = p[12];
  f.disagreement = p[13];
  return f;
}

// sizes: dtype, precision, queries, keys, classes, width, one scale, center and weight for all, beta, share
// pointers: labels, multiplicity, own key, queries, keys, scale, center, weight, grad scores,
//           grad queries, grad keys, grad scale, grad center, grad weight
inline vlmadapt::cache_retrieval::BackwardParams backward_params(const int64_t* n, void* const* p) {
  vlmadapt::cache_retrieval::BackwardParams b{};
  b.dtype = static_cast<vlmadapt::Dtype>(n[0]);
  b.num_queries = n[2];
  b.num_keys = n[3];
  b.num_classes = n[4];
  b.labels = integers(p[0]);
  b.multiplicity = p[1];
  b.own_key = integers(p[2]);
  b.side = {p[3], p[4], per_query(p[5], n[7], n[6]), {p[6], !n[6]}, n[5]};
  b.weight = per_query(p[7], n[8], n[6]);
  b.grad_scores = p[8];
  b.grad_queries = p[9];
  b.grad_keys = p[10];
  b.grad_scale = p[11];
  b.grad_center = p[12];
  b.grad_weight = p[13];
  return b;
}
