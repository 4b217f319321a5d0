// Gradients of p-Laplacian attention on a GPU, tiles recomputed from lse and row_sum (formulas in kernel.h).
//
// prepare_kernel gathers what belongs to a query. backward_kernel then runs twice with two owners: a block owns 32
// queries (or 32 keys) of a head and walks over the other side, 32 at a time; it forms the tiles of M a, of E and of
// grad s, and multiplies them by the other side's rows. The same thread adds to the same element every time: no
// atomics, a fixed order of summation. reduce_kernel adds the parts of grad_p and grad_pull in a fixed order.
#pragma once

#include "p_laplacian/cuda.h"
#include "p_laplacian/pair.cuh"
#include "p_laplacian/tile.cuh"

namespace vlmadapt::p_laplacian {

// What belongs to a query, one array each [batch * heads * num_queries], and grad_p of each block that owns queries.
template <class T>
struct Scratch {
  T *a, *own, *delta, *share, *away, *grad_p;

  __host__ __device__ Scratch(void* memory, int64_t rows) : a(static_cast<T*>(memory)) {
    own = a + rows;
    delta = own + rows;
    share = delta + rows;
    away = share + rows;
    grad_p = away + rows;
  }
};

template <class E>
__global__ void prepare_kernel(const BackwardParams params, void* workspace) {
  using T = Accumulator<E>;
  const Problem& p = params.problem;
  const int64_t rows = p.batch * p.heads * p.num_queries;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const Scratch<T> scratch(workspace, rows);
  const int64_t h = row / p.num_queries % p.heads;
  const T pull = static_cast<const T*>(p.pull)[h], total = static_cast<const T*>(params.row_sum)[row] + pull;
  const T a = total == T(0) ? T(0) : T(1) / total;
  const T* grad_out = static_cast<const T*>(params.grad_out) + row * p.features;
  const T* out = static_cast<const T*>(params.out) + row * p.features;
  const E* x = static_cast<const E*>(p.x_query) + row * p.features;
  T own = T(0), away = T(0);
  for (int64_t c = 0; c < p.features; ++c) {
    own += a * grad_out[c] * out[c];
    away += a * grad_out[c] * (out[c] - (p.residual ? widen(x[c]) : T(0)));
  }
  T delta = static_cast<const T*>(p.p)[h] / 2 * pull * away;
  if (p.from_scores && params.grad_lse) delta -= static_cast<const T*>(params.grad_lse)[row];
  if (params.with_context)
    for (int64_t c = 0; c < p.value_width; ++c)
      delta += static_cast<const T*>(params.grad_context)[row * p.value_width + c] *
               static_cast<const T*>(params.context)[row * p.value_width + c];
  scratch.a[row] = a;
  scratch.own[row] = own;
  scratch.delta[row] = delta;
  scratch.share[row] = total == T(0) ? T(1) : pull * a;
  scratch.away[row] = away;
}

template <class T>
constexpr int backward_shared_bytes() {
  return (6 * kArray + 4 * kTile) * static_cast<int>(sizeof(T));
}

// to[row, :] += sum_j e[row, j] (own[row, :] - other[j, :]) + constant.
template <class E, class T>
__device__ __forceinline__ void add_differences(T* to, const Work<T>& w, const T* e, const Matrix<E>& own,
                                                int64_t first_own, const Matrix<E>& other, int64_t first_other,
                                                T constant) {
  for (int64_t column = 0; column < own.width; column += kTile) {
    __syncthreads();
    load_chunk(w.right, other, first_other, column);
    __syncthreads();
    T sums[kShare], x[kShare];
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int64_t c = column + w.column(m);
      sums[m] = constant;
      x[m] =
          first_own + w.row < own.rows && c < own.width ? widen(own.data[(first_own + w.row) * own.width + c]) : T(0);
    }
#pragma unroll 4
    for (int j = 0; j < kTile; ++j) {
      const T factor = e[w.row * kStride + j];
#pragma unroll
      for (int m = 0; m < kShare; ++m) sums[m] += factor * (x[m] - w.right[j * kStride + w.column(m)]);
    }
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int64_t c = column + w.column(m);
      if (first_own + w.row < own.rows && c < own.width) to[(first_own + w.row) * own.width + c] += sums[m];
    }
  }
}

template <class T>
struct QueryTerms {
  T *lse, *a, *own, *delta;
};

// Every thread of a warp may call this; 32 queries from `first` on.
template <class T>
__device__ __forceinline__ void load_terms(const QueryTerms<T>& to, const BackwardParams& params,
                                           const Scratch<T>& scratch, int64_t head, int64_t first) {
  const Problem& p = params.problem;
  if (threadIdx.x >= kTile) return;
  const int64_t row = head * p.num_queries + first + threadIdx.x;
  const bool inside = first + threadIdx.x < p.num_queries;
  const T lse = inside && p.from_scores ? static_cast<const T*>(params.lse)[row] : T(0);
  to.lse[threadIdx.x] = lse == -infinity<T>() ? infinity<T>() : lse;  // fully masked: every exponential is zero
  to.a[threadIdx.x] = inside ? scratch.a[row] : T(0);
  to.own[threadIdx.x] = inside ? scratch.own[row] : T(0);
  to.delta[threadIdx.x] = inside ? scratch.delta[row] : T(0);
}

template <class E, bool from_scores, bool queries_own>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const BackwardParams params, void* workspace, int64_t tiles) {
  using T = Accumulator<E>;
  CUDA_DYN_SMEM(T, shared);
  const Problem& p = params.problem;
  T *weights = shared + 2 * kArray, *e_tile = weights + kArray, *grads = e_tile + kArray, *likely = grads + kArray;
  T* terms_memory = likely + kArray;
  const QueryTerms<T> terms{terms_memory, terms_memory + kTile, terms_memory + 2 * kTile, terms_memory + 3 * kTile};
  const Work<T> w{shared, shared + kArray, static_cast<int>(threadIdx.x) / 4, static_cast<int>(threadIdx.x) % 4};
  const int64_t head = blockIdx.x / tiles, first = blockIdx.x % tiles * kTile;
  const Scratch<T> scratch(workspace, p.batch * p.heads * p.num_queries);
  const Pairs<T> pairs(p, head);
  const T exponent = static_cast<const T*>(p.p)[head % p.heads];
  const Matrix<E> queries(p.query, head, p.num_queries, p.width), keys(p.key, head, p.num_keys, p.width);
  const Matrix<E> x_queries(p.x_query, head, p.num_queries, p.features);
  const Matrix<E> x_values(p.x_value, head, p.num_keys, p.features);
  const Matrix<E> values(p.value, head, p.num_keys, p.value_width);
  const Matrix<E> attention(p.attention, head, p.num_queries, p.num_keys);
  const Matrix<T> upstream(params.grad_out, head, p.num_queries, p.features);
  const Matrix<T> context_upstream(params.grad_context, head, p.num_queries, p.value_width);
  const int64_t num_own = queries_own ? p.num_queries : p.num_keys;
  const int64_t num_other = queries_own ? pairs.key_end : p.num_queries;
  const int64_t own_offset = head * num_own;
  T* grad_x = static_cast<T*>(queries_own ? params.grad_x_query : params.grad_x_value) + own_offset * p.features;
  T* grad_own = static_cast<T*>(queries_own ? params.grad_query : params.grad_key);
  T* grad_value = static_cast<T*>(params.grad_value);
  const bool want_own = from_scores && grad_own, want_value = !queries_own && params.with_context && grad_value;
  if (want_own) grad_own += own_offset * p.width;
  if (want_value) grad_value += own_offset * p.value_width;

  // The gradients before the first tile.
  for (int64_t c = w.quad; first + w.row < num_own && c < p.features; c += 4) {
    const int64_t row = first + w.row;
    T start = T(0);
    if (queries_own && p.residual) start = scratch.share[own_offset + row] * upstream.data[row * p.features + c];
    grad_x[row * p.features + c] = start;
  }
  for (int64_t c = w.quad; want_own && first + w.row < num_own && c < p.width; c += 4)
    grad_own[(first + w.row) * p.width + c] = T(0);
  for (int64_t c = w.quad; want_value && first + w.row < num_own && c < p.value_width; c += 4)
    grad_value[(first + w.row) * p.value_width + c] = T(0);

  if (queries_own) load_terms(terms, params, scratch, head, first);
  T grad_p = T(0);
  for (int64_t at = 0; at < num_other; at += kTile) {
    __syncthreads();  // the previous tile has been read
    if (!queries_own) load_terms(terms, params, scratch, head, at);
    const int64_t first_query = queries_own ? first : at, first_key = queries_own ? at : first;
    T score[kShare], squared[kShare], shift[kShare], pushed[kShare], context[kShare];
    if (from_scores) {
      if (queries_own)
        products(score, w, queries, first, keys, at);
      else
        products(score, w, keys, first, queries, at);
    } else {
      load_chunk(w.left, attention, first_query, first_key);
      __syncthreads();
#pragma unroll
      for (int m = 0; m < kShare; ++m) {
        const int column = w.column(m);
        score[m] = queries_own ? w.left[w.row * kStride + column] : w.left[column * kStride + w.row];
      }
    }
    if (queries_own) {
      distances<!from_scores>(squared, shift, w, x_queries, first, x_values, at);
      products(pushed, w, upstream, first, x_values, at);
    } else {
      distances<!from_scores>(squared, shift, w, x_values, first, x_queries, at);
      products(pushed, w, x_values, first, upstream, at);
    }
#pragma unroll
    for (int m = 0; m < kShare; ++m) context[m] = T(0);
    if (params.with_context) {
      if (queries_own)
        products(context, w, context_upstream, first, values, at);
      else
        products(context, w, values, first, context_upstream, at);
    }
    __syncthreads();  // the terms are there, whatever the widths
    T constant = T(0);
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int own_row = w.row, other_row = w.column(m);
      const int q = queries_own ? own_row : other_row;
      const int64_t query = first_query + q, key = first_key + (queries_own ? other_row : own_row);
      const bool exists = pairs.exists(query, key);
      T s = score[m];
      if (from_scores && exists) s = pairs.masked(s * static_cast<T>(p.scale), query, key);
      const Pair<T, from_scores> pair(p, exponent, exists, p.drop_diagonal && pairs.is_self(query, key), s, squared[m],
                                      queries_own ? shift[m] : -shift[m], pushed[m], context[m], terms.lse[q],
                                      terms.a[q], terms.own[q], terms.delta[q]);
      const int cell = own_row * kStride + other_row;
      weights[cell] = pair.weight * terms.a[q];
      e_tile[cell] = pair.e;
      grads[cell] = pair.grad;
      likely[cell] = pair.attention;
      grad_p += pair.grad_p;
      constant += pair.constant;
    }
    constant = row_sum(constant);
    __syncthreads();
    const T scale = static_cast<T>(p.scale);
    const auto add_scaled = [scale](T& to, T sum) { to += scale * sum; };
    const auto add = [](T& to, T sum) { to += sum; };
    if (queries_own) {
      if (want_own) add_weighted(grad_own, first, num_own, w, grads, keys, at, add_scaled);
      add_differences(grad_x, w, e_tile, x_queries, first, x_values, at, constant);
      if (!from_scores && params.grad_attention) {
        T* to = static_cast<T*>(params.grad_attention) + head * p.num_queries * p.num_keys;
        for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
          const int64_t row = first + i / kTile, column = at + i % kTile;
          if (row < p.num_queries && column < p.num_keys)
            to[row * p.num_keys + column] = grads[i / kTile * kStride + i % kTile];
        }
      }
    } else {
      if (want_own) add_weighted(grad_own, first, num_own, w, grads, queries, at, add_scaled);
      if (want_value) add_weighted(grad_value, first, num_own, w, likely, context_upstream, at, add);
      add_weighted(grad_x, first, num_own, w, weights, upstream, at, add);
      add_differences(grad_x, w, e_tile, x_values, first, x_queries, at, -constant);
    }
  }
  if (!queries_own) return;
  grad_p = block_sum(shared, grad_p);
  if (threadIdx.x == 0) scratch.grad_p[blockIdx.x] = grad_p;
}

// A block a head number: grad_p and grad_pull over the batch.
template <class T>
__global__ void __launch_bounds__(kThreads) reduce_kernel(const BackwardParams params, void* workspace, int64_t tiles) {
  CUDA_DYN_SMEM(T, shared);
  const Problem& p = params.problem;
  const Scratch<T> scratch(workspace, p.batch * p.heads * p.num_queries);
  T grad_p = T(0), grad_pull = T(0);
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t head = b * p.heads + blockIdx.x;
    for (int64_t i = threadIdx.x; i < tiles; i += kThreads) grad_p += scratch.grad_p[head * tiles + i];
    for (int64_t i = threadIdx.x; i < p.num_queries; i += kThreads) grad_pull -= scratch.away[head * p.num_queries + i];
  }
  grad_p = block_sum(shared, grad_p);
  grad_pull = block_sum(shared, grad_pull);
  if (threadIdx.x != 0) return;
  static_cast<T*>(params.grad_p)[blockIdx.x] = grad_p;
  static_cast<T*>(params.grad_pull)[blockIdx.x] = grad_pull;
}

}  // namespace vlmadapt::p_laplacian
