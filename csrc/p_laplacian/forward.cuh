// p-Laplacian attention on a GPU: a block owns 32 queries of a head and walks once over its keys, 32 at a time.
//
// The arithmetic is that of cpu_forward.h: with a running maximum m, P = exp(s - m) and
// W = exp(h (s - m) + g log |x_i - x_j|^2) give lse = m + log(sum P) and M = W (sum P)^-h; what has been summed is
// scaled when m rises. The sums over W x_value and P value live in the results themselves: each element has one thread
// that scales and adds to it, so there are no atomics, the order of summation is fixed, and nothing else is stored.
//
// Ladder: (1) a thread a query: keys read 32 times as often. (2) this. Not tried for want of a GPU to measure on: the
// scores on tensor cores, and a pipeline of asynchronous copies.
#pragma once

#include "p_laplacian/cuda.h"
#include "p_laplacian/tile.cuh"

namespace vlmadapt::p_laplacian {

template <class T>
constexpr int forward_shared_bytes() {
  return 4 * kArray * static_cast<int>(sizeof(T));
}

template <class E, bool from_scores>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const ForwardParams params, int64_t tiles) {
  using T = Accumulator<E>;
  CUDA_DYN_SMEM(T, shared);
  const Problem& p = params.problem;
  T* likely = shared + 2 * kArray;
  T* weights = shared + 3 * kArray;
  const Work<T> w{shared, shared + kArray, static_cast<int>(threadIdx.x) / 4, static_cast<int>(threadIdx.x) % 4};
  const int64_t head = blockIdx.x / tiles, first = blockIdx.x % tiles * kTile, query = first + w.row;
  const Pairs<T> pairs(p, head);
  const T exponent = static_cast<const T*>(p.p)[head % p.heads], pull = static_cast<const T*>(p.pull)[head % p.heads];
  const T h = exponent / 2, g = h - 1;
  const bool plain = exponent == T(2);
  const Matrix<E> queries(p.query, head, p.num_queries, p.width), keys(p.key, head, p.num_keys, p.width);
  const Matrix<E> x_queries(p.x_query, head, p.num_queries, p.features);
  const Matrix<E> x_values(p.x_value, head, p.num_keys, p.features);
  const Matrix<E> values(p.value, head, p.num_keys, p.value_width);
  const Matrix<E> attention(p.attention, head, p.num_queries, p.num_keys);
  T* out = static_cast<T*>(params.out) + head * p.num_queries * p.features;
  T* context = static_cast<T*>(params.context) + head * p.num_queries * p.value_width;

  T most = -infinity<T>(), sum_p = T(0), sum_w = T(0);
  for (int64_t at = 0; at < pairs.key_end; at += kTile) {
    T score[kShare], squared[kShare], shift[kShare];
    if (from_scores) {
      products(score, w, queries, first, keys, at);
    } else {
      load_chunk(w.left, attention, first, at);  // free since the barrier that ends the loop
      __syncthreads();
#pragma unroll
      for (int m = 0; m < kShare; ++m) score[m] = w.left[w.row * kStride + w.column(m)];
    }
    if (!plain) distances<!from_scores>(squared, shift, w, x_queries, first, x_values, at);

    T keep_p = T(1), keep_w = T(1);
    if (from_scores) {
      T top = most;
#pragma unroll
      for (int m = 0; m < kShare; ++m) {
        const int64_t key = at + w.column(m);
        score[m] =
            pairs.exists(query, key) ? pairs.masked(score[m] * static_cast<T>(p.scale), query, key) : -infinity<T>();
        top = score[m] > top ? score[m] : top;
      }
      top = row_max(top);
      const T base = top == -infinity<T>() ? T(0) : top;  // nothing seen yet: any base does
      keep_p = exponential(most - base);
      keep_w = exponential(h * (most - base));
      most = top;
#pragma unroll
      for (int m = 0; m < kShare; ++m) score[m] -= base;
    }
    T tile_p = T(0), tile_w = T(0);
#pragma unroll
    for (int m = 0; m < kShare; ++m) {
      const int64_t key = at + w.column(m);
      bool dropped = p.drop_diagonal && pairs.is_self(query, key);
      T a, weight;
      if (from_scores) {
        a = exponential(score[m]);
        weight = a;
        if (!plain) {
          dropped = dropped || squared[m] < Limits<T>::coincidence;
          weight = exponential(h * score[m] + g * logarithm(dropped ? T(1) : squared[m]));
        }
      } else {
        a = score[m];
        weight = a;
        dropped = dropped || a == T(0);
        if (!plain) {
          T q = a * squared[m];
          if (p.released) {
            const T eps = static_cast<T>(p.eps), root = a > T(0) ? sqrt(a) : T(0);
            q += T(2) * eps * root * shift[m] + static_cast<T>(p.features) * eps * eps;
          } else {
            dropped = dropped || squared[m] < Limits<T>::coincidence;
          }
          q = q < Limits<T>::smallest ? Limits<T>::smallest : q;
          weight = a * exponential(g * logarithm(q));
          if (a < T(0)) weight = static_cast<T>(NAN);
        }
      }
      weight = dropped ? T(0) : weight;
      tile_p += a;
      tile_w += weight;
      likely[w.row * kStride + w.column(m)] = a;
      weights[w.row * kStride + w.column(m)] = weight;
    }
    sum_p = sum_p * keep_p + row_sum(tile_p);
    sum_w = sum_w * keep_w + row_sum(tile_w);
    // The tiles are there after the barrier that add_weighted begins with, and read before the one below. The results
    // hold nothing before the first tile.
    add_weighted(out, first, p.num_queries, w, weights, x_values, at,
                 [&](T& to, T sum) { to = at == 0 ? sum : to * keep_w + sum; });
    if (p.has_value)
      add_weighted(context, first, p.num_queries, w, likely, values, at,
                   [&](T& to, T sum) { to = at == 0 ? sum : to * keep_p + sum; });
    __syncthreads();
  }

  if (query >= p.num_queries) return;
  const bool nothing = pairs.key_end <= 0;  // then the results have not been written yet
  T factor = T(1), lse = T(0);
  if (from_scores) {
    const T size = sum_p > T(0) || sum_p != sum_p ? logarithm(sum_p) : -infinity<T>();
    lse = most + size;
    factor = sum_p == T(0) ? T(0) : exponential(-g * size) / sum_p;  // (sum P)^-h, exact at p = 2
  }
  const T total = sum_w * factor + pull;
  for (int64_t c = w.quad; c < p.features; c += 4) {
    const T home = p.residual ? widen(x_queries.data[query * p.features + c]) : T(0);
    const T moved = nothing ? T(0) : out[query * p.features + c] * factor;
    out[query * p.features + c] = total == T(0) ? home : (moved + pull * home) / total;
  }
  if (from_scores && p.has_value)
    for (int64_t c = w.quad; c < p.value_width; c += 4) {
      T* at = context + query * p.value_width + c;
      *at = nothing || sum_p == T(0) ? T(0) : *at / sum_p;
    }
  if (w.quad != 0) return;
  static_cast<T*>(params.row_sum)[head * p.num_queries + query] = sum_w * factor;
  if (from_scores) static_cast<T*>(params.lse)[head * p.num_queries + query] = lse;
}

}  // namespace vlmadapt::p_laplacian
