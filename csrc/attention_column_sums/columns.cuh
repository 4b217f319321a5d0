// Column sums of attention on a GPU. A block owns 32 queries or 32 keys of a head and walks over the other side, 32 at
// a time: scores are computed anew for each of the two owners, and nothing but one number a query is stored in between.
//
//   lse_kernel      owns queries: a running maximum and sum give lse
//   sums_kernel     owns keys: sums[j] = sum_i exp(s - lse)
//   mean_kernel     owns queries: mean[i] = sum_k A[i, k] g[k]
//   gradient_kernel owns queries, then keys: A (g - mean) times the other side's rows
//
// Every element has one thread that adds to it: no atomics, a fixed order of summation.
#pragma once

#include "attention_column_sums/cuda.h"
#include "attention_column_sums/tile.cuh"

namespace vlmadapt::attention_column_sums {

using p_laplacian::Accumulator;
using p_laplacian::exponential;
using p_laplacian::infinity;
using p_laplacian::logarithm;
using p_laplacian::Pairs;

template <class T, int arrays>
constexpr int shared_bytes() {
  return (arrays * kArray + kTile) * static_cast<int>(sizeof(T));
}

// What a block of any kernel here begins with.
template <class E, bool queries_own>
struct Owner {
  using T = Accumulator<E>;
  const Work<T> w;
  const int64_t head, first;
  const Pairs<T> pairs;
  const Matrix<E> queries, keys;
  const T scale;

  __device__ Owner(const AttentionScores& p, T* shared, int64_t tiles)
      : w{shared, shared + kArray, static_cast<int>(threadIdx.x) / 4, static_cast<int>(threadIdx.x) % 4},
        head(blockIdx.x / tiles),
        first(blockIdx.x % tiles * kTile),
        pairs(p, head),
        queries(p.query, head, p.num_queries, p.width),
        keys(p.key, head, p.num_keys, p.width),
        scale(static_cast<T>(p.scale)) {}

  __device__ int64_t row() const { return first + w.row; }
  __device__ int64_t num_other() const { return queries_own ? pairs.key_end : queries.rows; }

  // The masked scores of the owned row with the rows of the other side from `at` on, minus infinity for no pair. Ends
  // with the shared arrays in use.
  __device__ void scores(T (&score)[kShare], int64_t at) const {
    products(score, w, queries_own ? queries : keys, first, queries_own ? keys : queries, at);
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int64_t other = at + w.column(m), query = queries_own ? row() : other, key = queries_own ? other : row();
      score[m] = exists(query, key) ? pairs.masked(score[m] * scale, query, key, T(1)) : -infinity<T>();
    }
  }

  __device__ bool exists(int64_t query, int64_t key) const {
    return query < queries.rows && key < pairs.key_end && !(pairs.p.causal && key > query + pairs.offset);
  }
};

// The log-sum-exp of a query as an exponent's base: of one that sees no key, every exponential is zero.
template <class T>
__device__ __forceinline__ T base_of(const void* lse, int64_t row) {
  const T x = static_cast<const T*>(lse)[row];
  return x == -infinity<T>() ? infinity<T>() : x;
}

template <class E>
__global__ void __launch_bounds__(kThreads, 1) lse_kernel(const ForwardParams params, int64_t tiles) {
  using T = Accumulator<E>;
  CUDA_DYN_SMEM(T, shared);
  const Owner<E, true> own(params.scores, shared, tiles);
  T most = -infinity<T>(), sum = T(0);
  for (int64_t at = 0; at < own.num_other(); at += kTile) {
    T score[kShare];
    own.scores(score, at);
    T top = most;
#pragma unroll
    for (int m = 0; m < kShare; ++m) top = score[m] > top ? score[m] : top;
    top = row_max(top);
    const T base = top == -infinity<T>() ? T(0) : top;  // nothing seen yet: any base does
    T tile = T(0);
#pragma unroll
    for (int m = 0; m < kShare; ++m) tile += exponential(score[m] - base);
    sum = sum * exponential(most - base) + row_sum(tile);
    most = top;
  }
  if (own.w.quad != 0 || own.row() >= own.queries.rows) return;
  const T size = sum > T(0) || sum != sum ? logarithm(sum) : -infinity<T>();
  static_cast<T*>(params.lse)[own.head * own.queries.rows + own.row()] = most + size;
}

// Of 32 queries from `at` on; a barrier must come before and after.
template <class T>
__device__ __forceinline__ void load_bases(T* bases, const void* lse, int64_t head, int64_t num_queries, int64_t at) {
  if (threadIdx.x >= kTile) return;
  const int64_t query = at + threadIdx.x;
  bases[threadIdx.x] = query < num_queries ? base_of<T>(lse, head * num_queries + query) : infinity<T>();
}

template <class E>
__global__ void __launch_bounds__(kThreads, 1) sums_kernel(const ForwardParams params, int64_t tiles) {
  using T = Accumulator<E>;
  CUDA_DYN_SMEM(T, shared);
  const Owner<E, false> own(params.scores, shared, tiles);
  T* bases = shared + 2 * kArray;
  T sum = T(0);
  for (int64_t at = 0; at < own.num_other(); at += kTile) {
    T score[kShare];
    __syncthreads();  // the previous bases have been read
    load_bases(bases, params.lse, own.head, own.queries.rows, at);
    own.scores(score, at);
    __syncthreads();  // the bases are there, whatever the width
    T tile = T(0);
#pragma unroll
    for (int m = 0; m < kShare; ++m) tile += exponential(score[m] - bases[own.w.column(m)]);
    sum += row_sum(tile);
  }
  if (own.w.quad == 0 && own.row() < own.keys.rows)
    static_cast<T*>(params.sums)[own.head * own.keys.rows + own.row()] = sum;
}

// mean [batch, heads, num_queries].
template <class E>
__global__ void __launch_bounds__(kThreads, 1) mean_kernel(const BackwardParams params, void* mean, int64_t tiles) {
  using T = Accumulator<E>;
  CUDA_DYN_SMEM(T, shared);
  const Owner<E, true> own(params.scores, shared, tiles);
  const T* upstream = static_cast<const T*>(params.grad_sums) + own.head * own.keys.rows;
  const bool inside = own.row() < own.queries.rows;
  const int64_t place = own.head * own.queries.rows + own.row();
  const T base = inside ? base_of<T>(params.lse, place) : infinity<T>();
  T sum = T(0);
  for (int64_t at = 0; at < own.num_other(); at += kTile) {
    T score[kShare], tile = T(0);
    own.scores(score, at);
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int64_t key = at + own.w.column(m);
      if (key < own.keys.rows) tile += exponential(score[m] - base) * upstream[key];
    }
    sum += row_sum(tile);
  }
  if (own.w.quad == 0 && inside) static_cast<T*>(mean)[place] = sum;
}

template <class E, bool queries_own>
__global__ void __launch_bounds__(kThreads, 1)
    gradient_kernel(const BackwardParams params, const void* mean, int64_t tiles) {
  using T = Accumulator<E>;
  CUDA_DYN_SMEM(T, shared);
  const Owner<E, queries_own> own(params.scores, shared, tiles);
  const Work<T>& w = own.w;
  const int64_t num_queries = own.queries.rows, num_keys = own.keys.rows, width = own.queries.width;
  const int64_t num_own = queries_own ? num_queries : num_keys;
  T* grads = shared + 2 * kArray;
  T* bases = grads + kArray;
  const T* upstream = static_cast<const T*>(params.grad_sums) + own.head * num_keys;
  const T* means = static_cast<const T*>(mean) + own.head * num_queries;
  T* to = static_cast<T*>(queries_own ? params.grad_query : params.grad_key) + own.head * num_own * width;
  for (int64_t c = w.quad; own.row() < num_own && c < width; c += 4) to[own.row() * width + c] = T(0);
  for (int64_t at = 0; at < own.num_other(); at += kTile) {
    T score[kShare];
    __syncthreads();  // the previous tile has been read
    load_bases(bases, params.lse, own.head, num_queries, queries_own ? own.first : at);
    own.scores(score, at);
    __syncthreads();  // the bases are there, whatever the width
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int64_t other = at + w.column(m), query = queries_own ? own.row() : other;
      const int64_t key = queries_own ? other : own.row();
      const T a = exponential(score[m] - bases[queries_own ? w.row : w.column(m)]);
      const bool inside = query < num_queries && key < num_keys;
      grads[w.row * kStride + w.column(m)] = inside ? a * (upstream[key] - means[query]) : T(0);
    }
    const T scale = own.scale;
    add_weighted(to, own.first, num_own, w, grads, queries_own ? own.keys : own.queries, at,
                 [scale](T& target, T sum) { target += scale * sum; });
  }
}

}  // namespace vlmadapt::attention_column_sums
