// Schemas of the operators, and their CPU backend.
#include "cache_retrieval/torch_operators.h"

namespace vlmadapt::cache_retrieval {

namespace {

struct Cpu {
  static constexpr bool keeps_similarities = true;
  static constexpr bool narrows_gradients = true;
  static void forward(const ForwardParams& p, const Tensor&, int64_t, int64_t float32) {
    forward_cpu(p, static_cast<Float32>(float32), torch_parallel(), active_isa());
  }
  static void dense_forward(const DenseForwardParams& p, const Tensor&, int64_t float32) {
    dense_forward_cpu(p, static_cast<Float32>(float32), torch_parallel(), active_isa());
  }
  static void backward(const BackwardParams& p, const Tensor&, int64_t, int64_t float32) {
    backward_cpu(p, static_cast<Float32>(float32), torch_parallel(), active_isa());
  }
  static void grid(const GridParams& p, const Tensor&, int64_t float32) {
    grid_cpu(p, static_cast<Float32>(float32), torch_parallel(), active_isa());
  }
};

std::tuple<Tensor, Tensor> order_classes(Tensor labels, int64_t num_classes) {
  const int64_t count = labels.size(0);
  Tensor order = new_tensor(labels, {count}, ScalarType::Long);
  Tensor offsets = new_tensor(labels, {num_classes + 1}, ScalarType::Long);
  const int64_t bad =
      class_order(checked_indices(labels, "labels", count, labels), count, num_classes,
                  static_cast<int64_t*>(order.mutable_data_ptr()), static_cast<int64_t*>(offsets.mutable_data_ptr()));
  if (bad >= 0) throw std::out_of_range("the label at index " + std::to_string(bad) + " is out of range");
  return {order, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vlmadapt, m) {
  m.def(
      "cache_retrieval(Tensor queries, Tensor keys, Tensor? scale, Tensor? center, Tensor? text_queries, "
      "Tensor? text_keys, Tensor? text_scale, Tensor? text_center, Tensor? ratio, Tensor order, Tensor offsets, "
      "Tensor labels, Tensor? own_entry, float beta, float text_beta, float share, bool text_keys_per_class, "
      "bool mask_own_scores, bool want_disagreement, bool store_similarities, int route, int float32) "
      "-> (Tensor scores, Tensor disagreement, Tensor similarities)");
  m.def(
      "cache_retrieval_backward(Tensor grad_scores, Tensor queries, Tensor keys, Tensor? scale, Tensor? center, "
      "Tensor? weight, Tensor labels, Tensor? multiplicity, Tensor? own_key, Tensor? similarities, float beta, "
      "float share, bool want_queries, bool want_keys, bool want_rows, int route, int float32) "
      "-> (Tensor grad_queries, Tensor grad_keys, Tensor grad_rows)");
  m.def(
      "cache_retrieval_dense(Tensor queries, Tensor keys, Tensor values, Tensor? scale, Tensor? center, "
      "Tensor? own_entry, float beta, bool store_similarities, int float32) -> (Tensor scores, Tensor "
      "similarities)");
  m.def(
      "cache_retrieval_dense_backward(Tensor grad_scores, Tensor queries, Tensor keys, Tensor values, Tensor? scale, "
      "Tensor? center, Tensor? own_entry, Tensor? similarities, float beta, bool want_queries, bool want_keys, "
      "bool want_values, bool want_rows, int float32) "
      "-> (Tensor grad_queries, Tensor grad_keys, Tensor grad_values, Tensor grad_rows)");
  m.def(
      "cache_retrieval_grid(Tensor queries, Tensor keys, Tensor order, Tensor offsets, Tensor betas, Tensor alphas, "
      "Tensor base_logits, Tensor targets, int float32) -> Tensor correct");
  m.def(
      "cache_retrieval_multi_beta(Tensor queries, Tensor keys, Tensor order, Tensor offsets, Tensor betas, "
      "int float32) -> Tensor scores");
  m.def("class_order(Tensor labels, int num_classes) -> (Tensor order, Tensor offsets)");
}

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CPU, m) {
  Operators<Cpu>::register_all(m);
  m.impl("class_order", TORCH_BOX(&order_classes));
}

}  // namespace vlmadapt::cache_retrieval
