// The operators as torch calls them, for any backend: unpack and check tensors, allocate results, run.
// A Backend has a static member aggregate taking (params, a tensor of the right device).
#pragma once

#include "common/torch_binding.h"
#include "hetero_aggregate/kernel.h"

namespace vlmadapt::hetero_aggregate {

using Tensors = std::vector<Tensor>;
using Integers = std::vector<int64_t>;

inline Index index_of(const Tensors& columns) {
  if (columns.empty()) throw std::invalid_argument("at least one relation is needed");
  const ScalarType type = columns[0].scalar_type();
  if (type != ScalarType::Int && type != ScalarType::Long)
    throw std::invalid_argument("indices must be int32 or int64");
  return type == ScalarType::Int ? Index::i32 : Index::i64;
}

inline void check_lengths(size_t count, std::initializer_list<size_t> lengths) {
  for (size_t length : lengths)
    if (length != count) throw std::invalid_argument("every list has the wrong length");
}

// The fields that both directions share, checked.
inline Relation relation_of(const Tensor& offsets, const Tensor& columns, const Tensor& weights, Index index,
                            const void* coefficients, size_t r, int64_t num_rows, Dtype dtype, const Tensor& like) {
  const ScalarType accum = accum_type(dtype);
  const int64_t count = columns.numel();
  Relation relation{};
  relation.offsets = checked_indices(offsets, "offsets", num_rows + 1, like);
  relation.columns =
      checked(columns, "columns", index == Index::i32 ? ScalarType::Int : ScalarType::Long, {count}, like);
  // An empty weight tensor stands for ones.
  relation.weights = weights.numel() == 0 ? nullptr : checked(weights, "weights", accum, {count}, like);
  relation.coefficient = static_cast<const char*>(coefficients) + r * accum_bytes(dtype);
  relation.num_edges = count;
  return relation;
}

template <class Backend>
struct Operators {
  static Tensor forward(Tensors sources, Integers source_of, Tensors row_offsets, Tensors columns, Tensors weights,
                        Tensor coefficients, bool stacked, Tensors transposed_offsets, Tensors transposed_targets,
                        Tensors transposed_edges) {
    const auto count = static_cast<int64_t>(columns.size());
    check_lengths(columns.size(), {source_of.size(), row_offsets.size(), weights.size()});
    AggregateParams params{};
    params.index = index_of(columns);
    params.dtype = dtype_of(sources.at(0), "sources");
    const ScalarType type = sources[0].scalar_type();
    const void* scales = checked(coefficients, "coefficients", accum_type(params.dtype), {count}, sources[0]);
    check_device(transposed_offsets, "transposed_offsets", sources[0]);  // for the backward
    check_device(transposed_targets, "transposed_targets", sources[0]);
    check_device(transposed_edges, "transposed_edges", sources[0]);
    params.num_rows = row_offsets[0].size(0) - 1;
    params.width = sources[0].size(1);
    params.stacked = stacked;
    std::vector<Matrix> matrices;
    for (const Tensor& source : sources)
      matrices.push_back(
          {checked(source, "sources", type, {source.size(0), params.width}, sources[0]), source.size(0)});
    std::vector<Relation> relations;
    for (size_t r = 0; r < columns.size(); ++r) {
      relations.push_back(relation_of(row_offsets[r], columns[r], weights[r], params.index, scales, r, params.num_rows,
                                      params.dtype, sources[0]));
      relations[r].matrix = source_of[r];
      if (source_of[r] < 0 || source_of[r] >= static_cast<int64_t>(sources.size()))
        throw std::out_of_range("source_of must number the sources");
    }
    Tensor out = stacked ? new_tensor(sources[0], {count, params.num_rows, params.width}, type)
                         : new_tensor(sources[0], {params.num_rows, params.width}, type);
    params.out = out.mutable_data_ptr();
    run(params, matrices, relations, sources[0]);
    return out;
  }

  // Gradients of the sources, then of the weights, then of the coefficients; an empty tensor where none is wanted.
  // One params a source: its rows, over the transposed edges of the relations that read it.
  static Tensors backward(Tensor grad, Tensors sources, Integers source_of, Tensors weights, Tensor coefficients,
                          bool stacked, Tensors offsets, Tensors targets, Tensors edges, Integers want_sources,
                          Integers want_weights, bool want_coefficients) {
    const size_t count = targets.size();
    check_lengths(count, {source_of.size(), weights.size(), offsets.size(), edges.size(), want_weights.size()});
    check_lengths(sources.size(), {want_sources.size()});
    const auto num_relations = static_cast<int64_t>(count);
    const Dtype dtype = dtype_of(grad, "grad");
    const ScalarType type = grad.scalar_type(), accum = accum_type(dtype);
    const Index index = index_of(targets);
    const void* scales = checked(coefficients, "coefficients", accum, {num_relations}, grad);
    const int64_t num_targets = grad.size(stacked ? 1 : 0), width = grad.size(stacked ? 2 : 1);
    const void* grad_data = stacked ? checked(grad, "grad", type, {num_relations, num_targets, width}, grad)
                                    : checked(grad, "grad", type, {num_targets, width}, grad);

    Tensors results;
    for (size_t u = 0; u < sources.size(); ++u)
      results.push_back(new_tensor(grad, {want_sources[u] ? sources[u].size(0) : 0, width}, type));
    for (size_t r = 0; r < count; ++r)
      results.push_back(new_tensor(grad, {want_weights[r] ? targets[r].numel() : 0}, accum));
    results.push_back(new_tensor(grad, {want_coefficients ? num_relations : 0}, accum));

    for (size_t u = 0; u < sources.size(); ++u) {
      AggregateParams params{};
      params.dtype = dtype;
      params.index = index;
      params.num_rows = sources[u].size(0);
      params.width = width;
      params.own = checked(sources[u], "sources", type, {params.num_rows, width}, grad);
      params.out = want_sources[u] ? results[u].mutable_data_ptr() : nullptr;
      bool wanted = params.out != nullptr;
      std::vector<Matrix> matrices;
      std::vector<Relation> relations;
      for (size_t r = 0; r < count; ++r) {
        if (source_of[r] != static_cast<int64_t>(u)) continue;
        Relation relation =
            relation_of(offsets[r], targets[r], weights[r], index, scales, r, params.num_rows, dtype, grad);
        relation.edges = checked(edges[r], "edges", targets[r].scalar_type(), {targets[r].numel()}, grad);
        if (want_weights[r]) relation.grad_weights = results[sources.size() + r].mutable_data_ptr();
        if (want_coefficients)
          relation.grad_coefficient = static_cast<char*>(results.back().mutable_data_ptr()) + r * accum_bytes(dtype);
        wanted = wanted || relation.grad_weights || relation.grad_coefficient;
        const int64_t skipped = stacked ? static_cast<int64_t>(r) * num_targets * width * element_bytes(dtype) : 0;
        if (stacked || matrices.empty())
          matrices.push_back({static_cast<const char*>(grad_data) + skipped, num_targets});
        relation.matrix = static_cast<int64_t>(matrices.size()) - 1;
        relations.push_back(relation);
      }
      if (wanted) run(params, matrices, relations, grad);
    }
    return results;
  }

  static void register_all(torch::stable::detail::StableLibrary& library) {
    library.impl("hetero_aggregate", TORCH_BOX(&forward));
    library.impl("hetero_aggregate_backward", TORCH_BOX(&backward));
  }

 private:
  static void run(AggregateParams& params, const std::vector<Matrix>& matrices, const std::vector<Relation>& relations,
                  const Tensor& like) {
    params.num_matrices = static_cast<int64_t>(matrices.size());
    params.matrices = matrices.data();
    params.num_relations = static_cast<int64_t>(relations.size());
    params.relations = relations.data();
    Backend::aggregate(params, like);
  }
};

}  // namespace vlmadapt::hetero_aggregate
