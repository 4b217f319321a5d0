// Backward: a block of queries recomputes its attention for all keys from lse into a buffer [keys, queries], takes
// sum_k A[i, k] g[k] of it, and multiplies the scores' gradients by keys and queries. Tasks as in the forward.
#pragma once

#include "attention_column_sums/cpu_forward.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace attention_column_sums {

// Writes the gradient of a block's queries, adds that of the keys to grad_keys [num_keys, key_width].
template <class A, int NV>
inline void differentiate_block(const BackwardParams& params, int64_t head, int64_t first, int64_t count, A* tile,
                                A* grad_keys, int64_t key_width) {
  using S = Simd<A>;
  using V = typename S::V;
  constexpr int64_t ld = QueryBlock<A, NV>::ld;
  const AttentionScores& p = params.scores;
  const int64_t width = p.width, row = head * p.num_queries + first;
  QueryBlock<A, NV> block(p, head, first, count);
  TileRows<A> keys(p.dtype, p.key, head, p.num_keys, width);
  const A* upstream = static_cast<const A*>(params.grad_sums) + head * p.num_keys;
  const int64_t end = block.key_end();
  all_scores(block, keys, end, tile);
  alignas(64) A lse[ld];
  for (int64_t i = 0; i < ld; ++i) {  // fully masked, or beyond the last query: every exponential is zero
    lse[i] = i < count ? static_cast<const A*>(params.lse)[row + i] : -__builtin_inff();
    if (lse[i] == -__builtin_inff()) lse[i] = __builtin_inff();
  }
  V mean[NV] = {};
  for (int64_t j0 = 0; j0 < end; j0 += key_tile) {
    Sums<V, NV> of_tile(mean);
    for (int64_t j = j0; j < min_of(j0 + key_tile, end); ++j)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        A* to = tile + j * ld + v * S::lanes;
        const V a = exp(S::load(to) - S::load(lse + v * S::lanes));
        of_tile.at[v] += a * upstream[j];
        S::store(to, a);
      }
  }
  for (int64_t j = 0; j < end; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      A* to = tile + j * ld + v * S::lanes;
      S::store(to, S::load(to) * (upstream[j] - mean[v]));
    }
  Buffer<A> converted(converted_count<A>(p.dtype, count * width));
  const A scale = static_cast<A>(p.scale);
  if (params.grad_query != nullptr) {
    Buffer<A> sums(width * ld);
    for (int64_t at = 0; at < width * ld; ++at) sums[at] = 0;
    for (int64_t j0 = 0; j0 < end; j0 += key_tile) {
      const int64_t rows = min_of(key_tile, end - j0);
      multiply<A, NV>(keys.load(j0, rows), 1, width, tile + j0 * ld, ld, width, rows, sums.data(), ld, true);
    }
    A* to = static_cast<A*>(params.grad_query) + row * width;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < width; ++c) to[i * width + c] = scale * sums[c * ld + i];
  }
  if (params.grad_key != nullptr) {
    Buffer<A> queries(count * key_width);
    pad_rows(read<A>(p.dtype, p.query, row * width, count * width, converted.data()), width, count, key_width, scale,
             queries.data());
    add_rows(tile, ld, end, queries.data(), count, grad_keys, key_width);
  }
}

template <class A>
inline void backward(const BackwardParams& params, const Parallel& parallel) {
  const AttentionScores& p = params.scores;
  const Tasks<A> tasks(p);
  const int64_t key_width = padded<A>(p.width), elements = p.num_keys * p.width;
  const bool want_key = params.grad_key != nullptr;
  Buffer<A> partial(want_key && tasks.chunks > 1 ? tasks.heads * tasks.chunks * elements : 0);
  A* to = tasks.chunks > 1 ? partial.data() : static_cast<A*>(params.grad_key);
  auto run = [&](int64_t begin, int64_t end) {
    Buffer<A> tile(p.num_keys * min_of(block_queries<A>(), padded<A>(p.num_queries)));
    Buffer<A> grad_keys(want_key ? p.num_keys * key_width : 0);
    for (int64_t task = begin; task < end; ++task) {
      for (int64_t at = 0; want_key && at < p.num_keys * key_width; ++at) grad_keys[at] = 0;
      tasks.for_blocks(task, [&](auto vectors, int64_t first, int64_t count) {
        differentiate_block<A, decltype(vectors)::count>(params, task / tasks.chunks, first, count, tile.data(),
                                                         grad_keys.data(), key_width);
      });
      for (int64_t j = 0; want_key && j < p.num_keys; ++j)
        for (int64_t c = 0; c < p.width; ++c) to[task * elements + j * p.width + c] = grad_keys[j * key_width + c];
    }
  };
  parallel_ranges(parallel, tasks.heads * tasks.chunks, run);
  if (want_key && tasks.chunks > 1)
    for (int64_t head = 0; head < tasks.heads; ++head)
      add_partial(partial.data() + head * tasks.chunks * elements, tasks.chunks, elements, elements,
                  static_cast<A*>(params.grad_key) + head * elements);
}

}  // namespace attention_column_sums
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
