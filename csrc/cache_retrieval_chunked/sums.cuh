// Class scores of a chunk of keys from products that lie in memory, [keys, queries] each.
//
//   A[b, e] = ratio[b] exp(scale[b] (image[e, b] - center[b])) + (1 - ratio[b]) exp(...text...)
//   S[b, c] += sum of A[b, e] over the entries e of class c in the chunk; the first chunk writes
//
// Keys are not in class order: a class finds its own in `order`, where they rise. A lane has one query and a warp one
// class, so every load is of 32 neighbours whatever the order, and what belongs to a query stays in registers. Where
// classes are large `warps_a_class` warps share one, and their sums are added up in a fixed order. No atomics.
#pragma once

#include "cache_retrieval/tile.cuh"

namespace vlmadapt::cache_retrieval {

constexpr int kLanes = 32, kWarps = 8;

struct SumsJob {
  ForwardParams params;
  const void* image;  // accum [end_key - first_key, queries]
  const void* text;   // accum, the same, or [num_classes, queries] with text_per_class
  void* gaps;         // accum [class tiles, num_queries]: sums of |A_image - A_text|, added to; nullptr: not wanted
  int64_t first_query, queries;
  int64_t first_key, end_key;
  int warps_a_class;  // 1 or kWarps
};

// The first position in [low, high) of an entry from `entry` on.
__device__ __forceinline__ int64_t position_from(const int64_t* order, int64_t low, int64_t high, int64_t entry) {
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (order[middle] < entry)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

template <class T, bool two_streams>
__global__ void __launch_bounds__(kLanes* kWarps) class_sums_kernel(const SumsJob job) {
  __shared__ T sums[kWarps][kLanes + 1], gaps[kWarps][kLanes + 1];
  __shared__ bool met[kWarps];
  const ForwardParams& p = job.params;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int group = job.warps_a_class, classes = kWarps / group;
  const int64_t q = static_cast<int64_t>(blockIdx.y) * kLanes + lane, b = job.first_query + q;
  const int64_t first_class = static_cast<int64_t>(blockIdx.x) * classes, c = first_class + warp / group;
  T sum = T(0), gap = T(0);
  bool any = false;
  if (c < p.num_classes) {
    const int64_t begin = position_from(p.order, p.offsets[c], p.offsets[c + 1], job.first_key);
    const int64_t end = position_from(p.order, begin, p.offsets[c + 1], job.end_key);
    any = begin < end;
    if (q < job.queries) {
      const T* image = static_cast<const T*>(job.image) + q;
      const T* text = static_cast<const T*>(job.text) + q;
      const T scale = value_of<T>(p.image.scale, b), center = value_of<T>(p.image.center, b);
      T text_scale = T(0), text_center = T(0), ratio = T(0);
      if (two_streams) {
        text_scale = value_of<T>(p.text.scale, b);
        text_center = value_of<T>(p.text.center, b);
        ratio = value_of<T>(p.ratio, b);
      }
      const int64_t own_entry = p.own_entry ? p.own_entry[b] : -1;
#pragma unroll 4
      for (int64_t at = begin + warp % group; at < end; at += group) {
        const int64_t entry = p.order[at], row = (entry - job.first_key) * job.queries;
        const bool own = entry == own_entry;
        T affinity = exponential(scale * (image[row] - center));
        if (two_streams) {
          const T other = exponential(text_scale * (text[p.text_per_class ? c * job.queries : row] - text_center));
          if (!own) gap += affinity > other ? affinity - other : other - affinity;
          affinity = ratio * affinity + (T(1) - ratio) * other;
        }
        if (!own || !p.mask_own_scores) sum += affinity;
      }
    }
  }
  sums[warp][lane] = sum;
  gaps[warp][lane] = gap;
  if (lane == 0) met[warp] = any;
  __syncthreads();

  const int query = threadIdx.x / classes, one = threadIdx.x % classes;  // neighbours in memory are classes
  if (query < kLanes && static_cast<int64_t>(blockIdx.y) * kLanes + query < job.queries &&
      first_class + one < p.num_classes && (met[one * group] || job.first_key == 0)) {
    T total = T(0);
    for (int i = 0; i < group; ++i) total += sums[one * group + i][query];
    T* score = static_cast<T*>(p.scores) +
               (job.first_query + static_cast<int64_t>(blockIdx.y) * kLanes + query) * p.num_classes + first_class + one;
    *score = job.first_key == 0 ? total : *score + total;
  }
  if (two_streams && job.gaps && threadIdx.x < kLanes && q < job.queries) {
    T total = T(0);
    for (int i = 0; i < kWarps; ++i) total += gaps[i][lane];
    T* to = static_cast<T*>(job.gaps) + static_cast<int64_t>(blockIdx.x) * p.num_queries + b;
    *to = job.first_key == 0 ? total : *to + total;
  }
}

}  // namespace vlmadapt::cache_retrieval
