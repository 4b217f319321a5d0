// Walks over chunks: asks for products, launches what follows. See chunks.h for their size.
#include "cache_retrieval/launch.h"
#include "cache_retrieval_chunked/chunks.h"
#include "cache_retrieval_chunked/cuda.h"
#include "cache_retrieval_chunked/gradients.cuh"
#include "cache_retrieval_chunked/sums.cuh"

namespace vlmadapt::cache_retrieval {
namespace {

// Of a class, on average, from which its warps share one: a chunk of few classes has too few warps otherwise.
constexpr int64_t kEntriesToShare = 64;

const void* row_of(const void* matrix, int64_t row, int64_t width, Dtype dtype) {
  return moved(matrix, row * width * element_bytes(dtype));
}

Matrix keys_of(const Side& s, Dtype dtype, int64_t first, int64_t count) {
  return {row_of(s.keys, first, s.width, dtype), dtype, count, s.width};
}

Matrix queries_of(const Side& s, Dtype dtype, int64_t first, int64_t count) {
  return {row_of(s.queries, first, s.width, dtype), dtype, count, s.width};
}

Matrix transposed(Matrix m) { return {m.data, m.dtype, m.columns, m.rows, !m.transposed}; }

cudaError_t similarities(const Side& s, Dtype dtype, int64_t first_key, int64_t keys, int64_t first_query,
                         int64_t queries, void* out, Products& products) {
  if (keys == 0) return cudaSuccess;
  return products.multiply(keys_of(s, dtype, first_key, keys), transposed(queries_of(s, dtype, first_query, queries)),
                           out);
}

struct ForwardPlan {
  Chunks chunks;
  bool shared_class;
  int64_t class_blocks;       // each of which goes through classes that far apart
  int64_t image, text, gaps;  // where they begin in the workspace
  int64_t bytes;
};

ForwardPlan plan_of(const ForwardParams& p, const Limits& limits) {
  const int64_t bytes = accumulator_bytes(p.dtype);
  const bool two_streams = p.text.queries != nullptr, text_per_entry = two_streams && !p.text_per_class;
  const int64_t text_bytes = two_streams && p.text_per_class ? p.num_classes * bytes : 0;
  ForwardPlan plan{};
  plan.chunks = chunks_of(p.num_queries, p.num_entries, text_per_entry ? 2 * bytes : bytes, text_bytes, limits);
  plan.shared_class = p.num_entries >= kEntriesToShare * p.num_classes;
  plan.class_blocks = smaller(plan.shared_class ? p.num_classes : divide_up(p.num_classes, kWarps),
                              divide_up(limits.blocks, divide_up(plan.chunks.queries, kLanes)));
  const int64_t products = plan.chunks.keys * plan.chunks.queries * bytes;
  Layout layout;
  plan.image = layout.add(products);
  plan.text = layout.add(text_per_entry ? products : text_bytes * plan.chunks.queries);
  plan.gaps = layout.add(two_streams && p.disagreement ? plan.class_blocks * p.num_queries * bytes : 0);
  plan.bytes = layout.bytes();
  return plan;
}

template <class T, bool two_streams>
cudaError_t launch_sums(const SumsJob& job, int64_t class_blocks, cudaStream_t stream) {
  CUDA_LAUNCH((class_sums_kernel<T, two_streams>), grid_of(class_blocks, divide_up(job.queries, kLanes)),
              dim3(kLanes * kWarps), 0, stream, job);
  return cudaGetLastError();
}

template <class T, bool two_streams>
cudaError_t forward(const ForwardParams& p, void* workspace, Products& products, cudaStream_t stream,
                    const Limits& limits) {
  const ForwardPlan plan = plan_of(p, limits);
  void *image = moved(workspace, plan.image), *text = moved(workspace, plan.text);
  void* gaps = two_streams && p.disagreement ? moved(workspace, plan.gaps) : nullptr;
  for (int64_t query = 0; query < p.num_queries; query += plan.chunks.queries) {
    const int64_t queries = smaller(plan.chunks.queries, p.num_queries - query);
    if (two_streams && p.text_per_class)
      if (cudaError_t e = similarities(p.text, p.dtype, 0, p.num_classes, query, queries, text, products)) return e;
    int64_t key = 0;
    do {  // once without any keys: scores are written all the same
      const int64_t keys = smaller(plan.chunks.keys, p.num_entries - key);
      if (cudaError_t e = similarities(p.image, p.dtype, key, keys, query, queries, image, products)) return e;
      if (two_streams && !p.text_per_class)
        if (cudaError_t e = similarities(p.text, p.dtype, key, keys, query, queries, text, products)) return e;
      const SumsJob job{p, image, text, gaps, query, key, key + keys, static_cast<int>(queries), plan.shared_class};
      if (cudaError_t e = launch_sums<T, two_streams>(job, plan.class_blocks, stream)) return e;
      key += keys;
    } while (key < p.num_entries);
  }
  return finish_disagreement<T>(p, gaps, plan.class_blocks, stream);
}

struct BackwardPlan {
  Chunks chunks;
  int64_t row_sums, class_grads, products, high, low, part;  // where they begin in the workspace
  int64_t bytes;
};

BackwardPlan plan_of(const BackwardParams& p, const Limits& limits) {
  const int64_t bytes = accumulator_bytes(p.dtype), half = p.dtype == Dtype::bf16 ? 2 : 0;
  BackwardPlan plan{};
  plan.chunks = chunks_of(p.num_queries, p.num_keys, bytes + 2 * half, p.num_classes * bytes, limits);
  const auto [queries, keys] = plan.chunks;
  // A gradient of one product over all that is summed needs no part of its own.
  const bool one_part = !half && queries == p.num_queries && keys == p.num_keys;
  const int64_t rows = one_part ? 0 : queries > keys ? queries : keys;
  Layout layout;
  plan.row_sums = layout.add(p.grad_scale ? divide_up(p.num_keys, kKeysOfABlock) * 2 * p.num_queries * bytes : 0);
  plan.class_grads = layout.add(p.num_classes * queries * bytes);
  plan.products = layout.add(keys * queries * bytes);
  plan.high = layout.add(keys * queries * half);
  plan.low = layout.add(keys * queries * half);
  plan.part = layout.add(p.grad_queries || p.grad_keys ? rows * p.side.width * bytes : 0);
  plan.bytes = layout.bytes();
  return plan;
}

// out = left right, or out += left right by way of `part`.
template <class T>
cudaError_t accumulate(const Matrix& left, const Matrix& right, void* out, void* part, bool first, Products& products,
                       cudaStream_t stream) {
  if (right.columns == 0) return cudaSuccess;
  if (cudaError_t e = products.multiply(left, right, first ? out : part)) return e;
  if (first) return cudaSuccess;
  const int64_t count = left.rows * right.columns;
  CUDA_LAUNCH(add_kernel<T>, grid_of(clamp(divide_up(count, kLanes * kWarps), 1, 4096)), dim3(kLanes * kWarps), 0,
              stream, static_cast<const T*>(part), static_cast<T*>(out), count);
  return cudaGetLastError();
}

template <class T, bool split>
cudaError_t backward(const BackwardParams& p, void* workspace, Products& products, cudaStream_t stream,
                     const Limits& limits) {
  const BackwardPlan plan = plan_of(p, limits);
  const int64_t width = p.side.width, bytes = sizeof(T);
  void* row_sums = p.grad_scale ? moved(workspace, plan.row_sums) : nullptr;
  void *class_grads = moved(workspace, plan.class_grads), *part = moved(workspace, plan.part);
  void *high = moved(workspace, plan.high), *low = moved(workspace, plan.low);
  void* similar = moved(workspace, plan.products);
  const dim3 threads(kLanes * kWarps);
  for (int64_t query = 0; query < p.num_queries && p.num_keys > 0; query += plan.chunks.queries) {
    const int64_t queries = smaller(plan.chunks.queries, p.num_queries - query);
    const int64_t query_tiles = divide_up(queries, kLanes);
    CUDA_LAUNCH(transpose_kernel<T>, grid_of(divide_up(p.num_classes, kLanes), query_tiles), threads, 0, stream,
                static_cast<const T*>(p.grad_scores) + query * p.num_classes, static_cast<T*>(class_grads), queries,
                p.num_classes);
    if (cudaError_t e = cudaGetLastError()) return e;
    for (int64_t key = 0; key < p.num_keys; key += plan.chunks.keys) {
      const int64_t keys = smaller(plan.chunks.keys, p.num_keys - key);
      if (cudaError_t e = similarities(p.side, p.dtype, key, keys, query, queries, similar, products)) return e;
      const WeightsJob job{p,        similar, high, low,        class_grads,
                           row_sums, query,   key,  key + keys, static_cast<int>(queries)};
      CUDA_LAUNCH((weights_kernel<T, split>), grid_of(divide_up(keys, kKeysOfABlock), query_tiles), threads, 0, stream,
                  job);
      if (cudaError_t e = cudaGetLastError()) return e;
      // H, or the two that it is the sum of.
      const void* weights[] = {split ? high : similar, low};
      for (int i = 0; i < (split ? 2 : 1); ++i) {
        const Matrix h{weights[i], p.dtype, keys, queries};
        if (p.grad_keys)
          if (cudaError_t e =
                  accumulate<T>(h, queries_of(p.side, p.dtype, query, queries), moved(p.grad_keys, key * width * bytes),
                                part, query == 0 && i == 0, products, stream))
            return e;
        if (p.grad_queries)
          if (cudaError_t e = accumulate<T>(transposed(h), keys_of(p.side, p.dtype, key, keys),
                                            moved(p.grad_queries, query * width * bytes), part, key == 0 && i == 0,
                                            products, stream))
            return e;
      }
    }
  }
  if (p.num_keys == 0 && p.grad_queries)  // nothing on the other side: the gradient is zero
    if (cudaError_t e = cudaMemsetAsync(p.grad_queries, 0, p.num_queries * width * bytes, stream)) return e;
  if (p.num_queries == 0 && p.grad_keys)
    if (cudaError_t e = cudaMemsetAsync(p.grad_keys, 0, p.num_keys * width * bytes, stream)) return e;
  return launch_row_gradients<T>(p, row_sums, divide_up(p.num_keys, kKeysOfABlock), stream);
}

}  // namespace

int64_t forward_chunked_workspace(const ForwardParams& p, const Limits& limits) { return plan_of(p, limits).bytes; }

int64_t backward_chunked_workspace(const BackwardParams& p, const Limits& limits) { return plan_of(p, limits).bytes; }

cudaError_t forward_chunked(const ForwardParams& p, void* workspace, Products& products, cudaStream_t stream,
                            const Limits& limits) {
  const bool two_streams = p.text.queries != nullptr;
  if (p.dtype == Dtype::f64)
    return two_streams ? forward<double, true>(p, workspace, products, stream, limits)
                       : forward<double, false>(p, workspace, products, stream, limits);
  return two_streams ? forward<float, true>(p, workspace, products, stream, limits)
                     : forward<float, false>(p, workspace, products, stream, limits);
}

cudaError_t backward_chunked(const BackwardParams& p, void* workspace, Products& products, cudaStream_t stream,
                             const Limits& limits) {
  switch (p.dtype) {
    case Dtype::bf16:
      return backward<float, true>(p, workspace, products, stream, limits);
    case Dtype::f32:
      return backward<float, false>(p, workspace, products, stream, limits);
    case Dtype::f64:
      return backward<double, false>(p, workspace, products, stream, limits);
    case Dtype::f16:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace vlmadapt::cache_retrieval
