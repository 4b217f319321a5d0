// What every binding needs of torch, through the LibTorch stable ABI only: one built library then serves many
// versions of torch and Python. Bindings unpack tensors and allocate results; checks here only guard memory, the
// sentences a user reads are written in Python.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/dtype.h"
#include "common/parallel.h"

namespace vlmadapt {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline Dtype dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::Double:
      return Dtype::f64;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Half:
      return Dtype::f16;
    default:
      throw std::invalid_argument(std::string(name) + " must be float32, float64, bfloat16 or float16");
  }
}

inline ScalarType accum_type(Dtype dtype) { return dtype == Dtype::f64 ? ScalarType::Double : ScalarType::Float; }

// The tensor's data after checking type, shape and device; the result stays valid as long as `tensor` does.
inline const void* checked(const Tensor& tensor, const char* name, ScalarType type,
                           std::initializer_list<int64_t> shape) {
  bool fits =
      tensor.scalar_type() == type && tensor.dim() == static_cast<int64_t>(shape.size()) && tensor.is_contiguous();
  int64_t axis = 0;
  for (int64_t size : shape) fits = fits && tensor.size(axis++) == size;
  if (!fits) throw std::invalid_argument(std::string(name) + " has an unexpected dtype, shape or layout");
  return tensor.const_data_ptr();
}

inline const void* checked(const OptionalTensor& tensor, const char* name, ScalarType type,
                           std::initializer_list<int64_t> shape) {
  return tensor.has_value() ? checked(*tensor, name, type, shape) : nullptr;
}

inline const int64_t* checked_indices(const Tensor& tensor, const char* name, int64_t count) {
  return static_cast<const int64_t*>(checked(tensor, name, ScalarType::Long, {count}));
}

inline const int64_t* checked_indices(const OptionalTensor& tensor, const char* name, int64_t count) {
  return static_cast<const int64_t*>(checked(tensor, name, ScalarType::Long, {count}));
}

inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType type) {
  const std::vector<int64_t> sizes(shape);
  return torch::stable::new_empty(like, sizes, type);
}

// torch's own thread pool, one range a thread.
inline Parallel torch_parallel() {
  return Parallel{[](int64_t count, RangeBody body, void* context) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
  }};
}

}  // namespace vlmadapt
