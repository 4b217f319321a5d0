// The operators' schemas, stated once for the CPU and the CUDA library.
#pragma once

namespace vlmadapt::cache_retrieval {

constexpr const char* forward_schema =
    "cache_retrieval(Tensor queries, Tensor keys, Tensor scale, Tensor center, Tensor? text_queries, "
    "Tensor? text_keys, Tensor? text_scale, Tensor? text_center, Tensor? ratio, Tensor order, Tensor offsets, "
    "Tensor labels, Tensor? own_entry, bool text_keys_per_class, bool mask_own_scores) "
    "-> (Tensor scores, Tensor disagreement)";

constexpr const char* backward_schema =
    "cache_retrieval_backward(Tensor grad_scores, Tensor queries, Tensor keys, Tensor scale, Tensor center, "
    "Tensor? weight, Tensor labels, Tensor? multiplicity, Tensor? own_key, bool want_queries, bool want_keys) "
    "-> (Tensor grad_queries, Tensor grad_keys, Tensor grad_scale, Tensor grad_center, Tensor grad_weight)";

constexpr const char* grid_schema =
    "cache_retrieval_grid(Tensor queries, Tensor keys, Tensor order, Tensor offsets, Tensor betas, Tensor alphas, "
    "Tensor base_logits, Tensor targets) -> Tensor correct";

constexpr const char* multi_beta_schema =
    "cache_retrieval_multi_beta(Tensor queries, Tensor keys, Tensor order, Tensor offsets, Tensor betas) "
    "-> Tensor scores";

constexpr const char* class_order_schema =
    "class_order(Tensor labels, int num_classes) -> (Tensor order, Tensor offsets)";

}  // namespace vlmadapt::cache_retrieval
