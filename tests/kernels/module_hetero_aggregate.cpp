#include "hetero_aggregate/kernel.h"
#include "raw.h"

namespace {

// One job; `relations` are tuples (matrix, offsets, columns, edges, weights, coefficient). Returns the result, then for
// each relation the gradients of its weights and coefficient, where `own` is given.
py::tuple aggregate(const std::string& isa, const std::string& half, const std::vector<py::array>& matrices,
                    const std::vector<py::tuple>& relations, bool stacked, const std::optional<py::array>& own) {
  using namespace hetero_aggregate;
  AggregateParams job{};
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

void bind_hetero_aggregate(py::module_& m) {
  using namespace py::literals;
  m.def("hetero_aggregate", &aggregate, "isa"_a, "half"_a, "matrices"_a, "relations"_a, "stacked"_a = false,
        "own"_a = py::none());
}
