// Torch's current stream and device, through the stable ABI, for bindings of CUDA kernels.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/shim_utils.h>

#include "common/torch_binding.h"

namespace vlmadapt {

// Makes the tensor's device current while it lives.
class CudaCall {
 public:
  explicit CudaCall(const Tensor& tensor)
      : device_(static_cast<int32_t>(tensor.get_device_index())), guard_(device_), tensor_(tensor) {}

  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

  // Scratch memory from torch's caching allocator; kept until this object dies, and on the stream beyond that.
  void* workspace(int64_t bytes) {
    if (bytes == 0) return nullptr;
    scratch_ = new_tensor(tensor_, {bytes}, ScalarType::Byte);
    return scratch_->mutable_data_ptr();
  }

  // A launch also reports what kernels before it did wrong, this package's or others'.
  static void check(cudaError_t error, const char* kernel) {
    if (error != cudaSuccess)
      throw std::runtime_error(std::string(kernel) + " could not be launched, or an earlier kernel failed (" +
                               cudaGetErrorString(error) +
                               "): set CUDA_LAUNCH_BLOCKING=1 to have the error at the kernel that causes it");
  }

 private:
  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
  const Tensor& tensor_;
  OptionalTensor scratch_;
};

}  // namespace vlmadapt
