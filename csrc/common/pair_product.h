// Register-tiled products of pairs of bfloat16, summed in float32: C[rows, columns] (+)= A B, with A in PairRows or
// PairColumns and B in panels as common/pairs.h lays them out, each of one or two parts. With tiles, 32 rows x 32
// columns at a time, A in PairRows alone; else as in common/product.h.
#pragma once

#include "common/bf16_instructions.h"
#include "common/pairs.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {

#ifdef VLMADAPT_TILES
constexpr int tile_side = 16;  // rows of a tile, and its pairs along the depth
constexpr int pair_rows = 2 * tile_side;
constexpr int64_t pair_step = tile_side;  // pairs of the depth multiplied at once
static_assert(pair_multiple % tile_side == 0 && stage_depth % tile_side == 0);

// Tiles 0 to 3 hold sums, 4 and 5 rows of A, 6 and 7 columns of B: a tile is as wide as a vector, those of A apart.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {vector_bytes,  vector_bytes,  vector_bytes, vector_bytes,
                               tile_side * 4, tile_side * 4, vector_bytes, vector_bytes};
  uint8_t rows[16] = {tile_side, tile_side, tile_side, tile_side, tile_side, tile_side, tile_side, tile_side};
};
constexpr TileShapes tile_shapes{};

// While it lives this thread has tiles; released, they are no state any more that the system saves at every switch.
class ProductScope {
 public:
  ProductScope() { _tile_loadconfig(&tile_shapes); }
  ~ProductScope() { _tile_release(); }
  ProductScope(const ProductScope&) = delete;
  ProductScope& operator=(const ProductScope&) = delete;
};

// Compilers that take the instructions of tiles for arithmetic would move stores of operands past them.
VLMADAPT_INLINE void memory_is_read_here() { __asm__ volatile("" ::: "memory"); }

VLMADAPT_INLINE void load_a(const Pair* a) {
  _tile_loadd(4, a, stage_stride * 4);
  _tile_loadd(5, a + tile_side * stage_stride, stage_stride * 4);
}

template <int NV>
VLMADAPT_INLINE void load_b(const Pair* b) {
  constexpr int lanes = Simd<float>::lanes;
  _tile_loadd(6, b, NV * vector_bytes);
  if constexpr (NV == 2) _tile_loadd(7, b + lanes, NV * vector_bytes);
}

template <int NV>
VLMADAPT_INLINE void multiply_tiles() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(2, 5, 6);
  if constexpr (NV == 2) {
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// One block: a at its first pair, b at the same pair of its panel, whose second part is b_part further on.
template <int NV, class A, int b_parts>
inline void pair_tile(const Pair* a, const Pair* b, int64_t b_part, int64_t pairs, float* c, int64_t ldc,
                      bool accumulate) {
  static_assert(A::row_stride == stage_stride);
  constexpr int lanes = Simd<float>::lanes;
  const int64_t stride = ldc * 4;
  float* lower = c + tile_side * ldc;
  memory_is_read_here();
  if (accumulate) {
    _tile_loadd(0, c, stride);
    _tile_loadd(2, lower, stride);
    if constexpr (NV == 2) {
      _tile_loadd(1, c + lanes, stride);
      _tile_loadd(3, lower + lanes, stride);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t pair = 0; pair < pairs; pair += tile_side, a += tile_side, b += tile_side * NV * lanes) {
    load_a(a);
    if constexpr (b_parts == 2) {
      load_b<NV>(b + b_part);
      multiply_tiles<NV>();
    }
    load_b<NV>(b);
    multiply_tiles<NV>();
    if constexpr (A::num_parts == 2) {
      load_a(a + A::part);
      multiply_tiles<NV>();
    }
  }
  _tile_stored(0, c, stride);
  _tile_stored(2, lower, stride);
  if constexpr (NV == 2) {
    _tile_stored(1, c + lanes, stride);
    _tile_stored(3, lower + lanes, stride);
  }
  memory_is_read_here();
}
#else
constexpr int pair_rows = tile_rows;
constexpr int64_t pair_step = 1;
struct ProductScope {};

// One block, as product_tile. Three products of two parts would cost more than one of float32.
template <int NV, class A, int b_parts>
inline void pair_tile(const Pair* __restrict a, const Pair* __restrict b, int64_t, int64_t pairs, float* __restrict c,
                      int64_t ldc, bool accumulate) {
  static_assert(A::num_parts == 1 && b_parts == 1);
  using S = Simd<float>;
  typename S::V sums[pair_rows][NV] = {};
  for (int64_t pair = 0; pair < pairs; ++pair, a += A::pair_stride, b += NV * S::lanes) {
    typename S::U column[NV];
    std::memcpy(column, b, sizeof(column));
#pragma GCC unroll 16
    for (int r = 0; r < pair_rows; ++r) {
      const typename S::U x = a[r * A::row_stride] - typename S::U{};
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) sums[r][v] = add_products(sums[r][v], x, column[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < pair_rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      float* target = c + r * ldc + v * S::lanes;
      S::store(target, accumulate ? S::load(target) + sums[r][v] : sums[r][v]);
    }
}
#endif

// Pairs that a product of that depth multiplies.
constexpr int64_t multiplied_pairs(int64_t depth) { return round_up((depth + 1) / 2, pair_step); }

// A tile of rows against the panel of `vectors` vectors, pairs [first, last), where first begins a block.
template <class A, int b_parts>
inline void pair_product(const Pair* tile, const Pair* panel, int vectors, int64_t pairs_of_panel, int64_t first,
                         int64_t last, float* c, int64_t ldc, bool accumulate) {
  constexpr int lanes = Simd<float>::lanes;
  for (int64_t pair = first; pair < last; pair += stage_depth) {
    const Pair* a = tile + A::at_pair(pair);
    const Pair* b = panel + pair * vectors * lanes;
    const int64_t part = pairs_of_panel * vectors * lanes, count = min_of(stage_depth, last - pair);
    if (vectors == 2)
      pair_tile<2, A, b_parts>(a, b, part, count, c, ldc, accumulate || pair > first);
    else
      pair_tile<1, A, b_parts>(a, b, part, count, c, ldc, accumulate || pair > first);
  }
}

}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
