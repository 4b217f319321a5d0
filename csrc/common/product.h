// Register-tiled matrix products shared by the CPU kernels: C[rows, columns] (+)= A[rows, depth] B[depth, columns],
// a tile of tile_rows x (1 or 2 vectors) at a time. B is packed in panels [depth][panel width]; A is read one scalar
// per row and step and broadcast. No cache blocking here: callers choose panels that stay in cache.
#pragma once

#include "common/simd.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {

// Depth of one staged block of rows, and the distance between its rows: an odd number of cache lines, so that the
// rows fall into different cache sets.
constexpr int64_t stage_depth = 256;
constexpr int64_t stage_stride = stage_depth + 16;
constexpr int64_t stage_block = tile_rows * stage_stride;

constexpr int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }
constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// One tile: a[r * RowStride + k * StepStride], b[k * NV * lanes ...], c[r * ldc ...]; strides of A are compile-time
// constants, so that every broadcast is one load at a fixed displacement. A may come in several segments of `depth`
// steps, `segment` elements apart. The sums start from zero and are added to C at the end: callers that split the
// depth thereby sum in blocks, which keeps rounding errors as small as a BLAS's.
template <class T, int NV, int RowStride, int StepStride>
VLMADAPT_INLINE void product_tile(const T* __restrict a, const T* __restrict b, int64_t depth, T* __restrict c,
                                  int64_t ldc, bool accumulate, int64_t segments = 1, int64_t segment = 0) {
  using S = Simd<T>;
  typename S::V sums[tile_rows][NV] = {};
  for (int64_t s = 0; s < segments; ++s, a += segment - depth * StepStride)
    for (int64_t k = 0; k < depth; ++k) {
      typename S::V column[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) column[v] = S::load(b + v * S::lanes);
#pragma GCC unroll 16
      for (int r = 0; r < tile_rows; ++r) {
        const T x = a[r * RowStride];
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) sums[r][v] += x * column[v];
      }
      a += StepStride;
      b += NV * S::lanes;
    }
#pragma GCC unroll 16
  for (int r = 0; r < tile_rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      T* target = c + r * ldc + v * S::lanes;
      S::store(target, accumulate ? S::load(target) + sums[r][v] : sums[r][v]);
    }
}

// Panels of a packed matrix: all are two vectors wide, except a last one that needs only one.
template <class T>
struct Panels {
  int64_t columns;  // before padding

  int64_t count() const { return (columns + Simd<T>::panel - 1) / Simd<T>::panel; }
  int vectors(int64_t panel) const { return columns - panel * Simd<T>::panel <= Simd<T>::lanes ? 1 : tile_vectors; }
  int64_t padded() const { return round_up(columns, Simd<T>::lanes); }
};

// Copies up to tile_rows rows of `width` elements into the staged layout [depth block][row][stage_stride].
template <class T, class Row>
VLMADAPT_INLINE void stage_rows(Row row_pointer, int64_t rows, int64_t width, Accum<T>* staged) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* source = row_pointer(r);
    for (int64_t k0 = 0; k0 < width; k0 += stage_depth) {
      Accum<T>* target = staged + (k0 / stage_depth) * stage_block + r * stage_stride;
      const int64_t depth = min_of(stage_depth, width - k0);
      constexpr int64_t lanes = Simd<Accum<T>>::lanes;
      int64_t k = 0;
      for (; k + lanes <= depth; k += lanes) Simd<Accum<T>>::store(target + k, load_widened(source + k0 + k));
      for (; k < depth; ++k) target[k] = to_accum(source[k0 + k]);
    }
  }
}

inline int64_t staged_size(int64_t width) { return round_up(width, stage_depth) / stage_depth * stage_block; }

// tile[r * ldc + q] = staged row r . packed column q, for every panel of `columns`.
template <class T>
inline void staged_product(const T* staged, const T* packed, int64_t width, Panels<T> columns, T* tile, int64_t ldc) {
  using S = Simd<T>;
  for (int64_t p = 0; p < columns.count(); ++p) {
    const T* panel = packed + p * S::panel * width;
    T* c = tile + p * S::panel;
    if (width == 0) {
      for (int r = 0; r < tile_rows; ++r)
        for (int j = 0; j < columns.vectors(p) * S::lanes; ++j) c[r * ldc + j] = 0;
    } else if (columns.vectors(p) == 2) {
      for (int64_t k = 0; k < width; k += stage_depth)
        product_tile<T, 2, stage_stride, 1>(staged + k / stage_depth * stage_block, panel + k * S::panel,
                                            min_of(stage_depth, width - k), c, ldc, k > 0);
    } else {
      for (int64_t k = 0; k < width; k += stage_depth)
        product_tile<T, 1, stage_stride, 1>(staged + k / stage_depth * stage_block, panel + k * S::lanes,
                                            min_of(stage_depth, width - k), c, ldc, k > 0);
    }
  }
}

// Packs the rows [row0, row0 + rows) of a row-major [*, width] matrix as the columns of one panel:
// panel[k * panel_width + j] = matrix[row0 + j, k]; columns beyond `rows` are zero.
template <class T>
inline void pack_panel_transposed(const T* matrix, int64_t row0, int64_t rows, int64_t width, int64_t panel_width,
                                  Accum<T>* panel) {
  constexpr int64_t block = 16;  // a block of the panel stays in L1 while its rows are read
  for (int64_t k0 = 0; k0 < width; k0 += block) {
    const int64_t k1 = min_of(k0 + block, width);
    for (int64_t j = 0; j < panel_width; ++j) {
      if (j < rows) {
        const T* source = matrix + (row0 + j) * width;
        for (int64_t k = k0; k < k1; ++k) panel[k * panel_width + j] = to_accum(source[k]);
      } else {
        for (int64_t k = k0; k < k1; ++k) panel[k * panel_width + j] = 0;
      }
    }
  }
}

}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
