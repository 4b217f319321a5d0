// Aggregation over relations on a GPU: one warp a row, the gradients of weights and coefficients in the same pass.
//
//   out[i] = sum_r c_r sum_k w_r[k] matrix_r[columns_r[k]]        (stacked: out[r, i], without the sum over r)
//
// A warp walks over the edges of its row, relation after relation, and keeps 256 columns of the sum in registers (128
// of doubles): few enough that many warps are in flight. Other columns are other blocks', unless edges' dots are
// wanted, which need the whole width: then wider rows are walked over again. The lanes read 32 edges (column, place,
// weight) at once and pass them on by shuffles; four source rows are on their way at a time, in pieces of 16 bytes a
// lane, neighbours side by side. Rows that are not multiples of 16 bytes take single elements in the same kernel.
//
// A row of more than 1,024 edges is cut: segment_kernel adds up all but the first 1,024 edges, 1,024 a warp, and
// aggregate_kernel adds these partial sums in their order. Where a segment's sums lie follows from its first edge
// alone, so nobody counts or reserves. Only relations whose matrix has more than 1,024 rows are cut, for without
// repeated pairs others have no such row.
//
// One owner and a fixed order for every sum: no atomics, results are bit-identical from run to run. Reading the source
// rows is the time there is: E D elements, of which caches catch what is read again.
//
// Ladder: 1. one thread an element, edges read by every thread; 2. edges by shuffles, 16-byte pieces; 3. four edges in
// flight, columns in parallel, long rows cut (this file).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "common/cuda_launch.h"
#include "hetero_aggregate/kernel.h"

namespace vlmadapt::hetero_aggregate {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kDescribed = 16;  // relations that one launch of describe_kernel writes
constexpr int kSegment = 1024;  // edges of a row that one warp adds up

// What a warp needs to know of one relation; read from device memory, since there may be any number of them. Of
// pointers that come from memory the compiler does not know that they are global: what they point to is read by __ldg.
struct Description {
  const int64_t* offsets;
  const void* columns;
  const void* edges;
  const void* weights;
  void* grad_weights;
  const void* coefficient;
  const void* matrix;
  void* row_dots;    // accum [num_rows]: own row . sum of the relation; nullptr: not wanted
  void* partials;    // accum [segments][columns, see Share::put]; nullptr: rows are not cut
  int64_t segments;  // for which there is room
};

struct Descriptions {
  Description at[kDescribed];
};

// Parameters to device memory, in the stream and without a copy from the host: a CUDA graph may replay it.
__global__ void describe_kernel(const Descriptions given, Description* out, int count) {
#pragma unroll
  for (int i = 0; i < kDescribed; ++i)
    if (threadIdx.x == i && i < count) out[i] = given.at[i];
}

template <class E>
struct Element {
  using Accumulator = float;
  static constexpr int per_piece = 16 / static_cast<int>(sizeof(E));
  static constexpr int pieces = 8 / per_piece;  // of a lane: 256 columns a warp
};
template <>
struct Element<double> {
  using Accumulator = double;
  static constexpr int per_piece = 2;
  static constexpr int pieces = 2;  // 128 columns
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ void narrow(float x, float& to) { to = x; }
__device__ __forceinline__ void narrow(double x, double& to) { to = x; }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(float x, __half& to) { to = __float2half_rn(x); }

// A lane's share of the next columns of a row, of which `left` are there; zeros beyond.
template <class E, bool wide>
struct Share {
  using T = typename Element<E>::Accumulator;
  static constexpr int per_piece = Element<E>::per_piece, pieces = Element<E>::pieces;
  static constexpr int columns = 32 * per_piece * pieces;
  struct Piece {
    E at[per_piece];
  };
  T at[pieces][per_piece];

  static __device__ __forceinline__ int column(int p, int k) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return wide ? (p * 32 + lane) * per_piece + k : (p * per_piece + k) * 32 + lane;
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int p = 0; p < pieces; ++p)
#pragma unroll
      for (int k = 0; k < per_piece; ++k) at[p][k] = T(0);
  }

  __device__ __forceinline__ void load(const E* row, int left) {
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      if constexpr (wide) {  // the columns left are whole pieces
        const int c = column(p, 0);
        // As 16 bytes of integers: the compiler would load the elements of a structure one by one.
        const uint4 bytes = c < left ? __ldg(reinterpret_cast<const uint4*>(row + c)) : uint4{0, 0, 0, 0};
        Piece piece;
        memcpy(&piece, &bytes, sizeof(piece));
#pragma unroll
        for (int k = 0; k < per_piece; ++k) at[p][k] = widen(piece.at[k]);
      } else {
#pragma unroll
        for (int k = 0; k < per_piece; ++k) {
          const int c = column(p, k);
          at[p][k] = c < left ? T(widen(__ldg(row + c))) : T(0);
        }
      }
    }
  }

  __device__ __forceinline__ void store(E* row, int left) const {
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      if constexpr (wide) {
        const int c = column(p, 0);
        Piece piece;
#pragma unroll
        for (int k = 0; k < per_piece; ++k) narrow(at[p][k], piece.at[k]);
        uint4 bytes;
        memcpy(&bytes, &piece, sizeof(bytes));
        if (c < left) *reinterpret_cast<uint4*>(row + c) = bytes;
      } else {
#pragma unroll
        for (int k = 0; k < per_piece; ++k) {
          const int c = column(p, k);
          if (c < left) narrow(at[p][k], row[c]);
        }
      }
    }
  }

  __device__ __forceinline__ void add(const Share& other, T factor) {
#pragma unroll
    for (int p = 0; p < pieces; ++p)
#pragma unroll
      for (int k = 0; k < per_piece; ++k) at[p][k] += factor * other.at[p][k];
  }

  // Sums on their way to another warp, which has the same columns: all registers of a lane, lanes side by side.
  static __host__ __device__ __forceinline__ int64_t stored(int64_t width) {
    return (width + columns - 1) / columns * columns;
  }

  __device__ __forceinline__ void put(T* to) const {
#pragma unroll
    for (int p = 0; p < pieces; ++p)
#pragma unroll
      for (int k = 0; k < per_piece; ++k) to[(p * per_piece + k) * 32 + threadIdx.x % 32] = at[p][k];
  }

  __device__ __forceinline__ void take(const T* from) {
#pragma unroll
    for (int p = 0; p < pieces; ++p)
#pragma unroll
      for (int k = 0; k < per_piece; ++k) at[p][k] += from[(p * per_piece + k) * 32 + threadIdx.x % 32];
  }

  // The product with another share, summed over the warp; every lane has it.
  __device__ __forceinline__ T dot(const Share& other) const {
    T sum = T(0);
#pragma unroll
    for (int p = 0; p < pieces; ++p)
#pragma unroll
      for (int k = 0; k < per_piece; ++k) sum += at[p][k] * other.at[p][k];
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
  }
};

// Adds `count` rows to `sums`, those that the lanes from t on name; with_dots also gives each of these lanes its row's
// product with `own`.
template <int count, bool with_dots, class E, class I, class S, class T>
__device__ __forceinline__ void add_rows(const E* matrix, I column, T weight, int t, int64_t width, int left,
                                         const S& own, S& sums, T& gradient) {
  S x[count];
#pragma unroll
  for (int u = 0; u < count; ++u) {
    const int64_t row = __shfl_sync(0xffffffffu, column, t + u);
    x[u].load(matrix + row * width, left);
  }
#pragma unroll
  for (int u = 0; u < count; ++u) {
    sums.add(x[u], __shfl_sync(0xffffffffu, weight, t + u));
    if constexpr (with_dots) {
      const T dot = x[u].dot(own);
      if (static_cast<int>(threadIdx.x) % 32 == t + u) gradient = dot;
    }
  }
}

// Adds the edges [begin, end) of a relation to `sums`; with_dots also writes (first columns) or adds to the gradient of
// their weights.
template <class E, class I, bool wide, bool with_dots, class S, class T>
__device__ __forceinline__ void sum_edges(const Description& relation, int64_t begin, int64_t end, int64_t first,
                                          int64_t width, int left, const S& own, T coefficient, S& sums) {
  // Source rows that the warp waits for at a time. With dots four of doubles, or of single elements and their
  // addresses, do not fit in registers.
  constexpr int in_flight = !with_dots ? 4 : !wide ? 1 : sizeof(T) == 8 ? 2 : 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const E* matrix = static_cast<const E*>(relation.matrix) + first;
  const I* columns = static_cast<const I*>(relation.columns);
  const I* edges = static_cast<const I*>(relation.edges);
  const T* weights = static_cast<const T*>(relation.weights);
  for (int64_t base = begin; base < end; base += 32) {
    const int64_t mine = base + lane;
    I column = 0;
    int64_t place = mine;
    T weight = T(1), gradient = T(0);
    if (mine < end) {
      column = __ldg(columns + mine);
      if (edges) place = __ldg(edges + mine);
      if (weights) weight = __ldg(weights + place);
    }
    const int count = end - base < 32 ? static_cast<int>(end - base) : 32;
    int t = 0;
    if constexpr (in_flight > 1) {
#pragma unroll 1
      for (; t + in_flight <= count; t += in_flight) {
        if (wide && left == S::columns)  // then a constant: loads without conditions stay ahead of the sums
          add_rows<in_flight, with_dots>(matrix, column, weight, t, width, S::columns, own, sums, gradient);
        else
          add_rows<in_flight, with_dots>(matrix, column, weight, t, width, left, own, sums, gradient);
      }
    }
#pragma unroll 1
    for (; t < count; ++t) add_rows<1, with_dots>(matrix, column, weight, t, width, left, own, sums, gradient);
    if constexpr (with_dots) {
      if (mine < end) {
        T* to = static_cast<T*>(relation.grad_weights) + place;
        *to = first == 0 ? coefficient * gradient : *to + coefficient * gradient;
      }
    }
  }
}

// Blocks of a multiprocessor that the compiler keeps registers for; with dots more of them are needed.
constexpr int blocks_at_once(bool with_own) { return with_own ? 3 : 4; }

struct RowJob {
  const Description* relations;
  int64_t num_relations;
  int64_t num_rows;
  int64_t width;
  bool stacked;
  void* out;
  const void* own;
};

// Adds a part of a row's edges to `sums`, with the gradients of their weights where they are wanted.
template <class E, class I, bool wide, bool with_own, class S, class T>
__device__ __forceinline__ void sum_part(const Description& relation, int64_t begin, int64_t end, int64_t first,
                                         int64_t width, int left, const S& own, T coefficient, S& sums) {
  if (with_own && relation.grad_weights)
    sum_edges<E, I, wide, with_own>(relation, begin, end, first, width, left, own, coefficient, sums);
  else
    sum_edges<E, I, wide, false>(relation, begin, end, first, width, left, own, coefficient, sums);
}

// The columns from `first` on that a warp keeps.
template <class S>
__device__ __forceinline__ int columns_left(int64_t width, int64_t first) {
  return width - first < S::columns ? static_cast<int>(width - first) : S::columns;
}

// Edge s of a relation, where a segment starts: segments are at least kSegment apart, and none starts before that.
template <class S>
__device__ __forceinline__ typename S::T* partial(const Description& relation, int64_t s, int64_t width,
                                                  int64_t first) {
  return static_cast<typename S::T*>(relation.partials) + (s / kSegment - 1) * S::stored(width) + first;
}

// The last row that starts at edge `at` or before: the one that holds it.
__device__ __forceinline__ int64_t row_of(const int64_t* offsets, int64_t num_rows, int64_t at) {
  int64_t low = 0, high = num_rows;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (__ldg(offsets + middle) <= at)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// One warp a place for partial sums: those of the segment, if any, that starts among its kSegment edges. Their row
// holds the first of them.
template <class E, class I, bool wide, bool with_own>
__global__ void __launch_bounds__(kThreads, blocks_at_once(with_own)) segment_kernel(const RowJob job) {
  using S = Share<E, wide>;
  using T = typename S::T;
  int64_t place = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  int64_t r = 0;
  while (r < job.num_relations && place >= job.relations[r].segments) place -= job.relations[r++].segments;
  if (r == job.num_relations) return;  // a whole warp, and there is no block barrier below
  const Description relation = job.relations[r];
  const int64_t before = __ldg(relation.offsets);
  const int64_t at = before + (place + 1) * kSegment;
  const int64_t row = row_of(relation.offsets, job.num_rows, at);
  const int64_t begin = __ldg(relation.offsets + row), row_end = __ldg(relation.offsets + row + 1);
  const int64_t start = begin + (at - begin + kSegment - 1) / kSegment * kSegment;
  if (start == begin || start >= row_end) return;
  const int64_t end = row_end - start < kSegment ? row_end : start + kSegment;
  const T coefficient = __ldg(static_cast<const T*>(relation.coefficient));
  const int64_t step = static_cast<int64_t>(gridDim.y) * S::columns;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * S::columns; first < job.width; first += step) {
    const int left = columns_left<S>(job.width, first);
    S own, sums;
    sums.clear();
    if constexpr (with_own) own.load(static_cast<const E*>(job.own) + row * job.width + first, left);
    sum_part<E, I, wide, with_own>(relation, start, end, first, job.width, left, own, coefficient, sums);
    sums.put(partial<S>(relation, start - before, job.width, first));
  }
}

template <class E, class I, bool wide, bool with_own>
__global__ void __launch_bounds__(kThreads, blocks_at_once(with_own)) aggregate_kernel(const RowJob job) {
  using S = Share<E, wide>;
  using T = typename S::T;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= job.num_rows) return;  // a whole warp, and there is no block barrier below
  E* out = static_cast<E*>(job.out);
  const int64_t step = static_cast<int64_t>(gridDim.y) * S::columns;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * S::columns; first == 0 || first < job.width; first += step) {
    const int left = columns_left<S>(job.width, first);
    S total, own;
    total.clear();
    if constexpr (with_own) own.load(static_cast<const E*>(job.own) + row * job.width + first, left);
    for (int64_t r = 0; r < job.num_relations; ++r) {
      const Description relation = job.relations[r];
      const int64_t begin = __ldg(relation.offsets + row), end = __ldg(relation.offsets + row + 1);
      const T coefficient = __ldg(static_cast<const T*>(relation.coefficient));
      const int64_t part = relation.partials && end - begin > kSegment ? begin + kSegment : end;
      S sums;
      sums.clear();
      sum_part<E, I, wide, with_own>(relation, begin, part, first, job.width, left, own, coefficient, sums);
      for (int64_t s = part; s < end; s += kSegment)
        sums.take(partial<S>(relation, s - __ldg(relation.offsets), job.width, first));
      if constexpr (with_own) {
        if (relation.row_dots) {
          const T dot = sums.dot(own);
          T* to = static_cast<T*>(relation.row_dots) + row;
          if (threadIdx.x % 32 == 0) *to = first == 0 ? dot : *to + dot;
        }
      }
      const T factor = begin < end ? coefficient : T(0);  // a row without edges is zero, whatever the coefficient
      if (job.stacked) total.clear();
      total.add(sums, factor);
      if (job.stacked && out) total.store(out + (r * job.num_rows + row) * job.width + first, left);
    }
    if (!job.stacked && out) total.store(out + row * job.width + first, left);
  }
}

// out = sum of values [count] in a fixed order; one block.
template <class T>
__global__ void __launch_bounds__(kThreads) row_sum_kernel(const T* values, int64_t count, T* out) {
  __shared__ T partial[kThreads];
  T sum = T(0);
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += values[i];
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (int step = kThreads / 2; step > 0; step >>= 1) {
    if (threadIdx.x < step) partial[threadIdx.x] += partial[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = partial[0];
}

}  // namespace vlmadapt::hetero_aggregate
