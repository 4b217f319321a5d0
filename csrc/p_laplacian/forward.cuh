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
// Few queries: the keys are cut into parts, a block each. A part leaves its sums as they are and its maxima, and
// merge_kernel brings them to one maximum and adds them in the order of the parts.
//
// Ladder: (1) a thread a query: keys read 32 times as often. (2) 32 x 32 pairs a block, eight a thread: nine shared
// loads for eight multiply-adds, and 32 columns whatever the width. (3) this. Not tried for want of a GPU to measure
// on: the scores on tensor cores, and a pipeline of asynchronous copies.
#pragma once

#include "p_laplacian/cuda.h"
#include "p_laplacian/tensor_tile.cuh"

namespace vlmadapt::p_laplacian {

// What parts of the keys give, [parts, batch * heads * num_queries] each, out and context with their columns.
template <class T>
struct Parts {
  T *most, *sum_p, *sum_w, *out, *context;

  __host__ __device__ Parts(void* memory, int64_t rows, int64_t features) : out(static_cast<T*>(memory)) {
    most = out + rows * features;
    sum_p = most + rows;
    sum_w = sum_p + rows;
    context = sum_w + rows;
  }
};

// Where a block's part of the keys leaves what it has from the query `row` of all on: in the results, where there is no
// workspace since there are no other parts.
template <class T>
struct PartOfRows {
  Parts<T> sums;
  int64_t place;
  T *out, *context;

  __device__ PartOfRows(const ForwardParams& params, void* workspace, int64_t row)
      : sums(workspace, gridDim.y * rows(params.problem), params.problem.features),
        place(blockIdx.y * rows(params.problem) + row),
        out((workspace ? sums.out : static_cast<T*>(params.out)) + place * params.problem.features),
        context((workspace ? sums.context : static_cast<T*>(params.context)) + place * params.problem.value_width) {}
  __device__ static int64_t rows(const Problem& p) { return p.batch * p.heads * p.num_queries; }
};

// The results of a query, lane by lane of the sixteen that share it, from what was summed with the base `most`: the
// weights, and by the functions the rows of x_value and value, column by column.
template <class E, bool from_scores, class T, class Moved, class Seen>
__device__ __forceinline__ void finish_query(const ForwardParams& params, int64_t row, int lane, T most, T sum_p,
                                             T sum_w, const Moved& moved, const Seen& seen) {
  const Problem& p = params.problem;
  const int64_t h = row / p.num_queries % p.heads;
  const T g = static_cast<const T*>(p.p)[h] / 2 - 1, pull = static_cast<const T*>(p.pull)[h];
  T factor = T(1), lse = T(0);
  if (from_scores) {
    const T size = sum_p > T(0) || sum_p != sum_p ? logarithm(sum_p) : -infinity<T>();
    lse = most * static_cast<T>(kLogOf2) + size;
    factor = sum_p == T(0) ? T(0) : exponential(-g * size) / sum_p;  // (sum P)^-h, exact at p = 2
  }
  const T total = sum_w * factor + pull;
  T* out = static_cast<T*>(params.out) + row * p.features;
#pragma unroll 1
  for (int64_t c = lane; c < p.features; c += kLanes) {
    const T home = p.residual ? widen(static_cast<const E*>(p.x_query)[row * p.features + c]) : T(0);
    out[c] = total == T(0) ? home : (moved(c) * factor + pull * home) / total;
  }
#pragma unroll 1
  for (int64_t c = lane; from_scores && p.has_value && c < p.value_width; c += kLanes)
    static_cast<T*>(params.context)[row * p.value_width + c] = sum_p == T(0) ? T(0) : seen(c) / sum_p;
  if (lane != 0) return;
  static_cast<T*>(params.row_sum)[row] = sum_w * factor;
  if (from_scores) static_cast<T*>(params.lse)[row] = lse;
}

// Three blocks of floats share a multiprocessor where there are no scores; the others need the registers of two.
template <class E, bool from_scores>
__global__ void __launch_bounds__(kThreads, from_scores || sizeof(Accumulator<E>) == 8 ? 1 : 3)
    forward_kernel(const ForwardParams params, int64_t tiles, int64_t share, void* workspace) {
  using T = Accumulator<E>;
  constexpr int each = kOwnedEach<T>;
  CUDA_DYN_SMEM(T, shared);
  const Problem& p = params.problem;
  const Block<T> b(shared);
  const int64_t head = blockIdx.x / tiles, first = blockIdx.x % tiles * kOwned<T>;
  const Pairs<T> pairs(p, head);
  const T exponent = static_cast<const T*>(p.p)[head % p.heads];
  const T h = exponent / 2, g = h - 1;
  const T unit = static_cast<T>(kLog2OfE), score_unit = static_cast<T>(p.scale * kLog2OfE);
  const bool plain = exponent == T(2), with_context = from_scores && p.has_value;
  const Matrix<E> queries(p.query, head, p.num_queries, p.width), keys(p.key, head, p.num_keys, p.width);
  const Matrix<E> x_queries(p.x_query, head, p.num_queries, p.features);
  const Matrix<E> x_values(p.x_value, head, p.num_keys, p.features);
  const Matrix<E> values(p.value, head, p.num_keys, p.value_width);
  const Matrix<E> attention(p.attention, head, p.num_queries, p.num_keys);
  const int rows = p.num_queries - first < kOwned<T> ? static_cast<int>(p.num_queries - first) : kOwned<T>;
  T* out = PartOfRows<T>(params, workspace, head * p.num_queries + first).out;
  T* context = PartOfRows<T>(params, workspace, head * p.num_queries + first).context;
  const int64_t end = (blockIdx.y + 1) * share < pairs.key_end ? (blockIdx.y + 1) * share : pairs.key_end;

  T most[each], sum_p[each], sum_w[each];  // the sums are this thread's own
#pragma unroll
  for (int i = 0; i < each; ++i) {
    most[i] = -infinity<T>();
    sum_p[i] = sum_w[i] = T(0);
  }
  if (!from_scores && threadIdx.x < kOwned<T>) b.keep_w[threadIdx.x] = T(1);
  for (int64_t at = blockIdx.y * share; at < end; at += kOthers) {
    const TileBounds bounds(rows, end - at, first + pairs.offset - at);
    PairSums<T> score, squared, shift;
    if (from_scores) {
      products(score, b, queries, first, keys, at);
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
    add_rows(out, rows, b, b.pairs, at == blockIdx.y * share, x_values, at, !plain,
             [&](int row, T old, T sum) { return old * b.keep_w[row] + sum; });
    if (with_context)
      add_rows(context, rows, b, b.likely, at == blockIdx.y * share, values, at, false,
               [&](int row, T old, T sum) { return old * b.keep_p[row] + sum; });
    __syncthreads();
  }

  T *tops = b.own, *sums_p = tops + kOwned<T>, *sums_w = sums_p + kOwned<T>;  // nobody reads chunks any more
#pragma unroll
  for (int i = 0; i < each; ++i) {
    sum_w[i] = lanes_sum(sum_w[i]);
    sum_p[i] = lanes_sum(sum_p[i]);
    if (b.lane != 0) continue;
    tops[b.own_row(i)] = most[i];
    sums_p[b.own_row(i)] = sum_p[i];
    sums_w[b.own_row(i)] = sum_w[i];
  }
  __syncthreads();
  const PartOfRows<T> part(params, workspace, head * p.num_queries + first);  // anew, for want of registers until here
  const bool nothing = end <= blockIdx.y * share;  // then the results have not been written yet
#pragma unroll 1
  for (int i = b.group; i < rows; i += kGroups) {
    if (!workspace) {
      finish_query<E, from_scores>(
          params, head * p.num_queries + first + i, b.lane, tops[i], sums_p[i], sums_w[i],
          [&](int64_t c) { return nothing ? T(0) : out[i * p.features + c]; },
          [&](int64_t c) { return nothing ? T(0) : context[i * p.value_width + c]; });
    } else if (b.lane == 0) {
      part.sums.most[part.place + i] = tops[i];
      part.sums.sum_p[part.place + i] = sums_p[i];
      part.sums.sum_w[part.place + i] = sums_w[i];
    }
  }
}

// The results from the sums of the parts, `share` keys each. Sixteen threads a query.
template <class E, bool from_scores>
__global__ void __launch_bounds__(kThreads, 1)
    merge_kernel(const ForwardParams params, int64_t share, void* workspace, int64_t num_parts) {
  using T = Accumulator<E>;
  const Problem& p = params.problem;
  const int64_t rows = p.batch * p.heads * p.num_queries;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kGroups + threadIdx.x / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  if (row >= rows) return;
  const Parts<T> parts(workspace, num_parts * rows, p.features);
  const int64_t head = row / p.num_queries, key_end = Pairs<T>(p, head).key_end;
  const T h = static_cast<const T*>(p.p)[head % p.heads] / 2;
  const int64_t last =
      key_end < num_parts * share ? (key_end + share - 1) / share * rows + row : num_parts * rows + row;
  T most = -infinity<T>(), sum_p = T(0), sum_w = T(0);
  for (int64_t at = row; from_scores && at < last; at += rows) most = parts.most[at] > most ? parts.most[at] : most;
  const T base = most == -infinity<T>() ? T(0) : most;
  const auto keep = [&](int64_t at, T power) {
    return from_scores ? power_of_two(power * (parts.most[at] - base)) : T(1);
  };
  for (int64_t at = row; at < last; at += rows) {
    sum_p += keep(at, T(1)) * parts.sum_p[at];
    sum_w += keep(at, h) * parts.sum_w[at];
  }
  const auto sum_of = [&](const T* columns, int64_t width, int64_t c, T power) {
    T sum = T(0);
    for (int64_t at = row; at < last; at += rows) sum += keep(at, power) * columns[at * width + c];
    return sum;
  };
  finish_query<E, from_scores>(
      params, row, lane, most, sum_p, sum_w, [&](int64_t c) { return sum_of(parts.out, p.features, c, h); },
      [&](int64_t c) { return sum_of(parts.context, p.value_width, c, T(1)); });
}

}  // namespace vlmadapt::p_laplacian
