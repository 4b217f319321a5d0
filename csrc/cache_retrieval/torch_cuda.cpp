// CUDA backend of the operators. Nothing here synchronises, so calls can be captured into a CUDA graph.
#include "common/torch_cuda.h"

#include <algorithm>

#include "cache_retrieval/cuda.h"
#include "cache_retrieval/torch_operators.h"
#include "cache_retrieval_chunked/cuda.h"
#include "cache_retrieval_chunked/route.h"
#include "cache_retrieval_chunked/torch_products.h"
#include "cache_retrieval_dense/cuda.h"
#include "cache_retrieval_few/cuda.h"

namespace vlmadapt::cache_retrieval {

namespace {

constexpr int64_t largest_grid_scores = 256 << 20;  // bytes of class scores held at a time by an accuracy grid

Precision precision_of(bool allow_tf32) { return allow_tf32 ? Precision::tf32 : Precision::exact; }

struct Cuda {
  static constexpr bool keeps_similarities = false;
  static constexpr bool narrows_gradients = false;

  static void forward(const ForwardParams& p, const Tensor& like, int64_t route, bool allow_tf32) {
    CudaCall call(like);
    const Precision precision = precision_of(allow_tf32);
    if (forward_is_chunked(p, static_cast<Route>(route), precision)) {
      TorchProducts products(like);
      void* workspace = call.workspace(forward_chunked_workspace(p));
      CudaCall::check(forward_chunked(p, workspace, products, call.stream()), "cache_retrieval");
    } else if (static_cast<Route>(route) == Route::automatic && takes_few(p)) {
      void* workspace = call.workspace(few_workspace(p));
      CudaCall::check(few_forward(p, workspace, call.stream()), "cache_retrieval");
    } else {
      void* workspace = call.workspace(forward_workspace(p));
      CudaCall::check(forward_cuda(p, precision, workspace, call.stream()), "cache_retrieval");
    }
  }

  static void dense_forward(const DenseForwardParams& p, const Tensor& like, bool allow_tf32) {
    CudaCall call(like);
    void* workspace = call.workspace(dense_forward_workspace(p));
    CudaCall::check(dense_forward_cuda(p, precision_of(allow_tf32), workspace, call.stream()), "cache_retrieval_dense");
  }

  static void backward(const BackwardParams& p, const Tensor& like, int64_t route, bool allow_tf32) {
    CudaCall call(like);
    if (backward_is_chunked(p, static_cast<Route>(route))) {
      TorchProducts products(like);
      void* workspace = call.workspace(backward_chunked_workspace(p));
      CudaCall::check(backward_chunked(p, workspace, products, call.stream()), "cache_retrieval_backward");
      return;
    }
    void* workspace = call.workspace(p.dense ? dense_backward_workspace(p) : backward_workspace(p));
    const auto launch = p.dense ? dense_backward_cuda : backward_cuda;
    CudaCall::check(launch(p, precision_of(allow_tf32), workspace, call.stream()),
                    p.dense ? "cache_retrieval_dense_backward" : "cache_retrieval_backward");
  }

  // The accuracy of a grid needs the class scores of its betas; a few betas at a time bound their memory.
  static void grid(const GridParams& p, const Tensor& like, bool allow_tf32) {
    CudaCall call(like);
    const int64_t accum_bytes = p.dtype == Dtype::f64 ? 8 : 4;
    const int64_t bytes_of_beta = p.num_queries * p.num_classes * accum_bytes;
    const int64_t at_once = p.scores != nullptr ? p.num_betas : largest_grid_scores / (bytes_of_beta + 1) + 1;
    void* scores = p.scores != nullptr ? p.scores : call.workspace(std::min(at_once, p.num_betas) * bytes_of_beta);
    for (int64_t first = 0; first < p.num_betas; first += at_once) {
      GridParams part = p;
      part.num_betas = std::min(at_once, p.num_betas - first);
      part.betas = static_cast<const char*>(p.betas) + first * accum_bytes;
      part.scores = scores;
      if (p.correct != nullptr) part.correct = p.correct + first * p.num_alphas;
      CudaCall::check(grid_cuda(part, precision_of(allow_tf32), call.stream()), "cache_retrieval_grid");
    }
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CUDA, m) { Operators<Cuda>::register_all(m); }

}  // namespace vlmadapt::cache_retrieval
