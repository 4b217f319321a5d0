// Class scores of up to 16 queries, one stream, on a GPU: every key is read once, and the memory is what binds.
//
//   S[b, c] = sum over the entries e of class c of  exp(scale[b] (queries[b] . keys[e] - center[b]))
//
// A block has a share of the entries in class order, which it walks over in tiles. A warp multiplies four keys at a
// time, 16 bytes of each a lane, by all queries, which lie in shared memory; the lanes' sums are added up by halving:
// each step a lane hands half of its sums to another, so that 4 B sums cost 4 B shuffles in place of 20 B. Affinities
// go to a shared tile, and a thread a (query, class) sums them. A class within one share is written at once. Of one
// that lies across several each share leaves its part, and finish_kernel adds the parts in order: no atomics.
#pragma once

#include "cache_retrieval/forward.cuh"

namespace vlmadapt::cache_retrieval {

constexpr int kFewThreads = 256, kFewWarps = kFewThreads / 32;
constexpr int kMostFewQueries = 16;
constexpr int kKeysAtOnce = 4;  // of a warp
constexpr int kFewTile = 128;   // entries whose affinities lie in shared memory

struct FewJob {
  ForwardParams params;
  void* parts;    // accum [shares, 2, num_queries]: of the class that began before the share, and that goes on after it
  int64_t share;  // entries of a block
};

template <class E>
using AccumulatorOf = std::conditional_t<std::is_same<E, double>::value, double, float>;

__device__ __forceinline__ float widened(float x) { return x; }
__device__ __forceinline__ double widened(double x) { return x; }
__device__ __forceinline__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widened(__half x) { return __half2float(x); }

// How a row is cut: a lane's 16 bytes of a key, and as many numbers of a query, in loads of 16 bytes as well.
template <class E>
struct Cut {
  using T = AccumulatorOf<E>;
  static constexpr int kPiece = 16 / static_cast<int>(sizeof(E));    // numbers of a key
  static constexpr int kQuarter = 16 / static_cast<int>(sizeof(T));  // numbers of a query, of one load
  static constexpr int kQuarters = kPiece / kQuarter;                // loads
  static constexpr int kStep = 32 * kPiece;                          // columns of a warp
  struct alignas(16) Quarter {
    T at[kQuarter];
  };
  static __host__ __device__ int64_t steps(int64_t width) { return (width + kStep - 1) / kStep; }
  static __host__ __device__ int64_t shared_bytes(int64_t width, int queries) {
    return (steps(width) * kStep + kFewTile + 2) * queries * static_cast<int64_t>(sizeof(T)) + 2 * sizeof(int64_t);
  }
};

// As class_of, by a warp: 32 places at a time, for its loads wait for one another.
__device__ __forceinline__ int64_t class_of_by_warp(const int64_t* offsets, int64_t num_classes, int64_t entry) {
  int64_t low = 0, high = num_classes;
  while (low < high) {
    const int64_t step = (high - low + 31) / 32, probed = low + static_cast<int64_t>(threadIdx.x % 32) * step;
    const int before = __popc(__ballot_sync(0xffffffffu, probed < high && offsets[probed + 1] <= entry));
    const int64_t end = low + before * step;
    if (before > 0) low = end - step + 1;
    high = end < high ? end : high;
  }
  return low;
}

// values[i] summed over the lanes, for `count` sums: afterwards lane l has those from first_of(l) on, kept(count) each.
template <int count>
struct LaneSums {
  static constexpr int kKept = count < 32 ? 1 : count / 32, kSharers = count < 32 ? 32 / count : 1;

  static __device__ __forceinline__ int first_of(int lane) { return lane / kSharers * kKept; }

  template <class T>
  static __device__ __forceinline__ void add(T (&values)[count], int lane) {
    int left = count;
#pragma unroll
    for (int other = 16; other > 0; other /= 2) {
      if (left > 1) {
        left /= 2;
#pragma unroll
        for (int i = 0; i < count / 2; ++i) {
          if (i >= left) break;
          const bool upper = (lane & other) != 0;
          const T given = upper ? values[i] : values[i + left], mine = upper ? values[i + left] : values[i];
          values[i] = mine + __shfl_xor_sync(0xffffffffu, given, other);
        }
      } else {
        values[0] += __shfl_xor_sync(0xffffffffu, values[0], other);
      }
    }
  }
};

// sums[k * queries + b] += this lane's part of keys[k] . queries[b].
template <class E, int queries>
__device__ __forceinline__ void multiply_keys(AccumulatorOf<E> (&sums)[kKeysAtOnce * queries],
                                              const E* const (&keys)[kKeysAtOnce],
                                              const AccumulatorOf<E>* shared_queries, int64_t width, int lane) {
  using C = Cut<E>;
  const int64_t steps = C::steps(width);
#pragma unroll(sizeof(sums) > 128 ? 1 : 2)  // loads of two steps in flight, where registers are left for them
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t column = step * C::kStep + lane * C::kPiece;
    uint4 bytes[kKeysAtOnce];
#pragma unroll
    for (int k = 0; k < kKeysAtOnce; ++k)
      bytes[k] = column < width ? __ldg(reinterpret_cast<const uint4*>(keys[k] + column)) : uint4{0, 0, 0, 0};
    E pieces[kKeysAtOnce][C::kPiece];
    memcpy(pieces, bytes, sizeof(pieces));
#pragma unroll
    for (int part = 0; part < C::kQuarters; ++part) {
      const auto* from = reinterpret_cast<const typename C::Quarter*>(shared_queries) +
                         (step * C::kQuarters + part) * queries * 32 + lane;
#pragma unroll
      for (int b = 0; b < queries; ++b) {
        const typename C::Quarter query = from[b * 32];
#pragma unroll
        for (int k = 0; k < kKeysAtOnce; ++k)
#pragma unroll
          for (int i = 0; i < C::kQuarter; ++i)
            sums[k * queries + b] += query.at[i] * widened(pieces[k][part * C::kQuarter + i]);
      }
    }
  }
}

template <class E, int queries>
__global__ void __launch_bounds__(kFewThreads, 1) few_kernel(const FewJob job) {
  using C = Cut<E>;
  using T = typename C::T;
  using Adder = LaneSums<kKeysAtOnce * queries>;
  CUDA_DYN_SMEM(T, shared);
  const ForwardParams& p = job.params;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t width = p.image.width, padded = C::steps(width) * C::kStep;
  T *rows = shared, *tile = rows + padded * queries, *terms = tile + kFewTile * queries;
  auto* classes = reinterpret_cast<int64_t*>(terms + 2 * queries);
  const int64_t begin = blockIdx.x * job.share;
  const int64_t end = begin + job.share < p.num_entries ? begin + job.share : p.num_entries;

  for (int b = 0; b < queries; ++b)
    for (int64_t column = threadIdx.x; column < padded; column += kFewThreads) {
      const int in_step = static_cast<int>(column % C::kStep), piece = in_step / C::kPiece;
      const int within = in_step % C::kPiece;
      const int64_t quarter = column / C::kStep * C::kQuarters + within / C::kQuarter;
      const bool there = b < p.num_queries && column < width;
      rows[((quarter * queries + b) * 32 + piece) * C::kQuarter + within % C::kQuarter] =
          there ? T(widened(static_cast<const E*>(p.image.queries)[b * width + column])) : T(0);
    }
  if (threadIdx.x < p.num_queries) {
    terms[2 * threadIdx.x] = value_of<T>(p.image.scale, threadIdx.x);
    terms[2 * threadIdx.x + 1] = value_of<T>(p.image.center, threadIdx.x);
  }
  __syncthreads();

  for (int64_t at = begin; at < end; at += kFewTile) {
    const int count = end - at < kFewTile ? static_cast<int>(end - at) : kFewTile;
    if (warp < 2) {
      const int64_t found = class_of_by_warp(p.offsets, p.num_classes, warp == 0 ? at : at + count - 1);
      if (lane == 0) classes[warp] = found;
    }
    for (int first = warp * kKeysAtOnce; first < count; first += kFewWarps * kKeysAtOnce) {
      const E* keys[kKeysAtOnce];
#pragma unroll
      for (int k = 0; k < kKeysAtOnce; ++k)
        keys[k] = static_cast<const E*>(p.image.keys) + p.order[at + (first + k < count ? first + k : first)] * width;
      T sums[kKeysAtOnce * queries] = {};
      multiply_keys<E, queries>(sums, keys, rows, width, lane);
      Adder::add(sums, lane);
#pragma unroll
      for (int i = 0; i < Adder::kKept; ++i) {
        const int item = Adder::first_of(lane) + i, key = first + item / queries, b = item % queries;
        if (lane % Adder::kSharers == 0 && key < count && b < p.num_queries) {
          const bool masked = p.own_entry && p.mask_own_scores && p.order[at + key] == p.own_entry[b];
          tile[key * queries + b] = masked ? T(0) : exponential(terms[2 * b] * (sums[i] - terms[2 * b + 1]));
        }
      }
    }
    __syncthreads();
    const int64_t first_class = classes[0], met = classes[1] - first_class + 1;
    const int num_queries = static_cast<int>(p.num_queries);
    for (int64_t item = threadIdx.x; item < met * num_queries; item += kFewThreads) {
      const int b = static_cast<int>(item % num_queries);
      const int64_t c = first_class + item / num_queries, low = p.offsets[c], high = p.offsets[c + 1];
      const int from = low > at ? static_cast<int>(low - at) : 0;
      const int to = high - at < count ? static_cast<int>(high - at) : count;
      T sum = T(0);  // of an empty class between others the score
      for (int k = from; k < to; ++k) sum += tile[k * queries + b];
      const bool whole = low >= begin && high <= end;
      T* part = static_cast<T*>(job.parts) + (2 * blockIdx.x + (low < begin ? 0 : 1)) * num_queries + b;
      T* result = whole ? static_cast<T*>(p.scores) + b * p.num_classes + c : part;
      *result = low < at && begin < at ? *result + sum : sum;
    }
    __syncthreads();  // the tile has been read
  }
}

// The scores that no block has written: of classes without entries, and of those that lie across shares.
template <class T>
__global__ void __launch_bounds__(kFewThreads) finish_kernel(const FewJob job) {
  const ForwardParams& p = job.params;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kFewThreads + threadIdx.x;
  if (item >= p.num_queries * p.num_classes) return;
  const int64_t b = item / p.num_classes, c = item % p.num_classes, low = p.offsets[c], high = p.offsets[c + 1];
  T sum = T(0);
  if (low < high) {
    const int64_t first = low / job.share, last = (high - 1) / job.share;
    if (first == last) return;
    const T* parts = static_cast<const T*>(job.parts) + b;
    sum = parts[(2 * first + 1) * p.num_queries];
    for (int64_t share = first + 1; share <= last; ++share) sum += parts[2 * share * p.num_queries];
  }
  static_cast<T*>(p.scores)[item] = sum;
}

}  // namespace vlmadapt::cache_retrieval
