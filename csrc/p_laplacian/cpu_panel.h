// What forward and backward share for given attention probabilities: lanes run over keys, so that rows of attention are
// read as they lie. A head's x_value is transposed once into a panel [features][keys]; all that belongs to a query is
// broadcast. Work goes in stages over rows of a few hundred pairs (distances, powers, sums), each a loop of its own:
// one chain through all of them is longer than the processor looks ahead.
#pragma once

#include "p_laplacian/cpu_rows.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

// A block of queries meets a tile of keys in a scratch matrix of about `pairs` pairs, its rows as close as those of the
// attention: where the tile is all keys, the block's attention is one run, of which no vector is part empty.
struct PairTile {
  static constexpr int64_t max_queries = 64;
  PairTile(const Problem& p, int64_t pairs)
      : keys(max_of(min_of(p.num_keys, pairs / 2), 1)),
        queries(max_of(min_of(min_of(pairs / keys, p.num_queries), max_queries), 1)),
        pairs(keys * queries) {}
  const int64_t keys, queries, pairs;
};

// columns[c * ld + j], c < padded_features, j < num_keys, with ld an odd number of vectors: powers of two would put all
// rows into the same cache sets.
template <class A>
class KeyPanel {
 public:
  explicit KeyPanel(const Problem& p)
      : width(padded_features(p.features)),
        ld(padded<A>(p.num_keys) | Simd<A>::lanes),
        columns_(padded<A>(p.features) * ld + width * ld) {}

  void clear() {
    for (int64_t i = 0; i < width * ld; ++i) columns_[i] = 0;
  }

  // Transposes a head's rows [num_keys, features].
  void fill(const Problem& p, int64_t head) {
    using S = Simd<A>;
    const int64_t keys = p.num_keys, d = p.features;
    Buffer<A> converted(converted_count<A>(p.dtype, keys * d));
    const A* rows = read<A>(p.dtype, p.x_value, head * keys * d, keys * d, converted.data());
    int64_t j = 0;
    if (d % features_step == 0)  // rows are read past their end, but not past the matrix
      for (; j * d + S::lanes * d + S::lanes <= keys * d; j += S::lanes)
        for (int64_t c = 0; c < d; c += S::lanes) {
          A block[S::lanes * S::lanes];
          transpose_block(rows + j * d + c, d, block, S::lanes);
          for (int64_t i = 0; i < min_of(S::lanes, d - c); ++i)
            S::store(column(c + i) + j, S::load(block + i * S::lanes));
        }
    for (int64_t c = 0; c < width; ++c)
      for (int64_t k = c < d ? j : 0; k < ld; ++k) column(c)[k] = c < d && k < keys ? rows[k * d + c] : A(0);
  }

  // Back into rows [num_keys, features].
  void write(const Problem& p, A* rows) {
    using S = Simd<A>;
    const int64_t d = p.features;
    for (int64_t j = 0; j < p.num_keys; j += S::lanes)
      for (int64_t c = 0; c < d; c += S::lanes) {
        A block[S::lanes * S::lanes];
        transpose_block(column(c) + j, ld, block, S::lanes);  // reads columns beyond the last, and drops them
        for (int64_t i = 0; i < min_of(S::lanes, p.num_keys - j); ++i)
          store_row<A>(rows + (j + i) * d + c, S::load(block + i * S::lanes), d - c);
      }
  }

  A* column(int64_t c) { return columns_.data() + c * ld; }

  const int64_t width, ld;

 private:
  Buffer<A> columns_;
};

// Keys from here on have no edge.
inline int64_t keys_seen(const Problem& p, int64_t head) {
  return p.key_lengths == nullptr ? p.num_keys : min_of(max_of(p.key_lengths[head / p.heads], 0), p.num_keys);
}

// Calls body(offset in the scratch matrix, attention there) for all pairs of the queries [row, row + count) and the
// keys [j0, j0 + keys), vector by vector; the third argument is the number of lanes that count.
template <class A, class Body>
VLMADAPT_INLINE void for_pairs(const Problem& p, int64_t row, int64_t count, int64_t j0, int64_t keys, A* converted,
                               Body body) {
  using S = Simd<A>;
  const bool joined = keys == p.num_keys;
  const int64_t length = joined ? count * keys : keys;
  for (int64_t at = 0; at < count * keys; at += length, ++row) {
    const A* attention = read<A>(p.dtype, p.attention, row * p.num_keys + j0, length, converted);
    int64_t j = 0;
    for (; j + S::lanes <= length; j += S::lanes) body(at + j, S::load(attention + j), S::lanes);
    if (j < length) body(at + j, S::load_first(attention + j, length - j), length - j);
  }
}

// Asks for the attention of the next `count` queries ahead of time.
template <class A>
VLMADAPT_INLINE void prefetch_attention(const Problem& p, int64_t row, int64_t count, int64_t j0, int64_t keys) {
  const int64_t bytes = is_accum<A>(p.dtype) ? sizeof(A) : 2;
  for (int64_t i = 0; i < count; ++i) {
    const char* from = static_cast<const char*>(p.attention) + ((row + i) * p.num_keys + j0) * bytes;
    for (int64_t at = 0; at < keys * bytes; at += 64) __builtin_prefetch(from + at);
  }
}

// Marks pairs of a query with itself by a negative squared distance, in the scratch matrix of a tile.
template <class A>
inline void mark_self_pairs(const Problem& p, int64_t first, int64_t count, int64_t j0, int64_t keys, A* squares) {
  if (!p.drop_diagonal) return;
  const int64_t start = first + p.num_keys - p.num_queries - j0;  // the first query's own key
  for (int64_t i = max_of(0, -start); i < min_of(count, keys - start); ++i) squares[i * keys + start + i] = -1;
}

// The lanes of a row's last vector that count, and the whole vectors before it.
template <class A>
struct RowEnd {
  using S = Simd<A>;
  explicit RowEnd(int64_t keys) : whole(keys / S::lanes * S::lanes), rest(keys - whole) {
    for (int lane = 0; lane < S::lanes; ++lane) inside[lane] = lane < rest ? -1 : 0;
  }

  VLMADAPT_INLINE typename S::V load(int64_t j, const A* from) const {
    const typename S::V v = S::load(from);
    return j < whole ? v : inside ? v : typename S::V{};
  }
  // Keeps what lies beyond the row.
  VLMADAPT_INLINE void store(int64_t j, A* to, typename S::V v) const {
    S::store(to, j < whole ? v : inside ? v : S::load(to));
  }

  const int64_t whole, rest;
  typename S::I inside;
};

// Calls body(Rows<2>, first) for every two of `count` rows, and Rows<1> for an odd last one.
template <class Body>
VLMADAPT_INLINE void for_row_pairs(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + 2 <= count; i += 2) body(Rows<2>{}, i);
  if (i < count) body(Rows<1>{}, i);
}

// v[i], i < count: halves of two vectors are added into one, then quarters, ... until v[0] holds all sums.
template <class A, int count>
VLMADAPT_INLINE void add_halves(typename Simd<A>::V* v) {
  using S = Simd<A>;
  if constexpr (count > 1) {
    constexpr int block = count / 2;
    const typename S::I low = S::load_mask(halves<A, block>.low), high = S::load_mask(halves<A, block>.high);
#pragma GCC unroll 8
    for (int i = 0; i < block; ++i) {
      const typename S::V a = v[i], b = v[i + block];
      v[i] = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
    }
    add_halves<A, block>(v);
  }
}

// sums[i] = the sum of all lanes of the i-th of `count` vectors, which lie in memory.
template <class A, int count>
VLMADAPT_INLINE void lane_sums(const A* vectors, A* sums) {
  using S = Simd<A>;
  for (int first = 0; first < count; first += S::lanes) {
    typename S::V v[S::lanes] = {};
#pragma GCC unroll 16
    for (int i = 0; i < S::lanes; ++i)
      if (first + i < count) v[i] = S::load(vectors + (first + i) * S::lanes);
    add_halves<A, S::lanes>(v);
    if constexpr (count < S::lanes)
      S::store_first(sums, v[0], count);
    else
      S::store(sums + first, v[0]);
  }
}

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
