// Schemas of the operators, and their CPU backend.
#include "attention_column_sums/torch_operators.h"

namespace vlmadapt::attention_column_sums {

namespace {

struct Cpu {
  static void forward(const ForwardParams& p, const Tensor&) { forward_cpu(p, torch_parallel(), active_isa()); }
  static void backward(const BackwardParams& p, const Tensor&) { backward_cpu(p, torch_parallel(), active_isa()); }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vlmadapt, m) {
  m.def(
      "attention_column_sums(Tensor query, Tensor key, Tensor? mask, Tensor? key_lengths, float scale, "
      "bool is_causal) -> (Tensor sums, Tensor lse)");
  m.def(
      "attention_column_sums_backward(Tensor grad_sums, Tensor query, Tensor key, Tensor? mask, Tensor? key_lengths, "
      "Tensor lse, float scale, bool is_causal, bool want_query, bool want_key) -> (Tensor grad_query, "
      "Tensor grad_key)");
}

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CPU, m) { Operators<Cpu>::register_all(m); }

}  // namespace vlmadapt::attention_column_sums
