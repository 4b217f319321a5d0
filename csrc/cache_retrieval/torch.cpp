// Binding of the CPU kernels: unpacks tensors, allocates results, registers.
#include <tuple>

#include "cache_retrieval/kernel.h"
#include "cache_retrieval/schema.h"
#include "common/torch_binding.h"

namespace vlmadapt::cache_retrieval {

namespace {

Stream stream_of(const Tensor& queries, const Tensor& keys, const Tensor& scale, const Tensor& center, ScalarType type,
                 int64_t num_queries, int64_t num_keys) {
  const ScalarType accum = accum_type(dtype_of(queries, "queries"));
  const int64_t width = queries.size(1);
  return Stream{checked(queries, "queries", type, {num_queries, width}), checked(keys, "keys", type, {num_keys, width}),
                checked(scale, "scale", accum, {num_queries}), checked(center, "center", accum, {num_queries}), width};
}

std::tuple<Tensor, Tensor> forward(Tensor queries, Tensor keys, Tensor scale, Tensor center,
                                   OptionalTensor text_queries, OptionalTensor text_keys, OptionalTensor text_scale,
                                   OptionalTensor text_center, OptionalTensor ratio, Tensor order, Tensor offsets,
                                   Tensor /*labels*/, OptionalTensor own_entry, bool text_keys_per_class,
                                   bool mask_own_scores) {
  ForwardParams p{};
  p.dtype = dtype_of(queries, "queries");
  const ScalarType type = queries.scalar_type(), accum = accum_type(p.dtype);
  p.num_queries = queries.size(0);
  p.num_entries = keys.size(0);
  p.num_classes = offsets.size(0) - 1;
  p.order = checked_indices(order, "order", p.num_entries);
  p.offsets = checked_indices(offsets, "offsets", p.num_classes + 1);
  p.image = stream_of(queries, keys, scale, center, type, p.num_queries, p.num_entries);
  p.text_per_class = text_keys_per_class;
  if (text_queries.has_value())
    p.text = stream_of(text_queries.value(), text_keys.value(), text_scale.value(), text_center.value(), type,
                       p.num_queries, text_keys_per_class ? p.num_classes : p.num_entries);
  p.ratio = checked(ratio, "ratio", accum, {p.num_queries});
  p.own_entry = checked_indices(own_entry, "own_entry", p.num_queries);
  p.mask_own_scores = mask_own_scores;
  Tensor scores = new_tensor(queries, {p.num_queries, p.num_classes}, accum);
  Tensor disagreement = new_tensor(queries, {p.num_queries}, accum);
  p.scores = scores.mutable_data_ptr();
  p.disagreement = disagreement.mutable_data_ptr();
  forward_cpu(p, torch_parallel(), active_isa());
  return {scores, disagreement};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(Tensor grad_scores, Tensor queries, Tensor keys,
                                                            Tensor scale, Tensor center, OptionalTensor weight,
                                                            Tensor labels, OptionalTensor multiplicity,
                                                            OptionalTensor own_key, bool want_queries, bool want_keys) {
  BackwardParams p{};
  p.dtype = dtype_of(queries, "queries");
  const ScalarType accum = accum_type(p.dtype);
  p.num_queries = queries.size(0);
  p.num_keys = keys.size(0);
  p.num_classes = grad_scores.size(1);
  p.labels = checked_indices(labels, "labels", p.num_keys);
  p.multiplicity = checked(multiplicity, "multiplicity", accum, {p.num_keys});
  p.own_key = checked_indices(own_key, "own_key", p.num_queries);
  p.stream = stream_of(queries, keys, scale, center, queries.scalar_type(), p.num_queries, p.num_keys);
  p.weight = checked(weight, "weight", accum, {p.num_queries});
  p.grad_scores = checked(grad_scores, "grad_scores", accum, {p.num_queries, p.num_classes});
  Tensor grad_queries = new_tensor(queries, {want_queries ? p.num_queries : 0, p.stream.width}, accum);
  Tensor grad_keys = new_tensor(queries, {want_keys ? p.num_keys : 0, p.stream.width}, accum);
  Tensor grad_scale = new_tensor(queries, {p.num_queries}, accum);
  Tensor grad_center = new_tensor(queries, {p.num_queries}, accum);
  Tensor grad_weight = new_tensor(queries, {p.num_queries}, accum);
  p.grad_queries = want_queries ? grad_queries.mutable_data_ptr() : nullptr;
  p.grad_keys = want_keys ? grad_keys.mutable_data_ptr() : nullptr;
  p.grad_scale = grad_scale.mutable_data_ptr();
  p.grad_center = grad_center.mutable_data_ptr();
  p.grad_weight = grad_weight.mutable_data_ptr();
  backward_cpu(p, torch_parallel(), active_isa());
  return {grad_queries, grad_keys, grad_scale, grad_center, grad_weight};
}

GridParams grid_params(const Tensor& queries, const Tensor& keys, const Tensor& order, const Tensor& offsets,
                       const Tensor& betas) {
  GridParams p{};
  p.dtype = dtype_of(queries, "queries");
  p.num_queries = queries.size(0);
  p.num_entries = keys.size(0);
  p.num_classes = offsets.size(0) - 1;
  p.width = queries.size(1);
  p.num_betas = betas.size(0);
  p.order = checked_indices(order, "order", p.num_entries);
  p.offsets = checked_indices(offsets, "offsets", p.num_classes + 1);
  p.queries = checked(queries, "queries", queries.scalar_type(), {p.num_queries, p.width});
  p.keys = checked(keys, "keys", queries.scalar_type(), {p.num_entries, p.width});
  p.betas = checked(betas, "betas", accum_type(p.dtype), {p.num_betas});
  return p;
}

Tensor grid(Tensor queries, Tensor keys, Tensor order, Tensor offsets, Tensor betas, Tensor alphas, Tensor base_logits,
            Tensor targets) {
  GridParams p = grid_params(queries, keys, order, offsets, betas);
  p.num_alphas = alphas.size(0);
  p.alphas = checked(alphas, "alphas", accum_type(p.dtype), {p.num_alphas});
  p.base_logits = checked(base_logits, "base_logits", accum_type(p.dtype), {p.num_queries, p.num_classes});
  p.targets = checked_indices(targets, "targets", p.num_queries);
  Tensor correct = new_tensor(queries, {p.num_betas, p.num_alphas}, ScalarType::Long);
  torch::stable::zero_(correct);
  p.correct = static_cast<int64_t*>(correct.mutable_data_ptr());
  grid_cpu(p, torch_parallel(), active_isa());
  return correct;
}

Tensor multi_beta(Tensor queries, Tensor keys, Tensor order, Tensor offsets, Tensor betas) {
  GridParams p = grid_params(queries, keys, order, offsets, betas);
  Tensor scores = new_tensor(queries, {p.num_betas, p.num_queries, p.num_classes}, accum_type(p.dtype));
  p.scores = scores.mutable_data_ptr();
  grid_cpu(p, torch_parallel(), active_isa());
  return scores;
}

std::tuple<Tensor, Tensor> order_classes(Tensor labels, int64_t num_classes) {
  const int64_t count = labels.size(0);
  Tensor order = new_tensor(labels, {count}, ScalarType::Long);
  Tensor offsets = new_tensor(labels, {num_classes + 1}, ScalarType::Long);
  const int64_t bad =
      class_order(checked_indices(labels, "labels", count), count, num_classes,
                  static_cast<int64_t*>(order.mutable_data_ptr()), static_cast<int64_t*>(offsets.mutable_data_ptr()));
  if (bad >= 0) throw std::out_of_range("label " + std::to_string(bad) + " is out of range");
  return {order, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vlmadapt, m) {
  m.def(forward_schema);
  m.def(backward_schema);
  m.def(grid_schema);
  m.def(multi_beta_schema);
  m.def(class_order_schema);
}

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CPU, m) {
  m.impl("cache_retrieval", TORCH_BOX(&forward));
  m.impl("cache_retrieval_backward", TORCH_BOX(&backward));
  m.impl("cache_retrieval_grid", TORCH_BOX(&grid));
  m.impl("cache_retrieval_multi_beta", TORCH_BOX(&multi_beta));
  m.impl("class_order", TORCH_BOX(&order_classes));
}

}  // namespace vlmadapt::cache_retrieval
