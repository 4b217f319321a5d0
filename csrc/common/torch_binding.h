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

inline std::string device_name(const Tensor& tensor) {
  if (tensor.is_cpu()) return "the CPU";
  if (tensor.is_cuda()) return "CUDA device " + std::to_string(tensor.get_device_index());
  return "a device of another kind";
}

// The dispatcher looks for one tensor on a device; the kernel of that device reads the memory of all of them.
inline void check_device(const Tensor& tensor, const char* name, const Tensor& like) {
  if (tensor.device() != like.device())
    throw std::invalid_argument(std::string(name) + " is on " + device_name(tensor) + " but must be on " +
                                device_name(like) + " like the other arguments: move it there");
}

inline void check_device(const OptionalTensor& tensor, const char* name, const Tensor& like) {
  if (tensor.has_value()) check_device(*tensor, name, like);
}

inline void check_device(const std::vector<Tensor>& tensors, const char* name, const Tensor& like) {
  for (const Tensor& tensor : tensors) check_device(tensor, name, like);
}

// The tensor's data after checking type, shape, and the device against that of `like`; the result stays valid as long
// as `tensor` does.
inline const void* checked(const Tensor& tensor, const char* name, ScalarType type,
                           std::initializer_list<int64_t> shape, const Tensor& like) {
  check_device(tensor, name, like);
  bool fits =
      tensor.scalar_type() == type && tensor.dim() == static_cast<int64_t>(shape.size()) && tensor.is_contiguous();
  int64_t axis = 0;
  for (int64_t size : shape) fits = fits && tensor.size(axis++) == size;
  if (!fits) throw std::invalid_argument(std::string(name) + " has an unexpected dtype, shape or layout");
  return tensor.const_data_ptr();
}

inline const void* checked(const OptionalTensor& tensor, const char* name, ScalarType type,
                           std::initializer_list<int64_t> shape, const Tensor& like) {
  return tensor.has_value() ? checked(*tensor, name, type, shape, like) : nullptr;
}

// `TensorOrOptional` is either.
template <class TensorOrOptional>
const int64_t* checked_indices(const TensorOrOptional& tensor, const char* name, int64_t count, const Tensor& like) {
  return static_cast<const int64_t*>(checked(tensor, name, ScalarType::Long, {count}, like));
}

inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType type) {
  const std::vector<int64_t> sizes(shape);
  return torch::stable::new_empty(like, sizes, type);
}

// A gradient to write, or an empty tensor and a null pointer.
inline Tensor wanted(bool want, const Tensor& like, std::initializer_list<int64_t> shape, ScalarType type,
                     void*& pointer) {
  Tensor result = want ? new_tensor(like, shape, type) : new_tensor(like, {0}, type);
  pointer = want ? result.mutable_data_ptr() : nullptr;
  return result;
}

// torch's own thread pool, one range a thread.
inline Parallel torch_parallel() {
  return Parallel{[](int64_t count, RangeBody body, void* context) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
  }};
}

}  // namespace vlmadapt
