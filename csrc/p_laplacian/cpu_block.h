// What forward and backward from scores share: one block of queries of one head against tiles of its keys.
//
// Lanes run over queries, so that running maxima, sums and every per-query quantity are vertical. A block has NV
// vectors of queries, transposed once to [width][lanes]; keys come in tiles of key_tile rows, read where they lie
// (converted first for 16-bit types).
#pragma once

#include "p_laplacian/cpu_rows.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

constexpr int64_t key_tile = 32;

// Queries are cut into blocks of block_queries<A>() and a last shorter one; block_vectors is its NV.
template <class A>
constexpr int64_t block_queries() {
  return max_vectors * Simd<A>::lanes;
}

// Calls body(Rows<NV>) with the NV that holds `queries` of a block.
template <class A, class Body>
VLMADAPT_INLINE void with_vectors(int64_t queries, Body body) {
  const int64_t vectors = divide_up(queries, Simd<A>::lanes);
  if (vectors == 1)
    body(Rows<1>{});
  else if (max_vectors == 2 || vectors == 2)
    body(Rows<2>{});
  else
    body(Rows<max_vectors>{});
}

// Sums of one tile, added to the running ones at its end: short chains keep rounding errors small, and the sums live
// in registers during a loop whose stores could touch members, for all the compiler knows.
template <class V, int N>
struct Sums {
  explicit Sums(V* to) : home(to) {
    for (int v = 0; v < N; ++v) at[v] = V{};
  }
  ~Sums() {
    for (int v = 0; v < N; ++v) home[v] += at[v];
  }
  V* home;
  V at[N];
};

// Rows [row0, row0 + rows) of a head's matrix in the accumulation type; 16-bit types are converted into a buffer.
template <class A>
class TileRows {
 public:
  TileRows(Dtype dtype, const void* matrix, int64_t head, int64_t rows, int64_t width)
      : dtype_(dtype),
        matrix_(matrix),
        start_(head * rows * width),
        width_(width),
        converted_(matrix == nullptr ? 0 : converted_count<A>(dtype, key_tile * width)) {}

  const A* load(int64_t row0, int64_t rows) {
    return read<A>(dtype_, matrix_, start_ + row0 * width_, rows * width_, converted_.data());
  }

 private:
  Dtype dtype_;
  const void* matrix_;
  int64_t start_, width_;
  Buffer<A> converted_;
};

// to[c * ld + i] = factor * from[i, c] for `count` rows, zero for the lanes beyond.
template <class A>
inline void transpose_rows(const A* from, int64_t width, int64_t count, int64_t ld, A factor, A* to) {
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t i = 0; i < count; ++i) to[c * ld + i] = factor * from[i * width + c];
    for (int64_t i = count; i < ld; ++i) to[c * ld + i] = 0;
  }
}

// to[i * ld + c] = factor * from[i, c] for `count` rows, zero in the columns beyond.
template <class A>
inline void pad_rows(const A* from, int64_t width, int64_t count, int64_t ld, A factor, A* to) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < width; ++c) to[i * ld + c] = factor * from[i * width + c];
    for (int64_t c = width; c < ld; ++c) to[i * ld + c] = 0;
  }
}

// to[r, :] += sum over `count` queries of tile[r, i] from[i, :]; rows of `from` and `to` are padded to whole vectors.
template <class A>
inline void add_rows(const A* tile, int64_t ld, int64_t rows, const A* from, int64_t count, A* to, int64_t width) {
  constexpr int64_t step = max_vectors * Simd<A>::lanes;
  for (int64_t c = 0; c < width; c += step)
    with_vectors<A>(min_of(step, width - c), [&](auto vectors) {
      multiply<A, decltype(vectors)::count>(tile, ld, 1, from + c, width, rows, count, to + c, width, true);
    });
}

// The scores of a block of queries.
template <class A, int NV>
class QueryBlock {
 public:
  using S = Simd<A>;
  using V = typename S::V;
  static constexpr int64_t ld = NV * S::lanes;

  QueryBlock(const AttentionScores& attention, int64_t head, int64_t first, int64_t count)
      : head(head),
        first(first),
        count(count),
        offset(attention.num_keys - attention.num_queries),
        attention_(attention),
        query_(attention.width * ld) {
    transpose(attention.query, attention.width, static_cast<A>(attention.scale), query_.data());
  }

  // Keys from here on are seen by no query of the block.
  int64_t key_end() const {
    int64_t end = attention_.num_keys;
    if (attention_.key_lengths != nullptr)
      end = min_of(end, max_of(attention_.key_lengths[head / attention_.heads], 0));
    return attention_.causal ? min_of(end, max_of(first + count + offset, 0)) : end;
  }

  // tile[r, lane] = scale query . key + mask, minus infinity where masked; keys are the rows j0, j0 + 1, ...
  void scores(const A* keys, int64_t j0, int64_t rows, A* tile) {
    const int64_t width = attention_.width;
    multiply<A, NV>(keys, width, 1, query_.data(), ld, rows, width, tile, ld, false);
    if (attention_.mask_kind != MaskKind::none) mask(j0, rows, tile);
    if (attention_.causal)
      for (int64_t r = max_of(first + offset + 1 - j0, 0); r < rows; ++r)
        for (int64_t i = 0; i < min_of(j0 + r - offset - first, ld); ++i) tile[r * ld + i] = -__builtin_inff();
  }

  const int64_t head, first, count, offset;

 protected:
  // The block's rows of a matrix [.., num_queries, width], transposed and scaled.
  void transpose(const void* matrix, int64_t width, A factor, A* to) const {
    const int64_t row = head * attention_.num_queries + first;
    Buffer<A> rows(converted_count<A>(attention_.dtype, count * width));
    transpose_rows(read<A>(attention_.dtype, matrix, row * width, count * width, rows.data()), width, count, ld, factor,
                   to);
  }

 private:
  void mask(int64_t j0, int64_t rows, A* tile) const {
    const bool additive = attention_.mask_kind == MaskKind::additive;
    const int64_t *strides = attention_.mask_strides, heads = attention_.heads;
    const int64_t start = head / heads * strides[0] + head % heads * strides[1] + first * strides[2];
    const auto* seen = static_cast<const uint8_t*>(attention_.mask) + start;
    const A* added = static_cast<const A*>(attention_.mask) + start;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t key = (j0 + r) * strides[3];
      A* scores = tile + r * ld;
      if (strides[2] == 0) {  // one value for all queries, such as padding
        const A shift = additive ? added[key] : seen[key] ? A(0) : A(-__builtin_inff());
        if (shift != 0)
          for (int64_t i = 0; i < count; ++i) scores[i] += shift;
      } else if (additive) {
        for (int64_t i = 0; i < count; ++i) scores[i] += added[i * strides[2] + key];
      } else {
        for (int64_t i = 0; i < count; ++i)
          if (!seen[i * strides[2] + key]) scores[i] = -__builtin_inff();
      }
    }
  }

  const AttentionScores& attention_;
  Buffer<A> query_;
};

// With the block's features, as p-Laplacian attention needs them.
template <class A, int NV>
class Block : public QueryBlock<A, NV> {
 public:
  using QueryBlock<A, NV>::ld, QueryBlock<A, NV>::first, QueryBlock<A, NV>::count, QueryBlock<A, NV>::offset;

  Block(const Problem& p, int64_t head, int64_t first, int64_t count)
      : QueryBlock<A, NV>(p, head, first, count),
        exponent(static_cast<const A*>(p.p)[head % p.heads]),
        pull(static_cast<const A*>(p.pull)[head % p.heads]),
        plain(exponent == 2),
        x(p.features * ld),
        problem_(p) {
    this->transpose(p.x_query, p.features, A(1), x.data());
  }

  // Marks pairs of a node with itself by a negative squared distance.
  void mark_diagonal(int64_t j0, int64_t rows, A* squared) const {
    if (!problem_.drop_diagonal) return;
    for (int64_t i = max_of(0, j0 - offset - first); i < min_of(count, j0 + rows - offset - first); ++i)
      squared[(first + i + offset - j0) * ld + i] = -1;
  }

  const A exponent, pull;
  const bool plain;  // p = 2: the weights are the attention itself
  Buffer<A> x;

 private:
  const Problem& problem_;
};

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
