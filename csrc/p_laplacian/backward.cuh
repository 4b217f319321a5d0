// Gradients of p-Laplacian attention on a GPU, tiles recomputed from lse and row_sum (formulas in kernel.h).
//
// prepare_kernel gathers what belongs to a query. backward_kernel then runs twice with two owners: a block owns 64
// queries (or 64 keys; 32 of doubles) of a head and walks over the other side, 64 at a time; it forms the tiles of M a,
// of E and of grad s in registers, and multiplies them by the other side's rows, one tile after another by way of one
// shared array. The same thread adds to the same element every time: no atomics, a fixed order of summation.
// reduce_kernel adds the parts of grad_p and grad_pull in a fixed order. Few owners: the other side is cut into parts,
// a block each, the results are [parts, ..] and sum_kernel adds them up.
//
// Ladder: (1) 32 x 32 pairs a block, eight a thread, four shared tiles: nine shared loads for eight multiply-adds, and
// 32 columns whatever the width. (2) this.
#pragma once

#include "p_laplacian/cuda.h"
#include "p_laplacian/pair.cuh"
#include "p_laplacian/tensor_tile.cuh"

namespace vlmadapt::p_laplacian {

// What belongs to a query, one array each [batch * heads * num_queries], and grad_p of each block that owns queries:
// [batch * heads, tiles, parts].
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
struct QueryTerms {
  T *lse, *a, *own, *delta;

  __device__ explicit QueryTerms(T* memory) : lse(memory), a(lse + kOthers), own(a + kOthers), delta(own + kOthers) {}
};

// Every thread of a warp may call this; 64 queries from `first` on.
template <class T>
__device__ __forceinline__ void load_terms(const QueryTerms<T>& to, const BackwardParams& params,
                                           const Scratch<T>& scratch, int64_t head, int64_t first) {
  const Problem& p = params.problem;
  if (threadIdx.x >= kOthers) return;
  const int64_t row = head * p.num_queries + first + threadIdx.x;
  const bool inside = first + threadIdx.x < p.num_queries;
  const T lse = inside && p.from_scores ? static_cast<const T*>(params.lse)[row] : T(0);
  to.lse[threadIdx.x] = lse == -infinity<T>()
                            ? infinity<T>()
                            : static_cast<T>(kLog2OfE) * lse;  // fully masked: every exponential is zero
  to.a[threadIdx.x] = inside ? scratch.a[row] : T(0);
  to.own[threadIdx.x] = inside ? scratch.own[row] : T(0);
  to.delta[threadIdx.x] = inside ? scratch.delta[row] : T(0);
}

template <class T>
constexpr int backward_shared_bytes() {
  return forward_shared_bytes<T>(false) + 4 * kOthers * static_cast<int>(sizeof(T));
}

// to[row, c] = merge(row, to[row, c], sum over the other rows of pairs[row, other] (own[row, c] - other[c])).
template <class E, class T, class Merge>
__device__ __forceinline__ void add_differences(T* to, int64_t rows, const Block<T>& b, const T* pairs,
                                                const Matrix<E>& own, int64_t first_own, const Matrix<E>& other,
                                                int64_t first_other, bool there, const Merge& merge) {
  const auto load = [&](int64_t column, const Chunk& chunk) {
    load_rows<kOwned<T>>(b.own, own, first_own, column, chunk);
    load_rows<kOthers>(b.other, other, first_other, column, chunk);
  };
  weigh_rows<true>(to, rows, b, pairs, false, own.width, there, load, merge);
}

// The attention of a block's pairs, zero where there is none. Of keys that own, it goes by way of the arrays, which
// must be free, so that neighbouring threads read neighbouring keys.
template <bool queries_own, class E, class T>
__device__ __forceinline__ void load_attention(PairSums<T>& to, const Block<T>& b, const Matrix<E>& attention,
                                               int64_t first_query, int64_t first_key, const TileBounds& bounds) {
  if (!queries_own) {
    load_rows<kOthers>(b.other, attention, first_query, first_key, Chunk(attention.width, first_key));
    if (kOwned<T> > kChunk)
      load_rows<kOthers>(b.own, attention, first_query, first_key + kChunk, Chunk(attention.width, first_key + kChunk));
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kOwnedEach<T>; ++i) {
    const E* row = attention.data + (first_query + b.own_row(i)) * attention.width + first_key + b.lane;
    const T* staged = (kGroups * i < kChunk ? b.other : b.own) + b.own_row(i) % kChunk;
#pragma unroll
    for (int m = 0; m < kOthersEach; ++m) {
      const bool inside = queries_own ? b.own_row(i) < bounds.queries && b.other_row(m) < bounds.keys
                                      : b.own_row(i) < bounds.keys && b.other_row(m) < bounds.queries;
      to[i][m] = !inside ? T(0) : queries_own ? widen(row[kLanes * m]) : staged[b.other_row(m) * kChunkStride];
    }
  }
}

template <class E, bool from_scores, bool queries_own>
__global__ void __launch_bounds__(kThreads, 2)
    backward_kernel(const BackwardParams params, void* workspace, int64_t tiles, int64_t share) {
  using T = Accumulator<E>;
  constexpr int each = kOwnedEach<T>;
  CUDA_DYN_SMEM(T, shared);
  const Problem& p = params.problem;
  const Block<T> b(shared);
  const QueryTerms<T> terms(b.likely);
  const int64_t head = blockIdx.x / tiles, first = blockIdx.x % tiles * kOwned<T>;
  const Scratch<T> scratch(workspace, p.batch * p.heads * p.num_queries);
  const Pairs<T> pairs(p, head);
  const T exponent = static_cast<const T*>(p.p)[head % p.heads];
  const bool plain = exponent == T(2);  // then the distances only matter to grad_p
  const Matrix<E> queries(p.query, head, p.num_queries, p.width), keys(p.key, head, p.num_keys, p.width);
  const Matrix<E> x_queries(p.x_query, head, p.num_queries, p.features);
  const Matrix<E> x_values(p.x_value, head, p.num_keys, p.features);
  const Matrix<E> values(p.value, head, p.num_keys, p.value_width);
  const Matrix<E> attention(p.attention, head, p.num_queries, p.num_keys);
  const Matrix<T> upstream(params.grad_out, head, p.num_queries, p.features);
  const Matrix<T> context_upstream(params.grad_context, head, p.num_queries, p.value_width);
  const int64_t num_own = queries_own ? p.num_queries : p.num_keys;
  const int rows = num_own - first < kOwned<T> ? static_cast<int>(num_own - first) : kOwned<T>;
  const int64_t num_other = queries_own ? pairs.key_end : p.num_queries;
  const int64_t end = (blockIdx.y + 1) * share < num_other ? (blockIdx.y + 1) * share : num_other;
  const int64_t own_offset = (blockIdx.y * (p.batch * p.heads) + head) * num_own + first;
  T* grad_x = static_cast<T*>(queries_own ? params.grad_x_query : params.grad_x_value) + own_offset * p.features;
  T* grad_own = static_cast<T*>(queries_own ? params.grad_query : params.grad_key);
  T* grad_value = static_cast<T*>(params.grad_value);
  const bool want_own = from_scores && grad_own, want_value = !queries_own && params.with_context && grad_value;
  if (want_own) grad_own += own_offset * p.width;
  if (want_value) grad_value += own_offset * p.value_width;

  // The gradients before the first tile.
  for (int64_t i = threadIdx.x; i < rows * p.features; i += kThreads) {
    T start = T(0);
    if (queries_own && p.residual && blockIdx.y == 0)
      start = scratch.share[own_offset + i / p.features] * upstream.data[first * p.features + i];
    grad_x[i] = start;
  }
  for (int64_t i = threadIdx.x; want_own && i < rows * p.width; i += kThreads) grad_own[i] = T(0);
  for (int64_t i = threadIdx.x; want_value && i < rows * p.value_width; i += kThreads) grad_value[i] = T(0);

  if (queries_own) load_terms(terms, params, scratch, head, first);
  T grad_p = T(0);
  for (int64_t at = blockIdx.y * share; at < end; at += kOthers) {
    __syncthreads();  // the previous tile has been read
    if (!queries_own) load_terms(terms, params, scratch, head, at);
    const int64_t first_query = queries_own ? first : at, first_key = queries_own ? at : first;
    const TileBounds bounds(queries_own ? p.num_queries - first : end - at,
                            queries_own ? end - at : pairs.key_end - first, first_query + pairs.offset - first_key);
    PairSums<T> score, squared, shift, pushed, context;
    if constexpr (!from_scores)
      load_attention<queries_own>(score, b, attention, first_query, first_key, bounds);
    else if constexpr (queries_own)
      products(score, b, queries, first, keys, at);
    else
      products(score, b, keys, first, queries, at);
    __syncthreads();
    if constexpr (queries_own)
      products(pushed, b, upstream, first, x_values, at);
    else
      products(pushed, b, x_values, first, upstream, at);
    __syncthreads();
    set_zero<T>(context);
    if (params.with_context) {
      if constexpr (queries_own)
        products(context, b, context_upstream, first, values, at);
      else
        products(context, b, values, first, context_upstream, at);
      __syncthreads();
    }
    if constexpr (queries_own)
      pair_distances<!from_scores>(squared, shift, b, x_queries, first, x_values, at);
    else
      pair_distances<!from_scores>(squared, shift, b, x_values, first, x_queries, at);

#pragma unroll
    for (int i = 0; i < each; ++i) {
      T constant = T(0);
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) {
        const int query = queries_own ? b.own_row(i) : b.other_row(m),
                  key = queries_own ? b.other_row(m) : b.own_row(i);
        const bool exists = query < bounds.queries && key < bounds.keys && !(p.causal && key > query + bounds.self);
        T s = score[i][m];
        if (from_scores && exists)
          s = pairs.masked(s * static_cast<T>(p.scale * kLog2OfE), first_query + query, first_key + key,
                           static_cast<T>(kLog2OfE));
        const Pair<T, from_scores> pair(p, exponent, exists, p.drop_diagonal && key == query + bounds.self, s,
                                        squared[i][m], queries_own ? shift[i][m] : -shift[i][m], pushed[i][m],
                                        context[i][m], terms.lse[query], terms.a[query], terms.own[query],
                                        terms.delta[query]);
        score[i][m] = pair.grad;
        squared[i][m] = pair.e;
        pushed[i][m] = pair.weight * terms.a[query];
        context[i][m] = pair.attention;
        grad_p += pair.grad_p;
        constant += queries_own ? pair.constant : -pair.constant;
      }
      if (!from_scores && p.released) {
        constant = lanes_sum(constant);
        if (b.lane == 0) b.keep_w[b.own_row(i)] = constant;
      }
    }

    if (queries_own && !from_scores && params.grad_attention) {
      T* to = static_cast<T*>(params.grad_attention) + ((head * p.num_queries + first) * p.num_keys + at);
#pragma unroll
      for (int i = 0; i < each; ++i)
#pragma unroll
        for (int m = 0; m < kOthersEach; ++m)
          if (b.own_row(i) < bounds.queries && b.other_row(m) < bounds.keys)
            to[b.own_row(i) * p.num_keys + b.other_row(m)] = score[i][m];
    }
    const T scale = static_cast<T>(p.scale);
    const auto add = [](int, T old, T sum) { return old + sum; };
    const auto add_scaled = [scale](int, T old, T sum) { return old + scale * sum; };
    // After the distances, either side's last chunk is still in shared memory.
    if (!plain) {
      const bool constants = !from_scores && p.released;
      const auto add_constant = [&](int row, T old, T sum) { return old + (constants ? sum + b.keep_w[row] : sum); };
      store_pairs(b.pairs, b, squared);
      if constexpr (queries_own)
        add_differences(grad_x, rows, b, b.pairs, x_queries, first, x_values, at, true, add_constant);
      else
        add_differences(grad_x, rows, b, b.pairs, x_values, first, x_queries, at, true, add_constant);
      __syncthreads();
    }
    if constexpr (!queries_own) {
      store_pairs(b.pairs, b, pushed);
      add_rows(grad_x, rows, b, b.pairs, false, upstream, at, false, add);
    }
    if (want_value) {
      __syncthreads();
      store_pairs(b.pairs, b, context);
      add_rows(grad_value, rows, b, b.pairs, false, context_upstream, at, false, add);
    }
    if (want_own) {
      __syncthreads();
      store_pairs(b.pairs, b, score);
      add_rows(grad_own, rows, b, b.pairs, false, queries_own ? keys : queries, at, false, add_scaled);
    }
  }
  if (!queries_own) return;
  grad_p = block_sum(shared, grad_p) * static_cast<T>(kLogOf2 / 2);
  if (threadIdx.x == 0) scratch.grad_p[blockIdx.x * gridDim.y + blockIdx.y] = grad_p;
}

// Of one or several results: to = sum over the parts of from [parts, count].
struct PartialResult {
  const void* from;
  void* to;
  int64_t count;
};

template <class T>
__global__ void sum_kernel(PartialResult first, PartialResult second, PartialResult third, int64_t parts) {
  const PartialResult& result = blockIdx.y == 0 ? first : blockIdx.y == 1 ? second : third;
  const T* from = static_cast<const T*>(result.from);
  T* to = static_cast<T*>(result.to);
  const int64_t count = result.count, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    T sum = T(0);
#pragma unroll 4
    for (int64_t part = 0; part < parts; ++part) sum += from[part * count + i];
    to[i] = sum;
  }
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
