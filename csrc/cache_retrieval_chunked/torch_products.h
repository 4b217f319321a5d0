// Products by torch's own operators, which take cuBLAS on a GPU and obey torch's settings, TF32 among them.
#pragma once

#include <array>

#include "cache_retrieval_chunked/products.h"
#include "common/torch_binding.h"

namespace vlmadapt::cache_retrieval {

class TorchProducts : public Products {
 public:
  // `like` is on the device of all the matrices.
  explicit TorchProducts(const Tensor& like) : device_(like.device()) {}

  cudaError_t multiply(const Matrix& left, const Matrix& right, void* out) override {
    const ScalarType accum = accum_type(left.dtype);
    const Tensor a = tensor_of(left), b = tensor_of(right);
    Tensor c = torch::stable::from_blob(out, std::array{left.rows, right.columns},
                                        std::array{right.columns, int64_t{1}}, device_, accum);
    using torch::stable::detail::from;
    if (left.dtype == Dtype::f32 || left.dtype == Dtype::f64)
      call("out", std::array{from(a), from(b), from(c)});
    else  // sums and results of 16-bit matrices are float
      call("dtype_out", std::array{from(a), from(b), from(accum), from(c)});
    return cudaSuccess;
  }

 private:
  static ScalarType stored_type(Dtype dtype) {
    switch (dtype) {
      case Dtype::bf16:
        return ScalarType::BFloat16;
      case Dtype::f16:
        return ScalarType::Half;
      default:
        return accum_type(dtype);
    }
  }

  Tensor tensor_of(const Matrix& m) const {
    const auto strides = m.transposed ? std::array{int64_t{1}, m.rows} : std::array{m.columns, int64_t{1}};
    return torch::stable::from_blob(const_cast<void*>(m.data), std::array{m.rows, m.columns}, strides, device_,
                                    stored_type(m.dtype));
  }

  // aten::mm with a result to write to, which it returns as well.
  template <size_t count>
  static void call(const char* overload, std::array<StableIValue, count> stack) {
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", overload, stack.data(), TORCH_ABI_VERSION));
    torch::stable::detail::to<Tensor>(stack[0]);
  }

  torch::stable::Device device_;
};

}  // namespace vlmadapt::cache_retrieval
