// The operators as torch calls them, for any backend: unpack and check tensors, allocate results, run.
// A Backend has static members forward, dense_forward, backward and grid taking (params, a tensor of the right device,
// float32: a value of Float32, which a GPU takes for TF32 unless it is exact), forward and backward a route before the
// last, which is a GPU's; keeps_similarities: whether its forward can write them and its backward read them; and
// narrows_gradients: whether gradients of matrices are in the inputs' dtype, else in the accumulation type.
#pragma once

#include <tuple>

#include "cache_retrieval/kernel.h"
#include "common/torch_binding.h"

namespace vlmadapt::cache_retrieval {

// A vector [num_queries], which may be one value expanded, or `same` for all.
inline PerQuery per_query(const OptionalTensor& tensor, const char* name, ScalarType accum, int64_t num_queries,
                          double same, const Tensor& like) {
  if (!tensor.has_value()) return {nullptr, 1, same};
  const bool expanded = num_queries > 1 && tensor->dim() == 1 && tensor->stride(0) == 0;
  if (!expanded) return {checked(tensor, name, accum, {num_queries}, like), 1, same};
  check_device(tensor, name, like);
  if (tensor->scalar_type() != accum || tensor->size(0) != num_queries)
    throw std::invalid_argument(std::string(name) + " has an unexpected dtype or shape");
  return {tensor->const_data_ptr(), 0, same};
}

inline Side side_of(const Tensor& queries, const Tensor& keys, const OptionalTensor& scale,
                    const OptionalTensor& center, double beta, ScalarType type, int64_t num_queries, int64_t num_keys) {
  const ScalarType accum = accum_type(dtype_of(queries, "queries"));
  const int64_t width = queries.size(1);
  return Side{checked(queries, "queries", type, {num_queries, width}, queries),
              checked(keys, "keys", type, {num_keys, width}, queries),
              per_query(scale, "scale", accum, num_queries, beta, queries),
              per_query(center, "center", accum, num_queries, 1, queries), width};
}

inline ScalarType kept_type(Kept kept, ScalarType accum) {
  return kept == Kept::affinities ? ScalarType::Short : accum;
}

// What the forward kept, if it did, as the backward takes it.
inline void take_kept(BackwardParams& p, const OptionalTensor& kept, bool want_rows, const Tensor& like) {
  if (!kept.has_value()) return;
  p.kept_as = kept->scalar_type() == ScalarType::Short ? Kept::affinities : Kept::similarities;
  if (p.kept_as == Kept::affinities && (want_rows || p.dtype != Dtype::bf16))
    throw std::invalid_argument("similarities are affinities, which serve bfloat16 alone, without gradients of rows");
  p.kept = checked(kept, "similarities", kept_type(p.kept_as, accum_type(p.dtype)), {p.num_keys, p.num_queries}, like);
}

// Gradients of scale, center and weight, if wanted: rows of one tensor [3, num_queries], else [3, 0].
inline Tensor row_gradients(BackwardParams& p, bool want, const Tensor& like, ScalarType accum) {
  Tensor rows = new_tensor(like, {3, want ? p.num_queries : 0}, accum);
  void** pointers[] = {&p.grad_scale, &p.grad_center, &p.grad_weight};
  char* start = want ? static_cast<char*>(rows.mutable_data_ptr()) : nullptr;
  for (int row = 0; want && row < 3; ++row)
    *pointers[row] = start + row * p.num_queries * (p.dtype == Dtype::f64 ? 8 : 4);
  return rows;
}

template <class Backend>
struct Operators {
  static std::tuple<Tensor, Tensor, Tensor> forward(
      Tensor queries, Tensor keys, OptionalTensor scale, OptionalTensor center, OptionalTensor text_queries,
      OptionalTensor text_keys, OptionalTensor text_scale, OptionalTensor text_center, OptionalTensor ratio,
      Tensor order, Tensor offsets, Tensor labels, OptionalTensor own_entry, double beta, double text_beta,
      double share, bool text_keys_per_class, bool mask_own_scores, bool want_disagreement, bool store_similarities,
      int64_t route, int64_t float32) {
    ForwardParams p{};
    p.dtype = dtype_of(queries, "queries");
    const ScalarType type = queries.scalar_type(), accum = accum_type(p.dtype);
    p.num_queries = queries.size(0);
    p.num_entries = keys.size(0);
    p.num_classes = offsets.size(0) - 1;
    p.order = checked_indices(order, "order", p.num_entries, queries);
    p.offsets = checked_indices(offsets, "offsets", p.num_classes + 1, queries);
    check_device(labels, "labels", queries);  // for the backward
    p.image = side_of(queries, keys, scale, center, beta, type, p.num_queries, p.num_entries);
    p.text_per_class = text_keys_per_class;
    if (text_queries.has_value())
      p.text = side_of(text_queries.value(), text_keys.value(), text_scale, text_center, text_beta, type, p.num_queries,
                       text_keys_per_class ? p.num_classes : p.num_entries);
    p.ratio = per_query(ratio, "ratio", accum, p.num_queries, share, queries);
    p.own_entry = checked_indices(own_entry, "own_entry", p.num_queries, queries);
    p.mask_own_scores = mask_own_scores;
    Tensor scores = new_tensor(queries, {p.num_queries, p.num_classes}, accum);
    Tensor disagreement = wanted(want_disagreement, queries, {p.num_queries}, accum, p.disagreement);
    p.scores = scores.mutable_data_ptr();
    const bool store_image = store_similarities && Backend::keeps_similarities;
    const bool store_text = store_image && text_queries.has_value() && !text_keys_per_class;
    const bool numbers = !scale.has_value() && !center.has_value() && !text_scale.has_value() &&
                         !text_center.has_value() && !ratio.has_value();
    const bool affinities = store_image && p.dtype == Dtype::bf16 && numbers && p.num_queries > max_dot_queries;
    p.kept_as = affinities ? Kept::affinities : Kept::similarities;
    Tensor kept =
        new_tensor(queries, {store_image + store_text, p.num_entries, p.num_queries}, kept_type(p.kept_as, accum));
    if (store_image) p.kept = kept.mutable_data_ptr();
    if (store_text) p.text_kept = torch::stable::select(kept, 0, 1).mutable_data_ptr();
    Backend::forward(p, queries, route, float32);
    return {scores, disagreement, kept};
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad_scores, Tensor queries, Tensor keys,
                                                     OptionalTensor scale, OptionalTensor center, OptionalTensor weight,
                                                     Tensor labels, OptionalTensor multiplicity, OptionalTensor own_key,
                                                     OptionalTensor similarities, double beta, double share,
                                                     bool want_queries, bool want_keys, bool want_rows, int64_t route,
                                                     int64_t float32) {
    BackwardParams p{};
    p.dtype = dtype_of(queries, "queries");
    const ScalarType accum = accum_type(p.dtype);
    p.num_queries = queries.size(0);
    p.num_keys = keys.size(0);
    p.num_classes = grad_scores.size(1);
    p.labels = checked_indices(labels, "labels", p.num_keys, queries);
    p.multiplicity = checked(multiplicity, "multiplicity", accum, {p.num_keys}, queries);
    p.own_key = checked_indices(own_key, "own_key", p.num_queries, queries);
    p.side = side_of(queries, keys, scale, center, beta, queries.scalar_type(), p.num_queries, p.num_keys);
    p.weight = per_query(weight, "weight", accum, p.num_queries, share, queries);
    p.grad_scores = checked(grad_scores, "grad_scores", accum, {p.num_queries, p.num_classes}, queries);
    take_kept(p, similarities, want_rows, queries);
    p.narrow_gradients = Backend::narrows_gradients;
    const ScalarType type = p.narrow_gradients ? queries.scalar_type() : accum;
    Tensor grad_queries = new_tensor(queries, {want_queries ? p.num_queries : 0, p.side.width}, type);
    Tensor grad_keys = new_tensor(queries, {want_keys ? p.num_keys : 0, p.side.width}, type);
    Tensor grad_rows = row_gradients(p, want_rows, queries, accum);
    p.grad_queries = want_queries ? grad_queries.mutable_data_ptr() : nullptr;
    p.grad_keys = want_keys ? grad_keys.mutable_data_ptr() : nullptr;
    Backend::backward(p, queries, route, float32);
    return {grad_queries, grad_keys, grad_rows};
  }

  static std::tuple<Tensor, Tensor> dense_forward(Tensor queries, Tensor keys, Tensor values, OptionalTensor scale,
                                                  OptionalTensor center, OptionalTensor own_entry, double beta,
                                                  bool store_similarities, int64_t float32) {
    DenseForwardParams p{};
    p.dtype = dtype_of(queries, "queries");
    const ScalarType type = queries.scalar_type(), accum = accum_type(p.dtype);
    p.num_queries = queries.size(0);
    p.num_keys = keys.size(0);
    p.num_classes = values.size(1);
    p.side = side_of(queries, keys, scale, center, beta, type, p.num_queries, p.num_keys);
    p.values = checked(values, "values", type, {p.num_keys, p.num_classes}, queries);
    p.own_key = checked_indices(own_entry, "own_entry", p.num_queries, queries);
    Tensor scores = new_tensor(queries, {p.num_queries, p.num_classes}, accum);
    p.scores = scores.mutable_data_ptr();
    const bool store = store_similarities && Backend::keeps_similarities;
    Tensor similarities = new_tensor(queries, {store, p.num_keys, p.num_queries}, accum);
    if (store) p.similarities = similarities.mutable_data_ptr();
    Backend::dense_forward(p, queries, float32);
    return {scores, similarities};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> dense_backward(Tensor grad_scores, Tensor queries, Tensor keys,
                                                                   Tensor values, OptionalTensor scale,
                                                                   OptionalTensor center, OptionalTensor own_entry,
                                                                   OptionalTensor similarities, double beta,
                                                                   bool want_queries, bool want_keys, bool want_values,
                                                                   bool want_rows, int64_t float32) {
    BackwardParams p{};
    p.dtype = dtype_of(queries, "queries");
    const ScalarType type = queries.scalar_type(), accum = accum_type(p.dtype);
    p.num_queries = queries.size(0);
    p.num_keys = keys.size(0);
    p.num_classes = grad_scores.size(1);
    p.side = side_of(queries, keys, scale, center, beta, type, p.num_queries, p.num_keys);
    p.dense = true;
    p.values = checked(values, "values", type, {p.num_keys, p.num_classes}, queries);
    p.own_key = checked_indices(own_entry, "own_entry", p.num_queries, queries);
    p.grad_scores = checked(grad_scores, "grad_scores", accum, {p.num_queries, p.num_classes}, queries);
    take_kept(p, similarities, want_rows, queries);
    p.narrow_gradients = Backend::narrows_gradients;
    const ScalarType of_gradients = p.narrow_gradients ? type : accum;
    Tensor grad_queries = new_tensor(queries, {want_queries ? p.num_queries : 0, p.side.width}, of_gradients);
    Tensor grad_keys = new_tensor(queries, {want_keys ? p.num_keys : 0, p.side.width}, of_gradients);
    Tensor grad_values = new_tensor(queries, {want_values ? p.num_keys : 0, p.num_classes}, of_gradients);
    Tensor grad_rows = row_gradients(p, want_rows, queries, accum);
    p.grad_queries = want_queries ? grad_queries.mutable_data_ptr() : nullptr;
    p.grad_keys = want_keys ? grad_keys.mutable_data_ptr() : nullptr;
    p.grad_values = want_values ? grad_values.mutable_data_ptr() : nullptr;
    Backend::backward(p, queries, 0, float32);
    return {grad_queries, grad_keys, grad_values, grad_rows};
  }

  static Tensor grid(Tensor queries, Tensor keys, Tensor order, Tensor offsets, Tensor betas, Tensor alphas,
                     Tensor base_logits, Tensor targets, int64_t float32) {
    GridParams p = grid_params(queries, keys, order, offsets, betas);
    p.num_alphas = alphas.size(0);
    p.alphas = checked(alphas, "alphas", accum_type(p.dtype), {p.num_alphas}, queries);
    p.base_logits = checked(base_logits, "base_logits", accum_type(p.dtype), {p.num_queries, p.num_classes}, queries);
    p.targets = checked_indices(targets, "targets", p.num_queries, queries);
    Tensor correct = new_tensor(queries, {p.num_betas, p.num_alphas}, ScalarType::Long);
    torch::stable::zero_(correct);
    p.correct = static_cast<int64_t*>(correct.mutable_data_ptr());
    Backend::grid(p, queries, float32);
    return correct;
  }

  static Tensor multi_beta(Tensor queries, Tensor keys, Tensor order, Tensor offsets, Tensor betas, int64_t float32) {
    GridParams p = grid_params(queries, keys, order, offsets, betas);
    Tensor scores = new_tensor(queries, {p.num_betas, p.num_queries, p.num_classes}, accum_type(p.dtype));
    p.scores = scores.mutable_data_ptr();
    Backend::grid(p, queries, float32);
    return scores;
  }

  static void register_all(torch::stable::detail::StableLibrary& library) {
    library.impl("cache_retrieval", TORCH_BOX(&forward));
    library.impl("cache_retrieval_backward", TORCH_BOX(&backward));
    library.impl("cache_retrieval_dense", TORCH_BOX(&dense_forward));
    library.impl("cache_retrieval_dense_backward", TORCH_BOX(&dense_backward));
    library.impl("cache_retrieval_grid", TORCH_BOX(&grid));
    library.impl("cache_retrieval_multi_beta", TORCH_BOX(&multi_beta));
  }

 private:
  static GridParams grid_params(const Tensor& queries, const Tensor& keys, const Tensor& order, const Tensor& offsets,
                                const Tensor& betas) {
    GridParams p{};
    p.dtype = dtype_of(queries, "queries");
    p.num_queries = queries.size(0);
    p.num_entries = keys.size(0);
    p.num_classes = offsets.size(0) - 1;
    p.width = queries.size(1);
    p.num_betas = betas.size(0);
    p.order = checked_indices(order, "order", p.num_entries, queries);
    p.offsets = checked_indices(offsets, "offsets", p.num_classes + 1, queries);
    p.queries = checked(queries, "queries", queries.scalar_type(), {p.num_queries, p.width}, queries);
    p.keys = checked(keys, "keys", queries.scalar_type(), {p.num_entries, p.width}, queries);
    p.betas = checked(betas, "betas", accum_type(p.dtype), {p.num_betas}, queries);
    return p;
  }
};

}  // namespace vlmadapt::cache_retrieval
