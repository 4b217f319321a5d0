// CUDA backend of the operators. Nothing here synchronises, so calls can be captured into a CUDA graph.
#include "common/torch_cuda.h"

#include "attention_column_sums/cuda.h"
#include "attention_column_sums/torch_operators.h"

namespace vlmadapt::attention_column_sums {

namespace {

struct Cuda {
  static void forward(const ForwardParams& p, const Tensor& like) {
    CudaCall call(like);
    CudaCall::check(forward_cuda(p, call.stream()), "attention_column_sums");
  }

  static void backward(const BackwardParams& p, const Tensor& like) {
    CudaCall call(like);
    void* workspace = call.workspace(backward_workspace(p));
    CudaCall::check(backward_cuda(p, workspace, call.stream()), "attention_column_sums_backward");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CUDA, m) { Operators<Cuda>::register_all(m); }

}  // namespace vlmadapt::attention_column_sums
