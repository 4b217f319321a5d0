// Chooses instantiations for the kernels of columns.cuh, and launches them.
#include "attention_column_sums/columns.cuh"
#include "attention_column_sums/cuda.h"

namespace vlmadapt::attention_column_sums {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A block for each tile of `rows` of every head.
template <class T, class Kernel, class... Arguments>
cudaError_t launch(Kernel kernel, const AttentionScores& p, int64_t rows, cudaStream_t stream, Arguments... arguments) {
  constexpr int shared = shared_bytes<T>();
  const int64_t tiles = divide_up(rows, kOwned<T>), blocks = p.batch * p.heads * tiles;
  if (blocks == 0) return cudaSuccess;
  if (cudaError_t e = allow_shared_memory(kernel, shared)) return e;
  CUDA_LAUNCH(kernel, grid_of(blocks), dim3(kThreads), shared, stream, arguments..., tiles);
  return cudaGetLastError();
}

template <class E>
cudaError_t forward(const ForwardParams& f, cudaStream_t stream) {
  using T = Accumulator<E>;
  const AttentionScores& p = f.scores;
  if (cudaError_t e = launch<T>(lse_kernel<E>, p, p.num_queries, stream, f)) return e;
  return launch<T>(sums_kernel<E>, p, p.num_keys, stream, f);
}

template <class E>
cudaError_t backward(const BackwardParams& b, void* mean, cudaStream_t stream) {
  using T = Accumulator<E>;
  const AttentionScores& p = b.scores;
  if (cudaError_t e = launch<T>(mean_kernel<E>, p, p.num_queries, stream, b, mean)) return e;
  const void* means = mean;
  if (b.grad_query)
    if (cudaError_t e = launch<T>(gradient_kernel<E, true>, p, p.num_queries, stream, b, means)) return e;
  return b.grad_key ? launch<T>(gradient_kernel<E, false>, p, p.num_keys, stream, b, means) : cudaSuccess;
}

}  // namespace

int64_t backward_workspace(const BackwardParams& b) {
  const AttentionScores& p = b.scores;
  return p.batch * p.heads * p.num_queries * (p.dtype == Dtype::f64 ? 8 : 4);
}

cudaError_t forward_cuda(const ForwardParams& f, cudaStream_t stream) {
  switch (f.scores.dtype) {
    case Dtype::bf16:
      return forward<__nv_bfloat16>(f, stream);
    case Dtype::f16:
      return forward<__half>(f, stream);
    case Dtype::f64:
      return forward<double>(f, stream);
    case Dtype::f32:
      return forward<float>(f, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t backward_cuda(const BackwardParams& b, void* workspace, cudaStream_t stream) {
  switch (b.scores.dtype) {
    case Dtype::bf16:
      return backward<__nv_bfloat16>(b, workspace, stream);
    case Dtype::f16:
      return backward<__half>(b, workspace, stream);
    case Dtype::f64:
      return backward<double>(b, workspace, stream);
    case Dtype::f32:
      return backward<float>(b, workspace, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vlmadapt::attention_column_sums
