#include "p_laplacian/kernel.h"
#include "raw_attention.h"

namespace {

using namespace p_laplacian;

// `switches` are fields of Problem.
Problem problem_of(const std::string& half, const py::dict& arrays, const py::dict& switches) {
  const py::array x_query = find(arrays, "x_query").value(), x_value = find(arrays, "x_value").value();
  Problem p{};
  p.dtype = dtype_of(x_query, half);
  p.batch = x_query.shape(0);
  p.heads = x_query.shape(1);
  p.num_queries = x_query.shape(2);
  p.num_keys = x_value.shape(2);
  fill_scores(p, arrays, switches);
  p.features = x_query.shape(3);
  p.from_scores = arrays.contains("query");
  p.has_value = arrays.contains("value");
  p.attention = input(arrays, "attention");
  p.value = input(arrays, "value");
  p.value_width = last_size(arrays, "value");
  p.x_query = input(arrays, "x_query");
  p.x_value = input(arrays, "x_value");
  p.p = input(arrays, "p");
  p.pull = input(arrays, "pull");
  p.residual = switches["residual"].cast<bool>();
  p.drop_diagonal = switches["drop_diagonal"].cast<bool>();
  p.released = switches["released"].cast<bool>();
  p.eps = switches["eps"].cast<double>();
  return p;
}

void forward(const std::string& isa, const std::string& half, const py::dict& arrays, const py::dict& switches) {
  ForwardParams f{};
  f.problem = problem_of(half, arrays, switches);
  f.out = result(arrays, "out");
  f.row_sum = result(arrays, "row_sum");
  f.lse = result(arrays, "lse");
  f.context = result(arrays, "context");
  forward_cpu(f, std_parallel(), isa_of(isa));
}

void backward(const std::string& isa, const std::string& half, const py::dict& arrays, const py::dict& switches,
              bool want_p) {
  BackwardParams b{};
  b.problem = problem_of(half, arrays, switches);
  b.out = input(arrays, "out");
  b.row_sum = input(arrays, "row_sum");
  b.lse = input(arrays, "lse");
  b.context = input(arrays, "context");
  b.grad_out = input(arrays, "grad_out");
  b.grad_context = input(arrays, "grad_context");
  b.grad_lse = input(arrays, "grad_lse");
  b.with_context = b.grad_context != nullptr;
  b.want_p = want_p;
  b.grad_attention = result(arrays, "grad_attention");
  b.grad_query = result(arrays, "grad_query");
  b.grad_key = result(arrays, "grad_key");
  b.grad_value = result(arrays, "grad_value");
  b.grad_x_query = result(arrays, "grad_x_query");
  b.grad_x_value = result(arrays, "grad_x_value");
  b.grad_p = result(arrays, "grad_p");
  b.grad_pull = result(arrays, "grad_pull");
  backward_cpu(b, std_parallel(), isa_of(isa));
}

}  // namespace

void bind_p_laplacian(py::module_& m) {
  using namespace py::literals;
  m.def("p_laplacian", &forward, "isa"_a, "half"_a, "arrays"_a, "switches"_a);
  m.def("p_laplacian_backward", &backward, "isa"_a, "half"_a, "arrays"_a, "switches"_a, "want_p"_a = true);
}
