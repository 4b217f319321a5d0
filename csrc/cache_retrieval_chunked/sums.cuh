// Class scores of a chunk of keys from products that lie in memory, [keys, queries] each.
//
//   A[b, e] = ratio[b] exp(scale[b] (image[e, b] - center[b])) + (1 - ratio[b]) exp(...text...)
//   S[b, c] += sum of A[b, e] over the entries e of class c in the chunk; the first chunk writes
//
// Keys are not in class order: a class finds its own in `order`, where they rise. A lane has one query and a warp one
// class, so every load is of 32 neighbours whatever the order, and what belongs to a query stays in registers. Where
// classes are large a block's warps share one, and their sums are added up in a fixed order. No atomics.
#pragma once

#include "cache_retrieval/tile.cuh"

namespace vlmadapt::cache_retrieval {

constexpr int kLanes = 32, kWarps = 8;
constexpr int kInFlight = 4;  // rows of products that a warp waits for at once

struct SumsJob {
  ForwardParams params;
  const void* image;  // accum [end_key - first_key, queries]
  const void* text;   // accum, the same, or [num_classes, queries] with text_per_class
  void* gaps;         // accum [class tiles, num_queries]: sums of |A_image - A_text|, added to; nullptr: not wanted
  int64_t first_query, first_key, end_key;
  int queries;
  bool shared_class;  // a block has one class, else one a warp
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

// The place in a chunk of what is in it, else -1, where no key is.
__device__ __forceinline__ int key_within(int64_t key, int64_t first, int64_t end) {
  return key >= first && key < end ? static_cast<int>(key - first) : -1;
}

template <class T, bool two_streams>
__global__ void __launch_bounds__(kLanes* kWarps, 1) class_sums_kernel(const SumsJob job) {
  __shared__ T sums[kWarps][kLanes + 1], gaps[kWarps][kLanes + 1];
  __shared__ int met[kWarps];
  const ForwardParams& p = job.params;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int classes = job.shared_class ? 1 : kWarps, group = job.shared_class ? kWarps : 1;
  const int64_t q = static_cast<int64_t>(blockIdx.y) * kLanes + lane, b = job.first_query + q;
  const int64_t first_class = static_cast<int64_t>(blockIdx.x) * classes,
                c = first_class + (job.shared_class ? 0 : warp);
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
      const int own_key = key_within(p.own_entry ? p.own_entry[b] : -1, job.first_key, job.end_key);
      const int64_t* entries = p.order + begin;
      const int count = static_cast<int>(end - begin);
      for (int at = job.shared_class ? warp : 0; at < count; at += kInFlight * group) {
        int key[kInFlight];  // within the chunk
        T product[kInFlight], text_product[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; ++i)
          key[i] = static_cast<int>(entries[at + i * group < count ? at + i * group : at] - job.first_key);
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          const int64_t row = static_cast<int64_t>(key[i]) * job.queries;
          product[i] = image[row];
          if (two_streams) text_product[i] = text[p.text_per_class ? c * job.queries : row];
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          // Calculated past the end too: behind a branch the compiler would put the loads.
          const bool inside = at + i * group < count, own = key[i] == own_key;
          T affinity = exponential(scale * (product[i] - center));
          if (two_streams) {
            const T other = exponential(text_scale * (text_product[i] - text_center));
            const T apart = affinity > other ? affinity - other : other - affinity;
            gap += inside && !own ? apart : T(0);
            affinity = ratio * affinity + (T(1) - ratio) * other;
          }
          sum += inside && !(own && p.mask_own_scores) ? affinity : T(0);
        }
      }
    }
  }
  sums[warp][lane] = sum;
  gaps[warp][lane] = gap;
  if (lane == 0) met[warp] = any;
  __syncthreads();

  // Neighbours in memory are classes.
  const int query = job.shared_class ? threadIdx.x : threadIdx.x / kWarps;
  const int one = job.shared_class ? 0 : threadIdx.x % kWarps;
  if (query < kLanes && static_cast<int64_t>(blockIdx.y) * kLanes + query < job.queries &&
      first_class + one < p.num_classes && (met[one] || job.first_key == 0)) {
    T total = T(0);
    for (int i = 0; i < group; ++i) total += sums[one + i][query];
    T* score = static_cast<T*>(p.scores) +
               (job.first_query + static_cast<int64_t>(blockIdx.y) * kLanes + query) * p.num_classes + first_class +
               one;
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
