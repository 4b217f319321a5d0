// CUDA backend of the operators. Nothing here synchronises, so calls can be captured into a CUDA graph.
#include "common/torch_cuda.h"

#include "p_laplacian/cuda.h"
#include "p_laplacian/torch_operators.h"

namespace vlmadapt::p_laplacian {

namespace {

struct Cuda {
  static void forward(const ForwardParams& p, const Tensor& like) {
    CudaCall call(like);
    void* workspace = call.workspace(forward_workspace(p));
    CudaCall::check(forward_cuda(p, workspace, call.stream()), "p_laplacian");
  }

  static void backward(const BackwardParams& p, const Tensor& like) {
    CudaCall call(like);
    void* workspace = call.workspace(backward_workspace(p));
    CudaCall::check(backward_cuda(p, workspace, call.stream()), "p_laplacian_backward");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CUDA, m) { Operators<Cuda>::register_all(m); }

}  // namespace vlmadapt::p_laplacian
