// Forward: a block of queries meets all keys it sees at once, and its scores stay in a buffer [keys, queries], so that
// one product gives the log-sum-exp of every query and then the columns. Lanes run over queries (p_laplacian's blocks);
// a key has one vector of sums, added up over lanes at the end. A task is a head, or a share of its queries where heads
// are few, whose sums are added afterwards: no atomics, a fixed order of summation.
#pragma once

#include "attention_column_sums/kernel.h"
#include "p_laplacian/cpu_block.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace attention_column_sums {

using namespace VLMADAPT_ISA::p_laplacian;
using vlmadapt::attention_column_sums::BackwardParams;
using vlmadapt::attention_column_sums::ForwardParams;

// The tasks of a problem: shares of the blocks of queries of each head.
template <class A>
struct Tasks {
  explicit Tasks(const AttentionScores& p)
      : heads(p.batch * p.heads),
        blocks(divide_up(p.num_queries, block_queries<A>())),
        chunks(chunks_of(heads, blocks)),
        num_queries(p.num_queries) {}

  // Calls body(Rows<NV>, first query, count) for each block of a task.
  template <class Body>
  void for_blocks(int64_t task, Body body) const {
    const int64_t share = divide_up(blocks, chunks), chunk = task % chunks;
    for (int64_t block = chunk * share; block < min_of((chunk + 1) * share, blocks); ++block) {
      const int64_t first = block * block_queries<A>(), count = min_of(block_queries<A>(), num_queries - first);
      with_vectors<A>(count, [&](auto vectors) { body(vectors, first, count); });
    }
  }

  const int64_t heads, blocks, chunks, num_queries;
};

// The scores of a block, tile after tile: tile[j * ld + lane].
template <class A, int NV>
inline void all_scores(QueryBlock<A, NV>& block, TileRows<A>& keys, int64_t end, A* tile) {
  for (int64_t j0 = 0; j0 < end; j0 += key_tile) {
    const int64_t rows = min_of(key_tile, end - j0);
    block.scores(keys.load(j0, rows), j0, rows, tile + j0 * block.ld);
  }
}

// Adds a block's attention to columns[key][lane], and writes its log-sum-exp.
template <class A, int NV>
inline void add_block(const ForwardParams& params, int64_t head, int64_t first, int64_t count, A* tile, A* columns) {
  using S = Simd<A>;
  using V = typename S::V;
  constexpr int64_t ld = QueryBlock<A, NV>::ld;
  const AttentionScores& p = params.scores;
  QueryBlock<A, NV> block(p, head, first, count);
  TileRows<A> keys(p.dtype, p.key, head, p.num_keys, p.width);
  const int64_t end = block.key_end();
  all_scores(block, keys, end, tile);
  V most[NV], base[NV], sums[NV] = {}, share[NV];
  for (int v = 0; v < NV; ++v) most[v] = S::broadcast(-__builtin_inff());
  for (int64_t j = 0; j < end; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      const V s = S::load(tile + j * ld + v * S::lanes);
      most[v] = s > most[v] ? s : most[v];
    }
  for (int v = 0; v < NV; ++v) base[v] = most[v] == -__builtin_inff() ? V{} : most[v];
  for (int64_t j0 = 0; j0 < end; j0 += key_tile) {
    Sums<V, NV> of_tile(sums);
    for (int64_t j = j0; j < min_of(j0 + key_tile, end); ++j)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        A* to = tile + j * ld + v * S::lanes;
        const V likely = exp(S::load(to) - base[v]);
        of_tile.at[v] += likely;
        S::store(to, likely);
      }
  }
  A* lse = static_cast<A*>(params.lse) + head * p.num_queries + first;
  for (int v = 0; v < NV; ++v) {
    const V size = most[v] + log(sums[v]);  // minus infinity where no key is seen
    share[v] = sums[v] == 0 ? V{} : A(1) / sums[v];
    for (int lane = 0; lane < S::lanes; ++lane) {
      const int64_t i = v * S::lanes + lane;
      if (i < count)
        lse[i] = size[lane];
      else
        share[v][lane] = 0;
    }
  }
  for (int64_t j = 0; j < end; ++j) {
    V sum{};
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum += S::load(tile + j * ld + v * S::lanes) * share[v];
    S::store(columns + j * S::lanes, S::load(columns + j * S::lanes) + sum);
  }
}

template <class A>
inline void forward(const ForwardParams& params, const Parallel& parallel) {
  using S = Simd<A>;
  const AttentionScores& p = params.scores;
  const Tasks<A> tasks(p);
  Buffer<A> partial(tasks.chunks > 1 ? tasks.heads * tasks.chunks * p.num_keys : 0);
  A* to = tasks.chunks > 1 ? partial.data() : static_cast<A*>(params.sums);
  auto run = [&](int64_t begin, int64_t end) {
    Buffer<A> tile(p.num_keys * min_of(block_queries<A>(), padded<A>(p.num_queries))), columns(p.num_keys * S::lanes);
    for (int64_t task = begin; task < end; ++task) {
      for (int64_t at = 0; at < p.num_keys * S::lanes; ++at) columns[at] = 0;
      tasks.for_blocks(task, [&](auto vectors, int64_t first, int64_t count) {
        add_block<A, decltype(vectors)::count>(params, task / tasks.chunks, first, count, tile.data(), columns.data());
      });
      for (int64_t j = 0; j < p.num_keys; ++j)
        to[task * p.num_keys + j] = S::sum(S::load(columns.data() + j * S::lanes));
    }
  };
  parallel_ranges(parallel, tasks.heads * tasks.chunks, run);
  if (tasks.chunks > 1)
    for (int64_t head = 0; head < tasks.heads; ++head)
      add_partial(partial.data() + head * tasks.chunks * p.num_keys, tasks.chunks, p.num_keys, p.num_keys,
                  static_cast<A*>(params.sums) + head * p.num_keys);
}

}  // namespace attention_column_sums
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
