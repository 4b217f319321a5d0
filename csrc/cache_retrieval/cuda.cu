// Chooses tiles, splits and instantiations for the kernels of forward.cuh and backward.cuh, and launches them.
#include "cache_retrieval/backward.cuh"
#include "cache_retrieval/cuda.h"
#include "cache_retrieval/forward.cuh"
#include "cache_retrieval/launch.h"

namespace vlmadapt::cache_retrieval {
namespace {

int64_t forward_splits(int64_t num_queries, int64_t num_entries) {
  return splits_for(divide_up(num_queries, kTile), divide_up(num_entries, kTile), kLargestGrid, multiprocessors());
}

template <class Product, bool two_streams>
cudaError_t launch_forward(const ForwardJob& job, int64_t splits, cudaStream_t stream) {
  constexpr int shared = forward_shared_bytes<Product>();
  if (cudaError_t e = allow_shared_memory(forward_kernel<Product, two_streams>, shared)) return e;
  const dim3 grid = grid_of(divide_up(job.params.num_queries, kTile), splits);
  CUDA_LAUNCH((forward_kernel<Product, two_streams>), grid, dim3(kThreads), shared, stream, job);
  return cudaGetLastError();
}

template <bool two_streams>
cudaError_t launch_forward(const ForwardJob& job, Precision precision, int64_t splits, cudaStream_t stream) {
  switch (job.params.dtype) {
    case Dtype::bf16:
      return launch_forward<TensorProduct<__nv_bfloat16>, two_streams>(job, splits, stream);
    case Dtype::f16:
      return launch_forward<TensorProduct<__half>, two_streams>(job, splits, stream);
    case Dtype::f64:
      return launch_forward<FmaProduct<double>, two_streams>(job, splits, stream);
    case Dtype::f32:
      return precision == Precision::tf32 ? launch_forward<TensorProduct<float>, two_streams>(job, splits, stream)
                                          : launch_forward<FmaProduct<float>, two_streams>(job, splits, stream);
  }
  return cudaErrorInvalidValue;
}

template <class T>
cudaError_t launch_accuracy(const GridParams& p, cudaStream_t stream) {
  const int64_t blocks = divide_up(p.num_queries, kAccuracyQueries);
  CUDA_LAUNCH(accuracy_kernel<T>, grid_of(p.num_betas * blocks), dim3(kThreads), 0, stream, p, blocks);
  return cudaGetLastError();
}

template <class Product, bool queries_own>
cudaError_t launch_backward(const BackwardParams& p, void* gradient, void* row_sums, int64_t splits,
                            cudaStream_t stream) {
  constexpr int shared = backward_shared_bytes<Product>();
  if (cudaError_t e = allow_shared_memory(backward_kernel<Product, queries_own>, shared)) return e;
  const int64_t owners = queries_own ? p.num_queries : p.num_keys, others = queries_own ? p.num_keys : p.num_queries;
  const BackwardJob job{p, gradient, row_sums, divide_up(divide_up(others, kTile), splits), aligned(p.side, p.dtype)};
  const dim3 grid = grid_of(divide_up(owners, kTile), splits);
  CUDA_LAUNCH((backward_kernel<Product, queries_own>), grid, dim3(kThreads), shared, stream, job);
  return cudaGetLastError();
}

// out [owners, width]: in parts, and then their sum, where the other side is split. `parts` is memory for them.
template <class Product, bool queries_own>
cudaError_t gradient_of(const BackwardParams& p, void* out, void* row_sums, void* parts, cudaStream_t stream) {
  using T = typename Product::Accumulator;
  const int64_t owners = queries_own ? p.num_queries : p.num_keys, others = queries_own ? p.num_keys : p.num_queries;
  if (owners == 0) return cudaSuccess;
  const int64_t splits = backward_splits(owners, others, out ? p.side.width : 0, p.dtype);
  void* target = out && splits > 1 ? parts : out;
  if (cudaError_t e = launch_backward<Product, queries_own>(p, target, row_sums, splits, stream)) return e;
  return target == out ? cudaSuccess : launch_sum<T>(target, out, owners * p.side.width, splits, stream);
}

template <class Product>
cudaError_t backward(const BackwardParams& p, void* workspace, cudaStream_t stream) {
  using T = typename Product::Accumulator;
  void *row_sums = p.grad_scale ? workspace : nullptr, *parts = static_cast<char*>(workspace) + row_sum_bytes(p);
  if (p.grad_queries || p.grad_scale) {
    if (cudaError_t e = gradient_of<Product, true>(p, p.grad_queries, row_sums, parts, stream)) return e;
    if (cudaError_t e = launch_row_gradients<T>(p, row_sums, query_splits(p), stream)) return e;
  }
  return p.grad_keys ? gradient_of<Product, false>(p, p.grad_keys, nullptr, parts, stream) : cudaSuccess;
}

}  // namespace

int64_t forward_workspace(const ForwardParams& p) {
  if (!p.text.queries || !p.disagreement) return 0;
  return forward_splits(p.num_queries, p.num_entries) * p.num_queries * accumulator_bytes(p.dtype);
}

int64_t backward_workspace(const BackwardParams& p) {
  const int64_t queries = p.grad_queries ? split_bytes(p.num_queries, p.num_keys, p.side.width, p.dtype) : 0;
  const int64_t keys = p.grad_keys ? split_bytes(p.num_keys, p.num_queries, p.side.width, p.dtype) : 0;
  return row_sum_bytes(p) + (queries > keys ? queries : keys);
}

cudaError_t forward_cuda(const ForwardParams& p, Precision precision, void* workspace, cudaStream_t stream) {
  if (p.num_queries == 0) return cudaSuccess;
  const bool two_streams = p.text.queries != nullptr;
  const int64_t splits = forward_splits(p.num_queries, p.num_entries);
  const int64_t share = divide_up(divide_up(p.num_entries, kTile), splits) * kTile;
  const bool gaps = two_streams && p.disagreement;
  const ForwardJob job{p,
                       nullptr,
                       1,
                       share,
                       gaps ? workspace : nullptr,
                       aligned(p.image, p.dtype),
                       two_streams && aligned(p.text, p.dtype)};
  if (cudaError_t e = two_streams ? launch_forward<true>(job, precision, splits, stream)
                                  : launch_forward<false>(job, precision, splits, stream))
    return e;
  return p.dtype == Dtype::f64 ? finish_disagreement<double>(p, job.partial, splits, stream)
                               : finish_disagreement<float>(p, job.partial, splits, stream);
}

cudaError_t backward_cuda(const BackwardParams& p, Precision precision, void* workspace, cudaStream_t stream) {
  switch (p.dtype) {
    case Dtype::bf16:
      return backward<TensorProduct<__nv_bfloat16>>(p, workspace, stream);
    case Dtype::f16:
      return backward<TensorProduct<__half>>(p, workspace, stream);
    case Dtype::f64:
      return backward<FmaProduct<double>>(p, workspace, stream);
    case Dtype::f32:
      return precision == Precision::tf32 ? backward<TensorProduct<float>>(p, workspace, stream)
                                          : backward<FmaProduct<float>>(p, workspace, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t grid_cuda(const GridParams& g, Precision precision, cudaStream_t stream) {
  if (g.num_queries == 0 || g.num_betas == 0) return cudaSuccess;
  if (!g.scores) return cudaErrorInvalidValue;
  ForwardParams p{};
  p.dtype = g.dtype;
  p.num_queries = g.num_queries;
  p.num_entries = g.num_entries;
  p.num_classes = g.num_classes;
  p.order = g.order;
  p.offsets = g.offsets;
  p.image = {g.queries, g.keys, {}, {}, g.width};
  p.scores = g.scores;
  const int64_t splits = forward_splits(p.num_queries, p.num_entries);
  const int64_t share = divide_up(divide_up(p.num_entries, kTile), splits) * kTile;
  const ForwardJob job{p, g.betas, g.num_betas, share, nullptr, aligned(p.image, p.dtype), false};
  if (cudaError_t e = launch_forward<false>(job, precision, splits, stream)) return e;
  if (!g.correct || g.num_alphas == 0) return cudaSuccess;
  return g.dtype == Dtype::f64 ? launch_accuracy<double>(g, stream) : launch_accuracy<float>(g, stream);
}

}  // namespace vlmadapt::cache_retrieval
