#include "raw.h"

#include <algorithm>
#include <thread>

namespace {

int thread_count = 2;

}  // namespace

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
  return half == "bf16" ? Dtype::bf16 : Dtype::f16;
}

py::array new_array(Dtype dtype, std::vector<py::ssize_t> shape) {
  if (dtype == Dtype::f64) return py::array_t<double>(shape);
  return py::array_t<float>(shape);
}

void bind_levels(py::module_& m) {
  m.def("levels", [] {
    std::vector<std::string> names;
    for (int level = 0; level <= static_cast<int>(best_isa()); ++level)
      names.push_back(isa_name(static_cast<Isa>(level)));
    return py::cast(names);
  });
  m.def("set_threads", [](int count) { thread_count = count; });
}
