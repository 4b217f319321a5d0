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
  void* gaps;         // accum [class blocks, num_queries]: sums of |A_image - A_text|, added to; nullptr: not wanted
  int64_t first_query, first_key, end_key;
  int queries;
  bool shared_class;  // a block has one class, else one a warp
};

struct Entries {
  const int64_t* first;  // read by __ldg: of what may be nullptr the compiler does not know that it is global
  int count;
};

// Those of a class in a chunk of keys: where it has none at all, known from its first and its last.
__device__ __forceinline__ Entries entries_of(const ForwardParams& p, int64_t c, int64_t first_key, int64_t end_key) {
  const int64_t low = p.offsets[c], high = p.offsets[c + 1];
  if (low == high || p.order[low] >= end_key || p.order[high - 1] < first_key) return {nullptr, 0};
  const int64_t begin = first_from(p.order, low, high, first_key);
  return {p.order + begin, static_cast<int>(first_from(p.order, begin, high, end_key) - begin)};
}

// The place in a chunk of what is in it, else -1, where no key is.
__device__ __forceinline__ int key_within(int64_t key, int64_t first, int64_t end) {
  return key >= first && key < end ? static_cast<int>(key - first) : -1;
}

template <class T, bool two_streams>
__global__ void __launch_bounds__(kLanes* kWarps, 1) class_sums_kernel(const SumsJob job) {
  __shared__ T sums[kWarps][kLanes + 1];
  __shared__ int met[kWarps];
  const ForwardParams& p = job.params;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int classes = job.shared_class ? 1 : kWarps, group = job.shared_class ? kWarps : 1;
  const int64_t first_query = static_cast<int64_t>(blockIdx.y) * kLanes;  // of the chunk
  const int64_t q = first_query + lane, b = job.first_query + q;
  const bool first_chunk = job.first_key == 0;
  T scale = T(0), center = T(0), text_scale = T(0), text_center = T(0), ratio = T(0);
  int own_key = -1;
  if (q < job.queries) {
    scale = value_of<T>(p.image.scale, b);
    center = value_of<T>(p.image.center, b);
    if (two_streams) {
      text_scale = value_of<T>(p.text.scale, b);
      text_center = value_of<T>(p.text.center, b);
      ratio = value_of<T>(p.ratio, b);
    }
    if (p.own_entry) own_key = key_within(p.own_entry[b], job.first_key, job.end_key);
  }
  const T* image = static_cast<const T*>(job.image) + q;
  const T* text = static_cast<const T*>(job.text) + q;
  // Where a thread writes: neighbours in memory are classes.
  const int query = job.shared_class ? threadIdx.x : threadIdx.x / kWarps;
  const int one = job.shared_class ? 0 : threadIdx.x % kWarps;
  const bool writes = query < kLanes && first_query + query < job.queries;
  T* scores = static_cast<T*>(p.scores) + (job.first_query + first_query + query) * p.num_classes + one;

  T gap = T(0);
  for (int64_t first_class = static_cast<int64_t>(blockIdx.x) * classes; first_class < p.num_classes;
       first_class += static_cast<int64_t>(gridDim.x) * classes) {
    const int64_t c = first_class + (job.shared_class ? 0 : warp);
    const Entries found = c < p.num_classes ? entries_of(p, c, job.first_key, job.end_key) : Entries{nullptr, 0};
    // Most classes have nothing in this chunk: their block is over with two loads. The barrier is also for the sums of
    // the classes before, which have been read.
    if (!__syncthreads_or(first_chunk || found.count > 0)) continue;
    T sum = T(0);
    if (q < job.queries) {
      for (int at = job.shared_class ? warp : 0; at < found.count; at += kInFlight * group) {
        int key[kInFlight];  // within the chunk
        T product[kInFlight], text_product[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; ++i)
          key[i] = static_cast<int>(__ldg(found.first + (at + i * group < found.count ? at + i * group : at)) -
                                    job.first_key);
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          const int64_t row = static_cast<int64_t>(key[i]) * job.queries;
          product[i] = image[row];
          if (two_streams) text_product[i] = text[p.text_per_class ? c * job.queries : row];
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          // Calculated past the end too: behind a branch the compiler would put the loads.
          const bool inside = at + i * group < found.count, own = key[i] == own_key;
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
    sums[warp][lane] = sum;
    if (lane == 0) met[warp] = found.count > 0;
    __syncthreads();
    if (writes && first_class + one < p.num_classes && (met[one] || first_chunk)) {
      T total = T(0);
      for (int i = 0; i < group; ++i) total += sums[one + i][query];
      scores[first_class] = first_chunk ? total : scores[first_class] + total;
    }
  }
  if (two_streams && job.gaps) {
    __syncthreads();  // the last sums have been read
    sums[warp][lane] = gap;
    __syncthreads();
    if (threadIdx.x < kLanes && q < job.queries) {
      T total = T(0);
      for (int i = 0; i < kWarps; ++i) total += sums[i][lane];
      T* to = static_cast<T*>(job.gaps) + static_cast<int64_t>(blockIdx.x) * p.num_queries + b;
      *to = first_chunk ? total : *to + total;
    }
  }
}

}  // namespace vlmadapt::cache_retrieval
