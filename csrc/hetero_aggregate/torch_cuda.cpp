// CUDA backend of the operators. Nothing here synchronises, so calls can be captured into a CUDA graph.
#include "common/torch_cuda.h"

#include "hetero_aggregate/cuda.h"
#include "hetero_aggregate/torch_operators.h"

namespace vlmadapt::hetero_aggregate {

namespace {

struct Cuda {
  static void aggregate(const AggregateParams& params, const Tensor& like) {
    CudaCall call(like);
    void* workspace = call.workspace(aggregate_workspace(params));
    CudaCall::check(aggregate_cuda(params, workspace, call.stream()), "hetero_aggregate");
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CUDA, m) { Operators<Cuda>::register_all(m); }

}  // namespace vlmadapt::hetero_aggregate
