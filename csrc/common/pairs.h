// bfloat16 operands of products: how float numbers become one or two bfloat16, and how those lie in memory.
//
// `parts` is how many bfloat16 stand for a number: 1, the nearest, or 2, the nearest and that of the rest, which
// together differ from it by at most 2^-18 of its size. Two pairs of numbers multiply in three products, without that
// of the rests, which is at most 2^-18 of the whole.
#pragma once

#include "common/product.h"
#include "common/transpose.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {

using Pair = uint32_t;

// The bits of the nearest bfloat16, in the upper half of each lane.
VLMADAPT_INLINE Simd<float>::U nearest_bf16(Simd<float>::V x) { return nearest_without<16>(x); }

// What the nearest leaves, itself as the nearest bfloat16; zero of infinities and NaN.
VLMADAPT_INLINE Simd<float>::U rest_bf16(Simd<float>::V x, Simd<float>::U nearest) {
  using S = Simd<float>;
  const S::V rest = x - (S::V)nearest;
  return nearest_bf16(rest == rest ? rest : S::V{});
}

// The same with less work where a number is not large, whose nearest bfloat16 is finite without being cut off.
VLMADAPT_INLINE Simd<float>::U nearest_of_small(Simd<float>::V x) {
  const Simd<float>::U bits = (Simd<float>::U)x;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
}

template <int parts>
struct Bf16Parts {
  Simd<float>::U part[parts];  // each in the upper halves

  // small: not is_large, in any lane.
  VLMADAPT_INLINE explicit Bf16Parts(Simd<float>::V x, bool small = false) {
    part[0] = small ? nearest_of_small(x) : nearest_bf16(x);
    if constexpr (parts == 2) part[1] = rest_bf16(x, part[0]);
  }
};

// Up to one vector of numbers of any storage type.
template <class T>
VLMADAPT_INLINE Simd<float>::V load_floats(const T* p, int64_t count) {
  using S = Simd<float>;
  if (count >= S::lanes) return load_widened(p);
  float values[S::lanes] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = to_accum(p[i]);
  return S::load(values);
}

VLMADAPT_INLINE Simd<float>::U load_pairs(const void* p) {
  Simd<float>::U pairs;
  std::memcpy(&pairs, p, sizeof(pairs));
  return pairs;
}
VLMADAPT_INLINE void store_pairs(Pair* p, Simd<float>::U pairs) { std::memcpy(p, &pairs, sizeof(pairs)); }

// The upper halves of all lanes, side by side: half as many pairs.
VLMADAPT_INLINE void store_upper_halves(Pair* p, Simd<float>::U x) { store_halves(p, x >> 16); }

// to[part * distance + ...] = the parts of `count` numbers side by side, zero up to `padded`, a multiple of two.
template <int parts, class T>
VLMADAPT_INLINE void narrow_row(const T* from, int64_t count, int64_t padded, Pair* to, int64_t distance) {
  constexpr int lanes = Simd<float>::lanes;
  if constexpr (std::is_same_v<T, bf16> && parts == 1) {
    int64_t k = 0;  // copied by vectors: a call, or a string instruction, would cost more for so little
    for (; k + 2 * lanes <= count; k += 2 * lanes) store_pairs(to + k / 2, load_pairs(from + k));
    std::memcpy(to + k / 2, from + k, static_cast<size_t>(count - k) * sizeof(bf16));
    std::memset(reinterpret_cast<char*>(to) + count * 2, 0, static_cast<size_t>(padded - count) * sizeof(bf16));
  } else {
    for (int64_t k = 0; k < padded; k += lanes) {
      const Bf16Parts<parts> x(load_floats(from + k, count - k));
      for (int part = 0; part < parts; ++part) store_upper_halves(to + part * distance + k / 2, x.part[part]);
    }
  }
}

// Pairs along a depth of that many numbers, as memory holds them: whole vectors, and whole tiles. Those beyond the
// depth are zero.
constexpr int64_t pair_multiple = 16;
constexpr int64_t pairs_of(int64_t depth) { return round_up((depth + 1) / 2, pair_multiple); }

// The left operand, in blocks of stage_depth pairs of its rows: [tile][block][part][row][stage_stride].
template <int parts, int rows>
struct PairRows {
  static constexpr int num_parts = parts;
  static constexpr int row_stride = stage_stride, pair_stride = 1;
  static constexpr int64_t part = rows * stage_stride;
  static constexpr int64_t block = parts * part;
  int64_t pairs;

  int64_t tile() const { return round_up(pairs, stage_depth) / stage_depth * block; }
  int64_t tile_at(int64_t number) const { return number * tile(); }
  int64_t size(int64_t all_rows) const { return (all_rows + rows - 1) / rows * tile(); }
  // Of a row in its tile, at a pair.
  static int64_t at(int64_t row, int64_t pair) { return at_pair(pair) + row * stage_stride; }
  static int64_t at_pair(int64_t pair) { return pair / stage_depth * block + pair % stage_depth; }

  // Writes row `row` of a tile; `count` numbers, zero up to the last pair.
  template <class T>
  void stage(const T* from, int64_t count, int64_t row, Pair* tile) const {
    for (int64_t pair = 0; pair < pairs; pair += stage_depth) {
      const int64_t depth = 2 * min_of(stage_depth, pairs - pair);
      narrow_row<parts>(from + 2 * pair, max_of(min_of(depth, count - 2 * pair), 0), depth, tile + at(row, pair), part);
    }
  }
};

// The left operand where vectors multiply it, whose elements are broadcast one by one: rows side by side,
// [group of rows][pair][row], with a group of as many as are both whole tiles and whole vectors. Of one part.
template <int rows>
struct PairColumns {
  static constexpr int64_t group = rows * Simd<float>::lanes / 2;
  static_assert(rows % 2 == 0 && Simd<float>::lanes % 2 == 0);
  static constexpr int num_parts = 1;
  static constexpr int row_stride = 1, pair_stride = group;
  static constexpr int64_t part = 0;
  int64_t pairs;

  int64_t tile_at(int64_t number) const { return at(number * rows, 0); }
  int64_t size(int64_t all_rows) const { return round_up(all_rows, group) * pairs; }
  // Of a row among all, at a pair.
  int64_t at(int64_t row, int64_t pair) const { return (row / group * pairs + pair) * group + row % group; }
  static int64_t at_pair(int64_t pair) { return pair * group; }
};

// The right operand, in panels of one or two vectors of columns: [part][pair][column].
// Rows [row0, row0 + rows) of a row-major [*, width] matrix as the columns of one panel; those beyond `rows` are zero.
template <int parts, class T>
inline void pack_pairs_transposed(const T* matrix, int64_t row0, int64_t rows, int64_t width, int64_t panel_width,
                                  Pair* panel) {
  constexpr int64_t lanes = Simd<float>::lanes;
  const int64_t pairs = pairs_of(width);
  alignas(64) Pair square[parts][lanes * lanes];
  for (int64_t pair = 0; pair < pairs; pair += lanes)
    for (int64_t j = 0; j < panel_width; j += lanes) {
      std::memset(square, 0, sizeof(square));
      for (int64_t r = 0; r < min_of(lanes, rows - j); ++r)
        narrow_row<parts>(matrix + (row0 + j + r) * width + 2 * pair, max_of(min_of(2 * lanes, width - 2 * pair), 0),
                          2 * lanes, square[0] + r * lanes, lanes * lanes);
      for (int part = 0; part < parts; ++part)
        transpose_block(reinterpret_cast<const float*>(square[part]), lanes,
                        reinterpret_cast<float*>(panel + (part * pairs + pair) * panel_width + j), panel_width);
    }
}

// One vector of columns of two rows, zero for a row that is not there, as pairs: to[part * distance + column].
template <int parts, class T>
VLMADAPT_INLINE void interleave_rows(const T* even, const T* odd, int64_t columns, Pair* to, int64_t distance) {
  using S = Simd<float>;
  if constexpr (std::is_same_v<T, bf16> && parts == 1) {
    if (even != nullptr && odd != nullptr && columns >= S::lanes) {
      store_pairs(to, load_halves(even) | load_halves(odd) << 16);
      return;
    }
  }
  const Bf16Parts<parts> low(even == nullptr ? S::V{} : load_floats(even, columns));
  const Bf16Parts<parts> high(odd == nullptr ? S::V{} : load_floats(odd, columns));
  for (int part = 0; part < parts; ++part) store_pairs(to + part * distance, (low.part[part] >> 16) | high.part[part]);
}

// A row-major matrix [rows, width] as the right operand, two rows a pair: its pairs [begin, end), rows beyond the last
// zero, in panels [first, last) of columns; panel(p) says where one begins.
template <int parts, class T, class Panel>
inline void pack_pairs(const T* matrix, int64_t rows, int64_t width, int64_t begin, int64_t end, int64_t first,
                       int64_t last, int64_t pairs_of_panel, Panel panel) {
  constexpr int64_t lanes = Simd<float>::lanes;
  constexpr int64_t ahead = 16;  // rows
  const Panels<float> widths{width};
  for (int64_t pair = begin; pair < end; ++pair)
    for (int64_t p = first; p < last; ++p)
      for (int64_t v = 0; v < widths.vectors(p); ++v) {
        const int64_t columns = widths.vectors(p) * lanes, column = p * Simd<float>::panel + v * lanes;
        const T* even = matrix + 2 * pair * width + column;
        __builtin_prefetch(even + ahead * width);
        __builtin_prefetch(even + (ahead + 1) * width);
        interleave_rows<parts>(2 * pair < rows ? even : nullptr, 2 * pair + 1 < rows ? even + width : nullptr,
                               width - column, panel(p) + pair * columns + v * lanes, pairs_of_panel * columns);
      }
}

}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
