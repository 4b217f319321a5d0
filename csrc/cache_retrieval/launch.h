// What the launchers of all forms share: how work is split, and how the parts are added up.
#pragma once

#include "cache_retrieval/backward.cuh"
#include "cache_retrieval/forward.cuh"
#include "cache_retrieval/kernel.h"
#include "common/multiprocessors.h"

namespace vlmadapt::cache_retrieval {

constexpr int64_t kLargestGrid = 65535;                   // of blocks along y
constexpr int64_t kLargestWorkspace = int64_t{64} << 20;  // bytes of the parts of a result

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

inline int64_t element_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }
inline int64_t accumulator_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }

inline bool aligned(const Side& s, Dtype dtype) {
  const auto start = reinterpret_cast<uintptr_t>(s.queries) | reinterpret_cast<uintptr_t>(s.keys);
  return start % 16 == 0 && s.width * element_bytes(dtype) % 16 == 0;
}

// How many parts, at most `largest`, to cut `tiles` into. The multiprocessor with the most blocks finishes last: of all
// cuts with up to `rounds` blocks a multiprocessor, the one where (its blocks) x (tiles of a part) is smallest. Among
// equals two blocks a multiprocessor, of which one computes while the other waits; beyond that, fewer parts. Depends
// on the device, not on its load: the same device sums in the same order every time.
inline int64_t splits_for(int64_t owner_tiles, int64_t tiles, int64_t largest, int64_t multiprocessors) {
  owner_tiles = owner_tiles < 1 ? 1 : owner_tiles;
  tiles = tiles < 1 ? 1 : tiles;
  largest = clamp(largest, 1, tiles < kLargestGrid ? tiles : kLargestGrid);
  const int64_t uncut = divide_up(owner_tiles, multiprocessors), rounds = uncut > 2 ? 2 * uncut : 4;
  int64_t best = 1, least = uncut * tiles;
  for (int64_t round = uncut; round <= rounds; ++round) {
    const int64_t parts = clamp(round * multiprocessors / owner_tiles, 1, largest);
    const int64_t of_a_part = divide_up(tiles, parts);
    const int64_t cost = round * of_a_part;
    if (cost > least || (cost == least && round > 2)) continue;
    least = cost;
    best = divide_up(tiles, of_a_part);  // no empty last part
  }
  return best;
}

// Parts of an [owners, width] result; a width of zero: only sums of rows are wanted.
inline int64_t backward_splits(int64_t num_owner, int64_t num_other, int64_t width, Dtype dtype) {
  const int64_t bytes = num_owner * width * accumulator_bytes(dtype);
  return splits_for(divide_up(num_owner, kTile), divide_up(num_other, kTile),
                    kLargestWorkspace / (bytes < 1 ? 1 : bytes), multiprocessors());
}

// Bytes of the parts, when there are several.
inline int64_t split_bytes(int64_t num_owner, int64_t num_other, int64_t width, Dtype dtype) {
  const int64_t splits = backward_splits(num_owner, num_other, width, dtype);
  return splits > 1 ? splits * num_owner * width * accumulator_bytes(dtype) : 0;
}

template <class T>
cudaError_t launch_sum(const void* partial, void* out, int64_t count, int64_t splits, cudaStream_t stream) {
  const int64_t blocks = clamp(divide_up(count, 256), 1, 4096);
  CUDA_LAUNCH(sum_kernel<T>, grid_of(blocks), dim3(256), 0, stream, static_cast<const T*>(partial),
              static_cast<T*>(out), count, static_cast<int>(splits));
  return cudaGetLastError();
}

// Parts of the other side where queries own: their gradient, if wanted, or the sums of rows alone.
inline int64_t query_splits(const BackwardParams& p) {
  return backward_splits(p.num_queries, p.num_keys, p.grad_queries ? p.side.width : 0, p.dtype);
}

// A workspace begins with the sums of rows, where they are wanted; parts of gradients follow.
inline int64_t row_sum_bytes(const BackwardParams& p) {
  return p.grad_scale ? query_splits(p) * 2 * p.num_queries * accumulator_bytes(p.dtype) : 0;
}

// row_sums [splits, 2, num_queries], or nullptr: not wanted.
template <class T>
cudaError_t launch_row_gradients(const BackwardParams& p, const void* row_sums, int64_t splits, cudaStream_t stream) {
  if (!row_sums || p.num_queries == 0) return cudaSuccess;
  CUDA_LAUNCH(row_gradients_kernel<T>, grid_of(divide_up(p.num_queries, 256)), dim3(256), 0, stream, p,
              static_cast<const T*>(row_sums), static_cast<int>(splits));
  return cudaGetLastError();
}

// The disagreement, if wanted, from partial [splits, num_queries]; nullptr: one stream, which agrees with itself.
template <class T>
cudaError_t finish_disagreement(const ForwardParams& p, const void* partial, int64_t splits, cudaStream_t stream) {
  if (!p.disagreement || p.num_queries == 0) return cudaSuccess;
  if (!partial) return cudaMemsetAsync(p.disagreement, 0, p.num_queries * sizeof(T), stream);
  CUDA_LAUNCH(disagreement_kernel<T>, grid_of(divide_up(p.num_queries, 256)), dim3(256), 0, stream, p,
              static_cast<const T*>(partial), static_cast<int>(splits));
  return cudaGetLastError();
}

}  // namespace vlmadapt::cache_retrieval
