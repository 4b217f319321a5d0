// Schemas of the operators, and their CPU backend.
#include <tuple>

#include "hetero_aggregate/torch_operators.h"

namespace vlmadapt::hetero_aggregate {

namespace {

struct Cpu {
  static void aggregate(const AggregateParams& params, const Tensor&) {
    aggregate_cpu(params, torch_parallel(), active_isa());
  }
};

std::tuple<Tensor, Tensor, Tensor> transpose(Tensor row_offsets, Tensor columns, int64_t num_sources) {
  const Index index = index_of({columns});
  const int64_t num_rows = row_offsets.size(0) - 1, num_edges = columns.numel();
  const int64_t* starts = checked_indices(row_offsets, "row_offsets", num_rows + 1, columns);
  const void* given = checked(columns, "columns", columns.scalar_type(), {num_edges}, columns);
  Tensor offsets = new_tensor(columns, {num_sources + 1}, ScalarType::Long);
  Tensor rows = new_tensor(columns, {num_edges}, columns.scalar_type());
  Tensor edges = new_tensor(columns, {num_edges}, columns.scalar_type());
  transpose_cpu(starts, num_rows, given, num_sources, index, static_cast<int64_t*>(offsets.mutable_data_ptr()),
                rows.mutable_data_ptr(), edges.mutable_data_ptr());
  return {offsets, rows, edges};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vlmadapt, m) {
  m.def(
      "hetero_aggregate(Tensor[] sources, int[] source_of, Tensor[] row_offsets, Tensor[] columns, Tensor[] weights, "
      "Tensor coefficients, bool stacked, Tensor[] transposed_offsets, Tensor[] transposed_targets, "
      "Tensor[] transposed_edges) -> Tensor");
  m.def(
      "hetero_aggregate_backward(Tensor grad, Tensor[] sources, int[] source_of, Tensor[] weights, "
      "Tensor coefficients, bool stacked, Tensor[] transposed_offsets, Tensor[] transposed_targets, "
      "Tensor[] transposed_edges, int[] want_sources, int[] want_weights, bool want_coefficients) -> Tensor[]");
  m.def(
      "transpose_relation(Tensor row_offsets, Tensor columns, int num_sources) "
      "-> (Tensor offsets, Tensor targets, Tensor edges)");
}

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CPU, m) {
  Operators<Cpu>::register_all(m);
  m.impl("transpose_relation", TORCH_BOX(&transpose));
}

}  // namespace vlmadapt::hetero_aggregate
