// Column sums of attention on a GPU. A block owns 64 queries or 64 keys (32 of doubles) of a head and walks over the
// other side, 64 at a time, with the tiles of p_laplacian: scores are computed anew for each of the two owners, and
// nothing but one number a query is stored in between.
//
//   lse_kernel      owns queries: a running maximum and sum give lse
//   sums_kernel     owns keys: sums[j] = sum_i exp(s - lse)
//   mean_kernel     owns queries: mean[i] = sum_k A[i, k] g[k]
//   gradient_kernel owns queries, then keys: A (g - mean) times the other side's rows
//
// Exponents are counted in powers of two. Every element has one thread that adds to it: no atomics, a fixed order of
// summation.
#pragma once

#include "attention_column_sums/cuda.h"
#include "p_laplacian/tensor_tile.cuh"

namespace vlmadapt::attention_column_sums {

using p_laplacian::Accumulator;
using p_laplacian::add_rows;
using p_laplacian::Block;
using p_laplacian::infinity;
using p_laplacian::kLog2OfE;
using p_laplacian::kLogOf2;
using p_laplacian::kOthers;
using p_laplacian::kOthersEach;
using p_laplacian::kOwned;
using p_laplacian::kOwnedEach;
using p_laplacian::kThreads;
using p_laplacian::lanes_max;
using p_laplacian::lanes_sum;
using p_laplacian::logarithm;
using p_laplacian::Matrix;
using p_laplacian::Pairs;
using p_laplacian::PairSums;
using p_laplacian::power_of_two;
using p_laplacian::products;
using p_laplacian::store_pairs;
using p_laplacian::TileBounds;

// The tiles, and 64 numbers of queries.
template <class T>
constexpr int shared_bytes() {
  return p_laplacian::forward_shared_bytes<T>(false) + kOthers * static_cast<int>(sizeof(T));
}

// What a block of any kernel here begins with.
template <class E, bool queries_own>
struct Owner {
  using T = Accumulator<E>;
  static constexpr int each = kOwnedEach<T>;
  const Block<T> b;
  const int64_t head, first;
  const Pairs<T> pairs;
  const Matrix<E> queries, keys;
  const T unit;  // scores are in units of log 2

  __device__ Owner(const AttentionScores& p, T* shared, int64_t tiles)
      : b(shared),
        head(blockIdx.x / tiles),
        first(blockIdx.x % tiles * kOwned<T>),
        pairs(p, head),
        queries(p.query, head, p.num_queries, p.width),
        keys(p.key, head, p.num_keys, p.width),
        unit(static_cast<T>(p.scale * kLog2OfE)) {}

  __device__ int64_t row(int i) const { return first + b.own_row(i); }
  __device__ int64_t num_other() const { return queries_own ? pairs.key_end : queries.rows; }
  __device__ T* bases() const { return b.likely; }

  // The masked scores of the owned rows with the rows of the other side from `at` on, minus infinity for no pair.
  // Begins with a barrier, and ends with the shared arrays in use.
  __device__ void scores(PairSums<T>& score, int64_t at) const {
    __syncthreads();  // the previous tile has been read
    products(score, b, queries_own ? queries : keys, first, queries_own ? keys : queries, at);
    const int64_t first_query = queries_own ? first : at, first_key = queries_own ? at : first;
    const TileBounds bounds(queries.rows - first_query, pairs.key_end - first_key,
                            first_query + pairs.offset - first_key);
#pragma unroll
    for (int i = 0; i < each; ++i)
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) {
        const int query = queries_own ? b.own_row(i) : b.other_row(m);
        const int key = queries_own ? b.other_row(m) : b.own_row(i);
        const bool exists =
            query < bounds.queries && key < bounds.keys && !(pairs.p.causal && key > query + bounds.self);
        score[i][m] =
            exists ? pairs.masked(score[i][m] * unit, first_query + query, first_key + key, static_cast<T>(kLog2OfE))
                   : -infinity<T>();
      }
  }
};

// The log-sum-exp of a query as an exponent's base: of one that sees no key, every exponential is zero.
template <class T>
__device__ __forceinline__ T base_of(const void* lse, int64_t row) {
  const T x = static_cast<const T*>(lse)[row];
  return x == -infinity<T>() ? infinity<T>() : x * static_cast<T>(kLog2OfE);
}

template <class E>
__global__ void __launch_bounds__(kThreads, 2) lse_kernel(const ForwardParams params, int64_t tiles) {
  using T = Accumulator<E>;
  constexpr int each = kOwnedEach<T>;
  CUDA_DYN_SMEM(T, shared);
  const Owner<E, true> own(params.scores, shared, tiles);
  T most[each], sum[each];  // the sums are this thread's own
#pragma unroll
  for (int i = 0; i < each; ++i) {
    most[i] = -infinity<T>();
    sum[i] = T(0);
  }
  for (int64_t at = 0; at < own.num_other(); at += kOthers) {
    PairSums<T> score;
    own.scores(score, at);
#pragma unroll
    for (int i = 0; i < each; ++i) {
      T top = most[i];
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) top = score[i][m] > top ? score[i][m] : top;
      top = lanes_max(top);
      const T base = top == -infinity<T>() ? T(0) : top;  // nothing seen yet: any base does
      sum[i] *= power_of_two(most[i] - base);
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) sum[i] += power_of_two(score[i][m] - base);
      most[i] = top;
    }
  }
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const T total = lanes_sum(sum[i]);
    if (own.b.lane != 0 || own.row(i) >= own.queries.rows) continue;
    const T size = total > T(0) || total != total ? logarithm(total) : -infinity<T>();
    static_cast<T*>(params.lse)[own.head * own.queries.rows + own.row(i)] = most[i] * static_cast<T>(kLogOf2) + size;
  }
}

// Of 64 queries from `at` on; a barrier must come before and after.
template <class T>
__device__ __forceinline__ void load_bases(T* bases, const void* lse, int64_t head, int64_t num_queries, int64_t at) {
  if (threadIdx.x >= kOthers) return;
  const int64_t query = at + threadIdx.x;
  bases[threadIdx.x] = query < num_queries ? base_of<T>(lse, head * num_queries + query) : infinity<T>();
}

template <class E>
__global__ void __launch_bounds__(kThreads, 2) sums_kernel(const ForwardParams params, int64_t tiles) {
  using T = Accumulator<E>;
  constexpr int each = kOwnedEach<T>;
  CUDA_DYN_SMEM(T, shared);
  const Owner<E, false> own(params.scores, shared, tiles);
  T sum[each] = {};
  for (int64_t at = 0; at < own.num_other(); at += kOthers) {
    PairSums<T> score;
    own.scores(score, at);
    load_bases(own.bases(), params.lse, own.head, own.queries.rows, at);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < each; ++i)
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) sum[i] += power_of_two(score[i][m] - own.bases()[own.b.other_row(m)]);
  }
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const T total = lanes_sum(sum[i]);
    if (own.b.lane == 0 && own.row(i) < own.keys.rows)
      static_cast<T*>(params.sums)[own.head * own.keys.rows + own.row(i)] = total;
  }
}

// mean [batch, heads, num_queries].
template <class E>
__global__ void __launch_bounds__(kThreads, 2) mean_kernel(const BackwardParams params, void* mean, int64_t tiles) {
  using T = Accumulator<E>;
  constexpr int each = kOwnedEach<T>;
  CUDA_DYN_SMEM(T, shared);
  const Owner<E, true> own(params.scores, shared, tiles);
  const T* upstream = static_cast<const T*>(params.grad_sums) + own.head * own.keys.rows;
  load_bases(own.bases(), params.lse, own.head, own.queries.rows, own.first);
  T sum[each] = {};
  for (int64_t at = 0; at < own.num_other(); at += kOthers) {
    PairSums<T> score;
    own.scores(score, at);
#pragma unroll
    for (int m = 0; m < kOthersEach; ++m) {
      const int64_t key = at + own.b.other_row(m);
      const T of_key = key < own.keys.rows ? upstream[key] : T(0);
#pragma unroll
      for (int i = 0; i < each; ++i) sum[i] += power_of_two(score[i][m] - own.bases()[own.b.own_row(i)]) * of_key;
    }
  }
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const T total = lanes_sum(sum[i]);
    if (own.b.lane == 0 && own.row(i) < own.queries.rows)
      static_cast<T*>(mean)[own.head * own.queries.rows + own.row(i)] = total;
  }
}

template <class E, bool queries_own>
__global__ void __launch_bounds__(kThreads, 2)
    gradient_kernel(const BackwardParams params, const void* mean, int64_t tiles) {
  using T = Accumulator<E>;
  constexpr int each = kOwnedEach<T>;
  CUDA_DYN_SMEM(T, shared);
  const Owner<E, queries_own> own(params.scores, shared, tiles);
  const Block<T>& b = own.b;
  const int64_t num_queries = own.queries.rows, num_keys = own.keys.rows, width = own.queries.width;
  const int64_t num_own = queries_own ? num_queries : num_keys, rows = num_own - own.first;
  const T* upstream = static_cast<const T*>(params.grad_sums) + own.head * num_keys;
  const T* means = static_cast<const T*>(mean) + own.head * num_queries;
  T* to = static_cast<T*>(queries_own ? params.grad_query : params.grad_key);
  to += (own.head * num_own + own.first) * width;
  const int64_t owned = rows < kOwned<T> ? rows : kOwned<T>;
  for (int64_t i = threadIdx.x; i < owned * width; i += kThreads) to[i] = T(0);
  for (int64_t at = 0; at < own.num_other(); at += kOthers) {
    PairSums<T> score;
    own.scores(score, at);
    load_bases(own.bases(), params.lse, own.head, num_queries, queries_own ? own.first : at);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < each; ++i)
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) {
        const int64_t other = at + b.other_row(m), query = queries_own ? own.row(i) : other;
        const int64_t key = queries_own ? other : own.row(i);
        const T a = power_of_two(score[i][m] - own.bases()[queries_own ? b.own_row(i) : b.other_row(m)]);
        const bool inside = query < num_queries && key < num_keys;
        score[i][m] = inside ? a * (upstream[key] - means[query]) : T(0);
      }
    store_pairs(b.pairs, b, score);
    const T scale = static_cast<T>(own.pairs.p.scale);
    add_rows(to, rows, b, b.pairs, false, queries_own ? own.keys : own.queries, at, false,
             [scale](int, T old, T sum) { return old + scale * sum; });
  }
}

}  // namespace vlmadapt::attention_column_sums
