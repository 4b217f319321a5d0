// Chooses instantiations for the kernels of forward.cuh and backward.cuh, and launches them.
#include "p_laplacian/backward.cuh"
#include "p_laplacian/cuda.h"
#include "p_laplacian/forward.cuh"

namespace vlmadapt::p_laplacian {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class E, bool from_scores>
cudaError_t launch_forward(const ForwardParams& f, cudaStream_t stream) {
  const Problem& p = f.problem;
  const int shared = forward_shared_bytes<Accumulator<E>>(from_scores && p.has_value);
  if (cudaError_t e = allow_shared_memory(forward_kernel<E, from_scores>, shared)) return e;
  const int64_t tiles = divide_up(p.num_queries, kOwned<Accumulator<E>>);
  CUDA_LAUNCH((forward_kernel<E, from_scores>), grid_of(p.batch * p.heads * tiles), dim3(kThreads), shared, stream, f,
              tiles);
  return cudaGetLastError();
}

template <class E, bool from_scores, bool queries_own>
cudaError_t launch_backward(const BackwardParams& b, void* workspace, cudaStream_t stream) {
  constexpr int shared = backward_shared_bytes<Accumulator<E>>();
  if (cudaError_t e = allow_shared_memory(backward_kernel<E, from_scores, queries_own>, shared)) return e;
  const Problem& p = b.problem;
  const int64_t tiles = divide_up(queries_own ? p.num_queries : p.num_keys, kOwned<Accumulator<E>>);
  if (tiles == 0) return cudaSuccess;
  CUDA_LAUNCH((backward_kernel<E, from_scores, queries_own>), grid_of(p.batch * p.heads * tiles), dim3(kThreads),
              shared, stream, b, workspace, tiles);
  return cudaGetLastError();
}

template <class E, bool from_scores>
cudaError_t backward(const BackwardParams& b, void* workspace, cudaStream_t stream) {
  using T = Accumulator<E>;
  const Problem& p = b.problem;
  const int64_t rows = p.batch * p.heads * p.num_queries;
  if (rows > 0) {
    CUDA_LAUNCH(prepare_kernel<E>, grid_of(divide_up(rows, 256)), dim3(256), 0, stream, b, workspace);
    if (cudaError_t e = cudaGetLastError()) return e;
    if (cudaError_t e = launch_backward<E, from_scores, true>(b, workspace, stream)) return e;
  }
  if (p.batch * p.heads > 0)
    if (cudaError_t e = launch_backward<E, from_scores, false>(b, workspace, stream)) return e;
  if (p.heads == 0) return cudaSuccess;
  CUDA_LAUNCH(reduce_kernel<T>, grid_of(p.heads), dim3(kThreads), kThreads * static_cast<int>(sizeof(T)), stream, b,
              workspace, divide_up(p.num_queries, kOwned<T>));
  return cudaGetLastError();
}

template <bool from_scores>
cudaError_t forward_of(const ForwardParams& f, cudaStream_t stream) {
  switch (f.problem.dtype) {
    case Dtype::bf16:
      return launch_forward<__nv_bfloat16, from_scores>(f, stream);
    case Dtype::f16:
      return launch_forward<__half, from_scores>(f, stream);
    case Dtype::f64:
      return launch_forward<double, from_scores>(f, stream);
    case Dtype::f32:
      return launch_forward<float, from_scores>(f, stream);
  }
  return cudaErrorInvalidValue;
}

template <bool from_scores>
cudaError_t backward_of(const BackwardParams& b, void* workspace, cudaStream_t stream) {
  switch (b.problem.dtype) {
    case Dtype::bf16:
      return backward<__nv_bfloat16, from_scores>(b, workspace, stream);
    case Dtype::f16:
      return backward<__half, from_scores>(b, workspace, stream);
    case Dtype::f64:
      return backward<double, from_scores>(b, workspace, stream);
    case Dtype::f32:
      return backward<float, from_scores>(b, workspace, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int64_t backward_workspace(const BackwardParams& b) {
  const Problem& p = b.problem;
  const int64_t heads = p.batch * p.heads, accumulator = p.dtype == Dtype::f64 ? 8 : 4;
  const int64_t tiles = divide_up(p.num_queries, p.dtype == Dtype::f64 ? kOwned<double> : kOwned<float>);
  return heads * (p.num_queries * 5 + tiles) * accumulator;
}

cudaError_t forward_cuda(const ForwardParams& f, cudaStream_t stream) {
  const Problem& p = f.problem;
  if (p.batch * p.heads * p.num_queries == 0) return cudaSuccess;
  return p.from_scores ? forward_of<true>(f, stream) : forward_of<false>(f, stream);
}

cudaError_t backward_cuda(const BackwardParams& b, void* workspace, cudaStream_t stream) {
  return b.problem.from_scores ? backward_of<true>(b, workspace, stream) : backward_of<false>(b, workspace, stream);
}

}  // namespace vlmadapt::p_laplacian
