// Schemas of the operators, and their CPU backend.
#include "p_laplacian/torch_operators.h"

namespace vlmadapt::p_laplacian {

namespace {

struct Cpu {
  static void forward(const ForwardParams& p, const Tensor&) { forward_cpu(p, torch_parallel(), active_isa()); }
  static void backward(const BackwardParams& p, const Tensor&) { backward_cpu(p, torch_parallel(), active_isa()); }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vlmadapt, m) {
  m.def(
      "p_laplacian(Tensor attention, Tensor x_query, Tensor x_value, Tensor p, Tensor pull, bool residual, bool "
      "released, "
      "bool drop_diagonal, float eps) -> (Tensor out, Tensor row_sum)");
  m.def(
      "p_laplacian_backward(Tensor grad_out, Tensor attention, Tensor x_query, Tensor x_value, Tensor p, Tensor pull, "
      "Tensor out, Tensor row_sum, bool residual, bool released, bool drop_diagonal, float eps, bool want_attention, "
      "bool want_p) -> (Tensor grad_attention, Tensor grad_x_query, Tensor grad_x_value, Tensor grad_p, "
      "Tensor grad_pull)");
  m.def(
      "p_laplacian_attention(Tensor query, Tensor key, Tensor? value, Tensor x_query, Tensor x_value, Tensor p, "
      "Tensor pull, Tensor? mask, Tensor? key_lengths, float scale, bool is_causal, bool residual, "
      "bool drop_diagonal) -> (Tensor out, Tensor row_sum, Tensor lse, Tensor context)");
  m.def(
      "p_laplacian_attention_backward(Tensor grad_out, Tensor? grad_context, Tensor? grad_lse, Tensor query, "
      "Tensor key, Tensor? value, Tensor x_query, Tensor x_value, Tensor p, Tensor pull, Tensor? mask, "
      "Tensor? key_lengths, Tensor out, Tensor row_sum, Tensor lse, Tensor? context, float scale, bool is_causal, "
      "bool residual, bool drop_diagonal, bool want_query, bool want_key, bool want_value, bool want_p) "
      "-> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_x_query, Tensor grad_x_value, "
      "Tensor grad_p, Tensor grad_pull)");
}

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CPU, m) { Operators<Cpu>::register_all(m); }

}  // namespace vlmadapt::p_laplacian
