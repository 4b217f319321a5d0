// The raw CPU kernels for NumPy, at any instruction-set level: tests below torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cache_retrieval/kernel.h"
#include "common/isa.h"
#include "hetero_aggregate/kernel.h"

namespace py = pybind11;
using namespace vlmadapt;

namespace {

using Indices = py::array_t<int64_t, py::array::c_style>;

int thread_count = 2;

// One std::thread a range.
Parallel std_parallel() {
  return Parallel{[](int64_t count, RangeBody body, void* context) {
    std::vector<std::thread> threads;
    const int64_t step = (count + thread_count - 1) / thread_count;
    for (int64_t begin = 0; begin < count; begin += step)
      threads.emplace_back(body, begin, std::min(begin + step, count), context);
    for (std::thread& thread : threads) thread.join();
  }};
}

Isa isa_of(const std::string& name) {
  for (int level = 0; level < num_isas; ++level)
    if (name == isa_name(static_cast<Isa>(level)) && level <= static_cast<int>(best_isa()))
      return static_cast<Isa>(level);
  throw py::value_error("this processor has no instruction-set level '" + name + "'");
}

Dtype dtype_of(const py::array& array, const std::string& half) {
  if (array.dtype().is(py::dtype::of<float>())) return Dtype::f32;
  if (array.dtype().is(py::dtype::of<double>())) return Dtype::f64;
  return half == "bf16" ? Dtype::bf16 : Dtype::f16;  // 16-bit payloads travel as uint16
}

py::array new_array(Dtype dtype, std::vector<py::ssize_t> shape) {
  if (dtype == Dtype::f64) return py::array_t<double>(shape);
  return py::array_t<float>(shape);
}

const void* pointer(const std::optional<py::array>& array) { return array ? array->data() : nullptr; }
const int64_t* pointer(const std::optional<Indices>& array) { return array ? array->data() : nullptr; }

cache_retrieval::Stream stream_of(const py::array& queries, const py::array& keys, const py::array& scale,
                                  const py::array& center) {
  return {queries.data(), keys.data(), scale.data(), center.data(), queries.shape(1)};
}

py::tuple forward(const std::string& isa, const std::string& half, const py::array& queries, const py::array& keys,
                  const py::array& scale, const py::array& center, const Indices& order, const Indices& offsets,
                  const std::optional<py::array>& text_queries, const std::optional<py::array>& text_keys,
                  const std::optional<py::array>& ratio, bool text_per_class, const std::optional<Indices>& own_entry,
                  bool mask_own_scores) {
  cache_retrieval::ForwardParams p{};
  p.dtype = dtype_of(queries, half);
  p.num_queries = queries.shape(0);
  p.num_entries = keys.shape(0);
  p.num_classes = offsets.size() - 1;
  p.order = order.data();
  p.offsets = offsets.data();
  p.image = stream_of(queries, keys, scale, center);
  if (text_queries) p.text = stream_of(*text_queries, *text_keys, scale, center);
  p.text_per_class = text_per_class;
  p.ratio = pointer(ratio);
  p.own_entry = pointer(own_entry);
  p.mask_own_scores = mask_own_scores;
  py::array scores = new_array(p.dtype, {queries.shape(0), p.num_classes});
  py::array disagreement = new_array(p.dtype, {queries.shape(0)});
  p.scores = scores.mutable_data();
  p.disagreement = disagreement.mutable_data();
  cache_retrieval::forward_cpu(p, std_parallel(), isa_of(isa));
  return py::make_tuple(scores, disagreement);
}

py::tuple backward(const std::string& isa, const std::string& half, const py::array& grad_scores,
                   const py::array& queries, const py::array& keys, const py::array& scale, const py::array& center,
                   const Indices& labels, const std::optional<py::array>& weight,
                   const std::optional<py::array>& multiplicity, const std::optional<Indices>& own_key) {
  cache_retrieval::BackwardParams p{};
  p.dtype = dtype_of(queries, half);
  p.num_queries = queries.shape(0);
  p.num_keys = keys.shape(0);
  p.num_classes = grad_scores.shape(1);
  p.labels = labels.data();
  p.multiplicity = pointer(multiplicity);
  p.own_key = pointer(own_key);
  p.stream = stream_of(queries, keys, scale, center);
  p.weight = pointer(weight);
  p.grad_scores = grad_scores.data();
  py::array results[] = {new_array(p.dtype, {queries.shape(0), queries.shape(1)}),
                         new_array(p.dtype, {keys.shape(0), queries.shape(1)}), new_array(p.dtype, {queries.shape(0)}),
                         new_array(p.dtype, {queries.shape(0)}), new_array(p.dtype, {queries.shape(0)})};
  p.grad_queries = results[0].mutable_data();
  p.grad_keys = results[1].mutable_data();
  p.grad_scale = results[2].mutable_data();
  p.grad_center = results[3].mutable_data();
  p.grad_weight = results[4].mutable_data();
  cache_retrieval::backward_cpu(p, std_parallel(), isa_of(isa));
  return py::make_tuple(results[0], results[1], results[2], results[3], results[4]);
}

py::array scores_of_betas(const std::string& isa, const std::string& half, const py::array& queries,
                          const py::array& keys, const Indices& order, const Indices& offsets, const py::array& betas) {
  cache_retrieval::GridParams p{};
  p.dtype = dtype_of(queries, half);
  p.num_queries = queries.shape(0);
  p.num_entries = keys.shape(0);
  p.num_classes = offsets.size() - 1;
  p.width = queries.shape(1);
  p.num_betas = betas.size();
  p.order = order.data();
  p.offsets = offsets.data();
  p.queries = queries.data();
  p.keys = keys.data();
  p.betas = betas.data();
  py::array scores = new_array(p.dtype, {betas.size(), queries.shape(0), p.num_classes});
  p.scores = scores.mutable_data();
  cache_retrieval::grid_cpu(p, std_parallel(), isa_of(isa));
  return scores;
}

// One job; `relations` are tuples (matrix, offsets, columns, edges, weights, coefficient). Returns the result, then for
// each relation the gradients of its weights and coefficient, where `own` is given.
py::tuple aggregate(const std::string& isa, const std::string& half, const std::vector<py::array>& matrices,
                    const std::vector<py::tuple>& relations, bool stacked, const std::optional<py::array>& own) {
  using namespace hetero_aggregate;
  Job job{};
  job.dtype = dtype_of(matrices[0], half);
  job.width = matrices[0].shape(1);
  std::vector<Matrix> rows;
  for (const py::array& matrix : matrices) rows.push_back({matrix.data(), matrix.shape(0)});
  std::vector<Relation> edges;
  std::vector<py::array> kept, gradients;
  auto hold = [&kept](const py::handle& array) {
    if (array.is_none()) return static_cast<const void*>(nullptr);
    kept.push_back(py::reinterpret_borrow<py::array>(array));
    return static_cast<const void*>(kept.back().data());
  };
  for (const py::tuple& given : relations) {
    const auto columns = py::reinterpret_borrow<py::array>(given[2]);
    job.num_rows = py::len(given[1]) - 1;
    job.index = columns.itemsize() == 4 ? Index::i32 : Index::i64;
    Relation relation{};
    relation.matrix = given[0].cast<int64_t>();
    relation.offsets = static_cast<const int64_t*>(hold(given[1]));
    relation.columns = hold(given[2]);
    relation.edges = hold(given[3]);
    relation.weights = hold(given[4]);
    relation.coefficient = hold(given[5]);
    if (own) {
      gradients.push_back(new_array(job.dtype, {columns.size()}));
      relation.grad_weights = gradients.back().mutable_data();
      gradients.push_back(new_array(job.dtype, {1}));
      relation.grad_coefficient = gradients.back().mutable_data();
    }
    edges.push_back(relation);
  }
  std::vector<py::ssize_t> shape{job.num_rows, job.width};
  if (stacked) shape.insert(shape.begin(), static_cast<py::ssize_t>(relations.size()));
  py::array out(matrices[0].dtype(), shape);
  job.num_matrices = static_cast<int64_t>(rows.size());
  job.matrices = rows.data();
  job.num_relations = static_cast<int64_t>(edges.size());
  job.relations = edges.data();
  job.stacked = stacked;
  job.out = out.mutable_data();
  job.own = pointer(own);
  aggregate_cpu(job, std_parallel(), isa_of(isa));
  return py::make_tuple(out, gradients);
}

}  // namespace

PYBIND11_MODULE(raw_kernels, m) {
  m.def("levels", [] {
    std::vector<std::string> names;
    for (int level = 0; level <= static_cast<int>(best_isa()); ++level)
      names.push_back(isa_name(static_cast<Isa>(level)));
    return py::cast(names);
  });
  m.def("set_threads", [](int count) { thread_count = count; });
  using namespace py::literals;
  m.def("cache_retrieval", &forward, "isa"_a, "half"_a, "queries"_a, "keys"_a, "scale"_a, "center"_a, "order"_a,
        "offsets"_a, "text_queries"_a = py::none(), "text_keys"_a = py::none(), "ratio"_a = py::none(),
        "text_per_class"_a = false, "own_entry"_a = py::none(), "mask_own_scores"_a = false);
  m.def("cache_retrieval_backward", &backward, "isa"_a, "half"_a, "grad_scores"_a, "queries"_a, "keys"_a, "scale"_a,
        "center"_a, "labels"_a, "weight"_a = py::none(), "multiplicity"_a = py::none(), "own_key"_a = py::none());
  m.def("cache_retrieval_multi_beta", &scores_of_betas, "isa"_a, "half"_a, "queries"_a, "keys"_a, "order"_a,
        "offsets"_a, "betas"_a);
  m.def("hetero_aggregate", &aggregate, "isa"_a, "half"_a, "matrices"_a, "relations"_a, "stacked"_a = false,
        "own"_a = py::none());
}
