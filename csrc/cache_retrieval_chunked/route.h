// Which calls go through a library's products chunk by chunk, and which through the fused kernels. Shapes, types and
// settings decide, never what a tensor holds. By arithmetic for an H200, for no GPU has run it:
//
//   fused     2 D operations a pair of a query and a key at the rate that 64 x 64 tiles leave: 150 TFLOP/s in 16 bits,
//             75 in TF32 (bytes of the L2 cache bind), 50 in float (multiply-adds bind)
//   chunked   2 D operations at the library's rate, 650, 350 or 50 TFLOP/s, and 8 bytes written and read in the L2
//             cache at 5.5 TB/s, 1.5 ps a pair; the backward three products, five of bfloat16, where the fused one has
//             four at half of the rates above
#pragma once

#include "cache_retrieval/cuda.h"

namespace vlmadapt::cache_retrieval {

enum class Route : int { automatic = 0, fused = 1, chunked = 2 };

// In 16 bits, where the gap is least, 2 D / 150 - 2 D / 650 exceeds 1.5 from a width of 146 on; a margin for both
// rates.
constexpr int64_t kLeastChunkedWidth = 256;
// Fewer queries leave the library tiles of few rows.
constexpr int64_t kLeastChunkedQueries = 48;
// Two launches a chunk, 3 us each, are paid back by 3.8 ps a pair of width 512 from 1.6 million pairs on, 2^29.6
// multiplications.
constexpr int64_t kLeastChunkedWork = int64_t{1} << 30;

inline bool large_enough(int64_t num_queries, int64_t num_keys, int64_t width) {
  return num_queries >= kLeastChunkedQueries && width >= kLeastChunkedWidth &&
         num_queries * num_keys >= kLeastChunkedWork / width;
}

// In float without TF32 both forms do the same work on the same units.
inline bool forward_is_chunked(const ForwardParams& p, Route route, Precision precision) {
  if (route != Route::automatic) return route == Route::chunked;
  const bool tensor_cores =
      p.dtype == Dtype::bf16 || p.dtype == Dtype::f16 || (p.dtype == Dtype::f32 && precision == Precision::tf32);
  return tensor_cores && large_enough(p.num_queries, p.num_entries, p.image.width);
}

// At a better rate in every type. Gradients of f16 stay fused: the range of the weights may leave it.
inline bool backward_is_chunked(const BackwardParams& p, Route route) {
  if (p.dense || p.dtype == Dtype::f16) return false;
  if (route != Route::automatic) return route == Route::chunked;
  return p.dtype != Dtype::f64 && large_enough(p.num_queries, p.num_keys, p.side.width);
}

}  // namespace vlmadapt::cache_retrieval
