// The instructions that multiply bfloat16, in plain C++, for any vector that simd.h has: included in place of
// common/bf16_instructions.h, so that kernels for processors with AMX run, and are tested, without one.
//
// As Intel's manual states them: operands and results that are subnormal count as zero, sums are rounded to the
// nearest, ties to even, whatever the thread's mode, each product and its addition once (a fused multiply-add).
// VDPBF16PS adds the upper halves of all pairs, then the lower. TDPBF16PS adds, over the pairs of its 16 or fewer, the
// lower halves to one sum and the upper to another, then one to the other, and that to the tile. A tile that was not
// shaped, or is loaded, stored or multiplied after its release, is a fault, and ends the process here too.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "common/simd.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace emulated {

inline float without_subnormal(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

// One half of a pair: 0 is the lower.
inline float half_of(uint32_t pair, int half) {
  return without_subnormal(to_accum(bf16{static_cast<uint16_t>(pair >> (16 * half))}));
}

// A product of two bfloat16 has 16 bits and a sum of floats fits in double but for what is far below its last bit: the
// library's fma rounds once.
inline float multiply_add(float a, float b, float sum) {
  return without_subnormal(std::fma(a, b, without_subnormal(sum)));
}

inline float add(float a, float b) { return without_subnormal(without_subnormal(a) + without_subnormal(b)); }

}  // namespace emulated

inline Simd<float>::V add_products(Simd<float>::V sums, Simd<float>::U a, Simd<float>::U b) {
  for (int lane = 0; lane < Simd<float>::lanes; ++lane)
    for (int half : {1, 0})
      sums[lane] =
          emulated::multiply_add(emulated::half_of(a[lane], half), emulated::half_of(b[lane], half), sums[lane]);
  return sums;
}

#ifdef VLMADAPT_TILES
namespace emulated {

struct Tile {
  int rows = 0, bytes = 0;  // 0: not shaped
  uint32_t row[16][16];

  void load(const void* base, int64_t stride) {
    std::memset(row, 0, sizeof(row));
    for (int r = 0; r < rows; ++r) std::memcpy(row[r], static_cast<const char*>(base) + r * stride, bytes);
  }
  void store(void* base, int64_t stride) const {
    for (int r = 0; r < rows; ++r) std::memcpy(static_cast<char*>(base) + r * stride, row[r], bytes);
  }
  float get(int r, int column) const {
    float x;
    std::memcpy(&x, &row[r][column], sizeof(x));
    return x;
  }
  void set(int r, int column, float x) { std::memcpy(&row[r][column], &x, sizeof(x)); }
};

inline Tile& tile(int number) {
  static thread_local Tile tiles[8];
  return tiles[number];
}

inline Tile& shaped(int number) {
  if (tile(number).rows != 0) return tile(number);
  std::fprintf(stderr, "tile %d is used without a shape\n", number);
  std::abort();
}

}  // namespace emulated

inline void _tile_loadconfig(const void* shapes) {
  const unsigned char* bytes = static_cast<const unsigned char*>(shapes);
  for (int t = 0; t < 8; ++t) {
    emulated::tile(t).rows = bytes[48 + t];
    emulated::tile(t).bytes = bytes[16 + 2 * t] + 256 * bytes[17 + 2 * t];
    std::memset(emulated::tile(t).row, 0, sizeof(emulated::Tile::row));
    if (bytes[0] != 1 || emulated::tile(t).rows > 16 || emulated::tile(t).bytes > 64) std::abort();
  }
}
inline void _tile_release() {
  for (int t = 0; t < 8; ++t) emulated::tile(t).rows = emulated::tile(t).bytes = 0;
}
inline void _tile_zero(int t) { std::memset(emulated::shaped(t).row, 0, sizeof(emulated::Tile::row)); }
inline void _tile_loadd(int t, const void* base, int64_t stride) { emulated::shaped(t).load(base, stride); }
inline void _tile_stored(int t, void* base, int64_t stride) { emulated::shaped(t).store(base, stride); }

inline void _tile_dpbf16ps(int sums, int left, int right) {
  emulated::Tile &c = emulated::shaped(sums), &a = emulated::shaped(left), &b = emulated::shaped(right);
  if (a.rows != c.rows || b.bytes != c.bytes || a.bytes != 4 * b.rows) std::abort();
  for (int m = 0; m < c.rows; ++m)
    for (int n = 0; n < c.bytes / 4; ++n) {
      float lower = 0, upper = 0;
      for (int k = 0; k < a.bytes / 4; ++k) {
        lower = emulated::multiply_add(emulated::half_of(a.row[m][k], 0), emulated::half_of(b.row[k][n], 0), lower);
        upper = emulated::multiply_add(emulated::half_of(a.row[m][k], 1), emulated::half_of(b.row[k][n], 1), upper);
      }
      c.set(m, n, emulated::add(c.get(m, n), emulated::add(lower, upper)));
    }
}
#endif

}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
