// Chooses splits and instantiations for the kernel of dense.cuh, and launches it.
#include "cache_retrieval/launch.h"
#include "cache_retrieval_dense/cuda.h"
#include "cache_retrieval_dense/dense.cuh"

namespace vlmadapt::cache_retrieval {
namespace {

bool upstream_aligned(const BackwardParams& p) {
  const Side values{p.values, p.values, {}, {}, p.num_classes};
  const Side grads{p.grad_scores, p.grad_scores, {}, {}, p.num_classes};
  return aligned(values, p.dtype) && aligned(grads, p.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32);
}

// out [owners, width]: in parts, and then their sum, where the other side is split. `parts` is memory for them.
template <class Product, bool queries_own, bool upstream>
cudaError_t launch_dense(const BackwardParams& p, void* out, int64_t width, void* row_sums, void* parts,
                         cudaStream_t stream) {
  using T = typename Product::Accumulator;
  constexpr int shared = dense_shared_bytes<Product>();
  if (cudaError_t e = allow_shared_memory(dense_kernel<Product, queries_own, upstream>, shared)) return e;
  const int64_t owners = queries_own ? p.num_queries : p.num_keys, others = queries_own ? p.num_keys : p.num_queries;
  if (owners == 0) return cudaSuccess;
  const int64_t splits = backward_splits(owners, others, out ? width : 0, p.dtype);
  void* target = out && splits > 1 ? parts : out;
  const DenseJob job{p,
                     target,
                     row_sums,
                     width,
                     divide_up(divide_up(others, kTile), splits),
                     aligned(p.side, p.dtype),
                     upstream_aligned(p)};
  const dim3 grid = grid_of(divide_up(owners, kTile), splits);
  CUDA_LAUNCH((dense_kernel<Product, queries_own, upstream>), grid, dim3(kThreads), shared, stream, job);
  if (cudaError_t e = cudaGetLastError()) return e;
  return target == out ? cudaSuccess : launch_sum<T>(target, out, owners * width, splits, stream);
}

template <class Product>
cudaError_t dense_backward(const BackwardParams& p, void* workspace, cudaStream_t stream) {
  using T = typename Product::Accumulator;
  void *row_sums = p.grad_scale ? workspace : nullptr, *parts = static_cast<char*>(workspace) + row_sum_bytes(p);
  if (p.grad_queries || p.grad_scale) {
    if (cudaError_t e = launch_dense<Product, true, true>(p, p.grad_queries, p.side.width, row_sums, parts, stream))
      return e;
    if (cudaError_t e = launch_row_gradients<T>(p, row_sums, query_splits(p), stream)) return e;
  }
  if (p.grad_keys)
    if (cudaError_t e = launch_dense<Product, false, true>(p, p.grad_keys, p.side.width, nullptr, parts, stream))
      return e;
  return p.grad_values ? launch_dense<Product, false, false>(p, p.grad_values, p.num_classes, nullptr, parts, stream)
                       : cudaSuccess;
}

BackwardParams as_backward(const DenseForwardParams& p) {
  BackwardParams b{};
  b.dtype = p.dtype;
  b.num_queries = p.num_queries;
  b.num_keys = p.num_keys;
  b.num_classes = p.num_classes;
  b.dense = true;
  b.values = p.values;
  b.own_key = p.own_key;
  b.side = p.side;
  return b;
}

int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace

int64_t dense_forward_workspace(const DenseForwardParams& p) {
  return split_bytes(p.num_queries, p.num_keys, p.num_classes, p.dtype);
}

int64_t dense_backward_workspace(const BackwardParams& p) {
  const int64_t queries = p.grad_queries ? split_bytes(p.num_queries, p.num_keys, p.side.width, p.dtype) : 0;
  const int64_t keys = p.grad_keys ? split_bytes(p.num_keys, p.num_queries, p.side.width, p.dtype) : 0;
  const int64_t values = p.grad_values ? split_bytes(p.num_keys, p.num_queries, p.num_classes, p.dtype) : 0;
  return row_sum_bytes(p) + larger(queries, larger(keys, values));
}

cudaError_t dense_forward_cuda(const DenseForwardParams& params, Precision precision, void* workspace,
                               cudaStream_t stream) {
  const BackwardParams p = as_backward(params);
  void *out = params.scores, *parts = workspace;
  switch (p.dtype) {
    case Dtype::bf16:
      return launch_dense<TensorProduct<__nv_bfloat16>, true, false>(p, out, p.num_classes, nullptr, parts, stream);
    case Dtype::f16:
      return launch_dense<TensorProduct<__half>, true, false>(p, out, p.num_classes, nullptr, parts, stream);
    case Dtype::f64:
      return launch_dense<FmaProduct<double>, true, false>(p, out, p.num_classes, nullptr, parts, stream);
    case Dtype::f32:
      return precision == Precision::tf32
                 ? launch_dense<TensorProduct<float>, true, false>(p, out, p.num_classes, nullptr, parts, stream)
                 : launch_dense<FmaProduct<float>, true, false>(p, out, p.num_classes, nullptr, parts, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t dense_backward_cuda(const BackwardParams& p, Precision precision, void* workspace, cudaStream_t stream) {
  switch (p.dtype) {
    case Dtype::bf16:
      return dense_backward<TensorProduct<__nv_bfloat16>>(p, workspace, stream);
    case Dtype::f16:
      return dense_backward<TensorProduct<__half>>(p, workspace, stream);
    case Dtype::f64:
      return dense_backward<FmaProduct<double>>(p, workspace, stream);
    case Dtype::f32:
      return precision == Precision::tf32 ? dense_backward<TensorProduct<float>>(p, workspace, stream)
                                          : dense_backward<FmaProduct<float>>(p, workspace, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vlmadapt::cache_retrieval
