// What the operators on attention share here. Arrays are given by name, results among them: a name left out is a null
// pointer.
#pragma once

#include "common/attention.h"
#include "raw.h"

inline std::optional<py::array> find(const py::dict& arrays, const char* name) {
  if (!arrays.contains(name)) return std::nullopt;
  auto array = py::reinterpret_borrow<py::array>(arrays[name]);
  if (!(array.flags() & py::array::c_style)) throw py::value_error(std::string(name) + " is not contiguous");
  return array;
}

inline const void* input(const py::dict& arrays, const char* name) { return pointer(find(arrays, name)); }

inline void* result(const py::dict& arrays, const char* name) {
  auto array = find(arrays, name);
  return array ? array->mutable_data() : nullptr;
}

inline int64_t last_size(const py::dict& arrays, const char* name) {
  const auto array = find(arrays, name);
  return array ? array->shape(3) : 0;
}

// All but the type and the sizes before the width; the mask may have any strides.
inline void fill_scores(AttentionScores& s, const py::dict& arrays, const py::dict& switches) {
  s.query = input(arrays, "query");
  s.key = input(arrays, "key");
  s.width = last_size(arrays, "query");
  s.key_lengths = static_cast<const int64_t*>(input(arrays, "key_lengths"));
  if (arrays.contains("mask")) {
    const auto mask = py::reinterpret_borrow<py::array>(arrays["mask"]);
    s.mask = mask.data();
    s.mask_kind = mask.itemsize() == 1 ? MaskKind::boolean : MaskKind::additive;
    for (int axis = 0; axis < 4; ++axis) s.mask_strides[axis] = mask.strides(axis) / mask.itemsize();
  }
  s.scale = switches["scale"].cast<double>();
  s.causal = switches["causal"].cast<bool>();
}
