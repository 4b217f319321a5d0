// What the files of the NumPy test module share: one file an operator, each with a bind function.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace py = pybind11;
using namespace vlmadapt;

using Indices = py::array_t<int64_t, py::array::c_style>;

Parallel std_parallel();  // one std::thread a range
Isa isa_of(const std::string& name);

// 16-bit payloads travel as uint16; `half` tells which type they are.
Dtype dtype_of(const py::array& array, const std::string& half);

py::array new_array(Dtype dtype, std::vector<py::ssize_t> shape);  // of the accumulation type

inline const void* pointer(const std::optional<py::array>& array) { return array ? array->data() : nullptr; }
inline const int64_t* pointer(const std::optional<Indices>& array) { return array ? array->data() : nullptr; }

void bind_levels(py::module_& m);
void bind_attention_column_sums(py::module_& m);
void bind_cache_retrieval(py::module_& m);
void bind_hetero_aggregate(py::module_& m);
void bind_p_laplacian(py::module_& m);
