// p-Laplacian attention on a GPU: a block owns 64 queries of a head (32 of doubles) and walks once over its keys, 64 at
// a time.
//
// The arithmetic is that of cpu_forward.h: with a running maximum m, P = exp(s - m) and
// W = exp(h (s - m) + g log |x_i - x_j|^2) give lse = m + log(sum P) and M = W (sum P)^-h; what has been summed is
// scaled when m rises. Scores are kept in units of log 2: a pair takes one logarithm and two powers, each one
// instruction of the special function units. The sums over W x_value and P value live in the results themselves: each
// element has one thread that scales and adds to it, so there are no atomics, the order of summation is fixed, and
// nothing else is stored.
//
// Ladder: (1) a thread a query: keys read 32 times as often. (2) 32 x 32 pairs a block, eight a thread: nine shared
// loads for eight multiply-adds, and 32 columns whatever the width. (3) this. Not tried for want of a GPU to measure
// on: the scores on tensor cores, and a pipeline of asynchronous copies.
#pragma once

#include "p_laplacian/cuda.h"
#include "p_laplacian/register_tile.cuh"

namespace vlmadapt::p_laplacian {

// Three blocks of floats share a multiprocessor where there are no scores; the others need the registers of two.
template <class E, bool from_scores>
__global__ void __launch_bounds__(kThreads, from_scores || sizeof(Accumulator<E>) == 8 ? 1 : 3)
    forward_kernel(const ForwardParams params, int64_t tiles) {
  using T = Accumulator<E>;
  constexpr int each = kOwnedEach<T>;
  CUDA_DYN_SMEM(T, shared);
  const Problem& p = params.problem;
  const Block<T> b(shared);
  const int64_t head = blockIdx.x / tiles, first = blockIdx.x % tiles * kOwned<T>;
  const Pairs<T> pairs(p, head);
  const T exponent = static_cast<const T*>(p.p)[head % p.heads], pull = static_cast<const T*>(p.pull)[head % p.heads];
  const T h = exponent / 2, g = h - 1;
  const T unit = static_cast<T>(kLog2OfE), score_unit = static_cast<T>(p.scale * kLog2OfE);
  const bool plain = exponent == T(2), with_context = from_scores && p.has_value;
  const Matrix<E> queries(p.query, head, p.num_queries, p.width), keys(p.key, head, p.num_keys, p.width);
  const Matrix<E> x_queries(p.x_query, head, p.num_queries, p.features);
  const Matrix<E> x_values(p.x_value, head, p.num_keys, p.features);
  const Matrix<E> values(p.value, head, p.num_keys, p.value_width);
  const Matrix<E> attention(p.attention, head, p.num_queries, p.num_keys);
  T* out = static_cast<T*>(params.out) + (head * p.num_queries + first) * p.features;
  T* context = static_cast<T*>(params.context) + (head * p.num_queries + first) * p.value_width;
  const int64_t rows = p.num_queries - first;

  T most[each], sum_p[each], sum_w[each];  // the sums are this thread's own
#pragma unroll
  for (int i = 0; i < each; ++i) {
    most[i] = -infinity<T>();
    sum_p[i] = sum_w[i] = T(0);
  }
  if (!from_scores && threadIdx.x < kOwned<T>) b.keep_w[threadIdx.x] = T(1);
  for (int64_t at = 0; at < pairs.key_end; at += kOthers) {
    const TileBounds bounds(rows, pairs.key_end - at, first + pairs.offset - at);
    PairSums<T> score, squared, shift;
    if (from_scores) {
      pair_products(score, b, queries, first, keys, at);
      if (!plain) __syncthreads();  // the arrays have been read
    }
    if (!plain) {
      if (!from_scores && p.released)
        pair_distances<true>(squared, shift, b, x_queries, first, x_values, at);
      else
        pair_distances<false>(squared, shift, b, x_queries, first, x_values, at);
    }
    if (!from_scores) {  // after the distances, whose registers these take
#pragma unroll
      for (int i = 0; i < each; ++i) {
        const E* row = attention.data + (first + b.own_row(i)) * attention.width + at + b.lane;
#pragma unroll
        for (int m = 0; m < kOthersEach; ++m)
          score[i][m] = b.own_row(i) < bounds.queries && b.other_row(m) < bounds.keys ? widen(row[kLanes * m]) : T(0);
      }
    }

#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int query = b.own_row(i);
      if (from_scores) {
        T top = most[i];
#pragma unroll
        for (int m = 0; m < kOthersEach; ++m) {
          const int key = b.other_row(m);
          const bool exists = query < bounds.queries && key < bounds.keys && !(p.causal && key > query + bounds.self);
          score[i][m] = exists ? pairs.masked(score[i][m] * score_unit, first + query, at + key, unit) : -infinity<T>();
          top = score[i][m] > top ? score[i][m] : top;
        }
        top = lanes_max(top);
        const T base = top == -infinity<T>() ? T(0) : top;  // nothing seen yet: any base does
        const T keep_p = power_of_two(most[i] - base), keep_w = power_of_two(h * (most[i] - base));
        sum_p[i] *= keep_p;
        sum_w[i] *= keep_w;
        if (b.lane == 0) {
          b.keep_p[query] = keep_p;
          b.keep_w[query] = keep_w;
        }
        most[i] = top;
#pragma unroll
        for (int m = 0; m < kOthersEach; ++m) score[i][m] -= base;
      }
      Four<T> likely, weights;
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) {
        bool dropped = p.drop_diagonal && b.other_row(m) == query + bounds.self;
        T a, weight;
        if (from_scores) {
          a = power_of_two(score[i][m]);
          weight = a;
          if (!plain) {
            dropped = dropped || squared[i][m] < Limits<T>::coincidence;
            weight = power_of_two(h * score[i][m] + g * log_to_two(dropped ? T(1) : squared[i][m]));
          }
        } else {
          a = score[i][m];
          weight = a;
          dropped = dropped || a == T(0);
          if (!plain) {
            T q = a * squared[i][m];
            if (p.released) {
              const T eps = static_cast<T>(p.eps), root = a > T(0) ? sqrt(a) : T(0);
              q += T(2) * eps * root * shift[i][m] + static_cast<T>(p.features) * eps * eps;
            } else {
              dropped = dropped || squared[i][m] < Limits<T>::coincidence;
            }
            q = q < Limits<T>::smallest ? Limits<T>::smallest : q;
            weight = a * power_of_two(g * log_to_two(q));
            if (a < T(0)) weight = static_cast<T>(NAN);
          }
        }
        weight = dropped ? T(0) : weight;
        sum_p[i] += a;
        sum_w[i] += weight;
        likely.at[m] = a;
        weights.at[m] = weight;
      }
      four(b.pairs + query * kPairStride + kOthersEach * b.lane) = weights;
      if (with_context) four(b.likely + query * kPairStride + kOthersEach * b.lane) = likely;
    }
    // The pairs are there after the barrier that add_pairs begins with, and read before the one below. The results hold
    // nothing before the first tile. After the distances the last chunk of x_value is still in shared memory.
    add_pairs(out, rows, b, b.pairs, at == 0, x_values, at, !plain,
              [&](int row, T old, T sum) { return old * b.keep_w[row] + sum; });
    if (with_context)
      add_pairs(context, rows, b, b.likely, at == 0, values, at, false,
                [&](int row, T old, T sum) { return old * b.keep_p[row] + sum; });
    __syncthreads();
  }

  const bool nothing = pairs.key_end <= 0;  // then the results have not been written yet
#pragma unroll
  for (int i = 0; i < each; ++i) {
    sum_w[i] = lanes_sum(sum_w[i]);
    sum_p[i] = lanes_sum(sum_p[i]);
  }
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const int query = b.own_row(i);
    if (query >= rows) return;
    T factor = T(1), lse = T(0);
    if (from_scores) {
      const T size = sum_p[i] > T(0) || sum_p[i] != sum_p[i] ? logarithm(sum_p[i]) : -infinity<T>();
      lse = most[i] * static_cast<T>(kLogOf2) + size;
      factor = sum_p[i] == T(0) ? T(0) : exponential(-g * size) / sum_p[i];  // (sum P)^-h, exact at p = 2
    }
    const T total = sum_w[i] * factor + pull;
#pragma unroll 1
    for (int64_t c = b.lane; c < p.features; c += kLanes) {
      const T home = p.residual ? widen(x_queries.data[(first + query) * p.features + c]) : T(0);
      const T moved = nothing ? T(0) : out[query * p.features + c] * factor;
      out[query * p.features + c] = total == T(0) ? home : (moved + pull * home) / total;
    }
#pragma unroll 1
    for (int64_t c = b.lane; with_context && c < p.value_width; c += kLanes) {
      T* at = context + query * p.value_width + c;
      *at = nothing || sum_p[i] == T(0) ? T(0) : *at / sum_p[i];
    }
    if (b.lane != 0) continue;
    static_cast<T*>(params.row_sum)[head * p.num_queries + first + query] = sum_w[i] * factor;
    if (from_scores) static_cast<T*>(params.lse)[head * p.num_queries + first + query] = lse;
  }
}

}  // namespace vlmadapt::p_laplacian
