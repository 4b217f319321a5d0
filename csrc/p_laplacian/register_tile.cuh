// Tiles in registers: 64 owned rows (32 where sums are doubles) by 64 rows of the other side, a block of 128 threads.
// Half a warp shares its owned rows; of the tile a thread has every eighth owned row from its `group` on and every
// sixteenth other row from its `lane` on, 8 x 4 pairs (4 x 4 of doubles) in registers. Matrices of any width go by in
// chunks of 32 columns, and no more columns are multiplied than there are, rounded up to four. Four columns at once
// come from shared memory: of the 12 loads of 16 bytes a step, 128 multiply-adds are made.
#pragma once

#include "p_laplacian/device.cuh"

namespace vlmadapt::p_laplacian {

constexpr int kGroups = 8, kLanes = kThreads / kGroups;
constexpr int kOthersEach = 4, kOthers = kLanes * kOthersEach;
constexpr int kChunk = 32;
constexpr int kChunkStride = kChunk + 4;  // eight rows fall into different banks, 16 bytes each
constexpr int kPairStride = kOthers + 4;

template <class T>
constexpr int kOwnedEach = sizeof(T) == 8 ? 4 : 8;
template <class T>
constexpr int kOwned = kGroups * kOwnedEach<T>;

// Four neighbours, loaded and stored at once.
template <class T>
struct alignas(16) Four {
  T at[4];
};
template <class T>
__device__ __forceinline__ Four<T>& four(T* address) {
  return *reinterpret_cast<Four<T>*>(address);
}
template <class T>
__device__ __forceinline__ const Four<T>& four(const T* address) {
  return *reinterpret_cast<const Four<T>*>(address);
}
template <class E>
struct alignas(4 * sizeof(E) < 16 ? 4 * sizeof(E) : 16) FourElements {
  E at[4];
};

// Whether rows may be read four elements at once.
template <class E>
__device__ __forceinline__ bool by_four(const E* data, int64_t width) {
  return reinterpret_cast<uintptr_t>(data) % alignof(FourElements<E>) == 0 && width % 4 == 0;
}

// Columns of a chunk, and by how many groups of four threads, a power of two, they are shared.
struct Chunk {
  int width, shift;  // 2^shift groups

  __device__ Chunk(int64_t matrix_width, int64_t column)
      : width(matrix_width - column < kChunk ? static_cast<int>(matrix_width - column) : kChunk),
        shift(width > 16  ? 3
              : width > 8 ? 2
              : width > 4 ? 1
                          : 0) {}
};

// to[r, c] = matrix[first + r, column + c] for r < rows, zero outside, up to the chunk's width rounded up.
template <int rows, class E, class T>
__device__ __forceinline__ void load_rows(T* to, const Matrix<E>& matrix, int64_t first, int64_t column, Chunk chunk) {
  constexpr int loads = rows * (kChunk / 4) / kThreads;  // of a thread, at most
  const int thread = static_cast<int>(threadIdx.x), row = thread >> chunk.shift, step = kThreads >> chunk.shift;
  const int c = 4 * (thread - (row << chunk.shift));
  const int left = matrix.rows - first < rows ? static_cast<int>(matrix.rows - first) : rows;
  const bool wide = by_four(matrix.data, matrix.width);
  const E* from = matrix.data + (first + row) * matrix.width + column + c;
  Four<T> x[loads] = {};
#pragma unroll
  for (int n = 0; n < loads; ++n) {
    if (row + n * step < left && c < chunk.width) {
      if (wide) {
        const FourElements<E> loaded = *reinterpret_cast<const FourElements<E>*>(from);
#pragma unroll
        for (int k = 0; k < 4; ++k) x[n].at[k] = widen(loaded.at[k]);
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k)
          if (c + k < chunk.width) x[n].at[k] = widen(from[k]);
      }
    }
    from += step * matrix.width;
  }
#pragma unroll
  for (int n = 0; n < loads; ++n)
    if (row + n * step < rows) four(to + (row + n * step) * kChunkStride + c) = x[n];
}

// Which pairs of a tile there are, in the tile's own numbers.
struct TileBounds {
  int queries, keys, self;  // key query + self is the query's own node

  __device__ static int clamped(int64_t x, int low, int high) {
    return x < low ? low : x > high ? high : static_cast<int>(x);
  }
  __device__ TileBounds(int64_t queries_left, int64_t keys_left, int64_t own)
      : queries(clamped(queries_left, 0, kOthers)),
        keys(clamped(keys_left, 0, kOthers)),
        self(clamped(own, -kOthers, kOthers)) {}
};

// The shared arrays of a block and a thread's place.
template <class T>
struct Block {
  T *own, *other;      // a chunk of either side
  T* pairs;            // of an owned row, those of other rows k, k + 16, k + 32, k + 48 are neighbours
  T *keep_w, *keep_p;  // of owned rows: what scales the sums so far
  T* likely;           // more pairs, where there is a context
  int group, lane;

  __device__ explicit Block(T* shared)
      : own(shared),
        other(own + kOwned<T> * kChunkStride),
        pairs(other + kOthers * kChunkStride),
        keep_w(pairs + kOwned<T> * kPairStride),
        keep_p(keep_w + kOwned<T>),
        likely(keep_p + kOwned<T>),
        group(static_cast<int>(threadIdx.x) / kLanes),
        lane(static_cast<int>(threadIdx.x) % kLanes) {}

  __device__ int own_row(int i) const { return group + kGroups * i; }
  __device__ int other_row(int m) const { return lane + kLanes * m; }
};

template <class T>
constexpr int forward_shared_bytes(bool with_context) {
  return ((kOwned<T> + kOthers) * kChunkStride + (with_context ? 2 : 1) * kOwned<T> * kPairStride +
          2 * kOwned<T>)*static_cast<int>(sizeof(T));
}

template <class T>
using PairSums = T[kOwnedEach<T>][kOthersEach];

// Calls term(i, m, own[own_row(i), c], other[other_row(m), c]) for all columns c, and for zeros up to a multiple of
// four. The arrays must be free; it ends with them in use, the last chunk in them.
template <class L, class R, class T, class Term>
__device__ __forceinline__ void each_pair(const Block<T>& b, const Matrix<L>& own, int64_t first_own,
                                          const Matrix<R>& other, int64_t first_other, const Term& term) {
  for (int64_t column = 0; column < own.width; column += kChunk) {
    const Chunk chunk(own.width, column);
    if (column > 0) __syncthreads();
    load_rows<kOwned<T>>(b.own, own, first_own, column, chunk);
    load_rows<kOthers>(b.other, other, first_other, column, chunk);
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < chunk.width; c += 4) {
      Four<T> y[kOthersEach];
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) y[m] = four(b.other + b.other_row(m) * kChunkStride + c);
#pragma unroll
      for (int i = 0; i < kOwnedEach<T>; ++i) {
        const Four<T> x = four(b.own + b.own_row(i) * kChunkStride + c);
#pragma unroll
        for (int m = 0; m < kOthersEach; ++m)
#pragma unroll
          for (int k = 0; k < 4; ++k) term(i, m, x.at[k], y[m].at[k]);
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void set_zero(PairSums<T>& sums) {
#pragma unroll
  for (int i = 0; i < kOwnedEach<T>; ++i)
#pragma unroll
    for (int m = 0; m < kOthersEach; ++m) sums[i][m] = T(0);
}

// sums[i][m] = own[own_row(i)] . other[other_row(m)] over the whole width.
template <class L, class R, class T>
__device__ __forceinline__ void pair_products(PairSums<T>& sums, const Block<T>& b, const Matrix<L>& own,
                                              int64_t first_own, const Matrix<R>& other, int64_t first_other) {
  set_zero<T>(sums);
  each_pair(b, own, first_own, other, first_other, [&](int i, int m, T x, T y) { sums[i][m] += x * y; });
}

// Squared distances, and where `signed_sums` the sums of the signed differences own - other.
template <bool signed_sums, class E, class T>
__device__ __forceinline__ void pair_distances(PairSums<T>& squares, PairSums<T>& differences, const Block<T>& b,
                                               const Matrix<E>& own, int64_t first_own, const Matrix<E>& other,
                                               int64_t first_other) {
  set_zero<T>(squares);
  set_zero<T>(differences);
  each_pair(b, own, first_own, other, first_other, [&](int i, int m, T x, T y) {
    const T difference = x - y;
    squares[i][m] += difference * difference;
    if (signed_sums) differences[i][m] += difference;
  });
}

template <class T>
__device__ __forceinline__ void store_pairs(T* to, const Block<T>& b, const PairSums<T>& sums) {
#pragma unroll
  for (int i = 0; i < kOwnedEach<T>; ++i) {
    Four<T> x;
#pragma unroll
    for (int m = 0; m < kOthersEach; ++m) x.at[m] = sums[i][m];
    four(to + b.own_row(i) * kPairStride + kOthersEach * b.lane) = x;
  }
}

// to[row, c] = merge(row, to[row, c], sum over the other rows of pairs[row, other] x), where x is other[c] or, with
// `differences`, own[row, c] - other[c]; instead of to[row, c] zero where `fresh`. load(column, chunk) puts a chunk of
// the other side, and with `differences` of the own one, into the block's arrays. Eight threads share every sixteenth
// row: `pieces` groups of four columns times slices of the other side, so that a narrow matrix keeps all of them busy.
// The last chunk comes first; where `there`, it lies in the arrays already.
template <bool differences, class T, class Load, class Merge>
__device__ __forceinline__ void weigh_rows(T* to, int64_t rows, const Block<T>& b, const T* pairs, bool fresh,
                                           int64_t width, bool there, const Load& load, const Merge& merge) {
  constexpr int rows_each = kOwned<T> / 16;
  const int row = static_cast<int>(threadIdx.x) / 8, place = static_cast<int>(threadIdx.x) % 8;
  const bool wide = by_four(to, width);
  for (int64_t column = (width - 1) / kChunk * kChunk; column >= 0 && width > 0; column -= kChunk) {
    const Chunk chunk(width, column);
    __syncthreads();  // the pairs are there, and the chunk before has been read
    if (!there) {
      load(column, chunk);
      __syncthreads();
    }
    there = false;
    const int pieces = 1 << chunk.shift, slice = place >> chunk.shift, slices = 8 >> chunk.shift;
    const int c = 4 * (place - (slice << chunk.shift));
    T sums[rows_each][4] = {};
    Four<T> home[rows_each];
    if (differences)
#pragma unroll
      for (int i = 0; i < rows_each; ++i) home[i] = four(b.own + (row + 16 * i) * kChunkStride + c);
#pragma unroll 1
    for (int k = slice; k < kLanes; k += slices) {
      Four<T> weight[rows_each];
#pragma unroll
      for (int i = 0; i < rows_each; ++i) weight[i] = four(pairs + (row + 16 * i) * kPairStride + 4 * k);
#pragma unroll
      for (int m = 0; m < kOthersEach; ++m) {
        const Four<T> x = four(b.other + (k + kLanes * m) * kChunkStride + c);
#pragma unroll
        for (int i = 0; i < rows_each; ++i)
#pragma unroll
          for (int n = 0; n < 4; ++n) sums[i][n] += weight[i].at[m] * (differences ? home[i].at[n] - x.at[n] : x.at[n]);
      }
    }
    for (int step = pieces; step < 8; step *= 2)
#pragma unroll
      for (int i = 0; i < rows_each; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) sums[i][n] += __shfl_xor_sync(0xffffffffu, sums[i][n], step);
    if (slice > 0) continue;
#pragma unroll
    for (int i = 0; i < rows_each; ++i) {
      if (row + 16 * i >= rows || c >= chunk.width) continue;
      T* at = to + (row + 16 * i) * width + column + c;
      if (wide) {
        Four<T> x = fresh ? Four<T>{} : four(at);
#pragma unroll
        for (int n = 0; n < 4; ++n) x.at[n] = merge(row + 16 * i, x.at[n], sums[i][n]);
        four(at) = x;
      } else {
#pragma unroll
        for (int n = 0; n < 4; ++n)
          if (c + n < chunk.width) at[n] = merge(row + 16 * i, fresh ? T(0) : at[n], sums[i][n]);
      }
    }
  }
}

// The sums of the other side's rows.
template <class E, class T, class Merge>
__device__ __forceinline__ void add_pairs(T* to, int64_t rows, const Block<T>& b, const T* pairs, bool fresh,
                                          const Matrix<E>& other, int64_t first_other, bool there, const Merge& merge) {
  const auto load = [&](int64_t column, const Chunk& chunk) {
    load_rows<kOthers>(b.other, other, first_other, column, chunk);
  };
  weigh_rows<false>(to, rows, b, pairs, fresh, other.width, there, load, merge);
}

// Of the sixteen threads that share an owned row.
template <class T>
__device__ __forceinline__ T lanes_sum(T x) {
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
template <class T>
__device__ __forceinline__ T lanes_max(T x) {
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) {
    const T y = __shfl_xor_sync(0xffffffffu, x, step);
    x = y > x ? y : x;
  }
  return x;
}

}  // namespace vlmadapt::p_laplacian
