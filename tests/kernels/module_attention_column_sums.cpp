#include "attention_column_sums/kernel.h"
#include "raw_attention.h"

namespace {

using namespace attention_column_sums;

AttentionScores scores_of(const std::string& half, const py::dict& arrays, const py::dict& switches) {
  const py::array query = find(arrays, "query").value();
  AttentionScores s{};
  s.dtype = dtype_of(query, half);
  s.batch = query.shape(0);
  s.heads = query.shape(1);
  s.num_queries = query.shape(2);
  s.num_keys = find(arrays, "key")->shape(2);
  fill_scores(s, arrays, switches);
  return s;
}

void forward(const std::string& isa, const std::string& half, const py::dict& arrays, const py::dict& switches) {
  ForwardParams f{scores_of(half, arrays, switches), result(arrays, "sums"), result(arrays, "lse")};
  forward_cpu(f, std_parallel(), isa_of(isa));
}

void backward(const std::string& isa, const std::string& half, const py::dict& arrays, const py::dict& switches) {
  BackwardParams b{scores_of(half, arrays, switches), input(arrays, "lse"), input(arrays, "grad_sums"),
                   result(arrays, "grad_query"), result(arrays, "grad_key")};
  backward_cpu(b, std_parallel(), isa_of(isa));
}

}  // namespace

void bind_attention_column_sums(py::module_& m) {
  using namespace py::literals;
  m.def("attention_column_sums", &forward, "isa"_a, "half"_a, "arrays"_a, "switches"_a);
  m.def("attention_column_sums_backward", &backward, "isa"_a, "half"_a, "arrays"_a, "switches"_a);
}
