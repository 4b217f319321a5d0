// Gradients of a chunk of keys from products that lie in memory, [keys, queries].
//
//   G[k, b] = grad_scores[b, labels[k]] count[b, k] exp(scale[b] (products[k, b] - center[b]))
//   H[k, b] = weight[b] scale[b] G[k, b]
//
// H is what a library multiplies by queries and keys. Of float and double it takes the products' place. Of bfloat16 it
// is the sum of two bfloat16 matrices: a library multiplies no float by them, and one alone would keep 8 bits of it.
// A lane has one query, whose sums of G and G (s - center) stay in registers; grad_scores come transposed, so that
// neighbours in a warp are neighbours in memory there too.
#pragma once

#include "cache_retrieval_chunked/chunks.h"
#include "cache_retrieval_chunked/sums.cuh"

namespace vlmadapt::cache_retrieval {

struct WeightsJob {
  BackwardParams params;
  void* products;           // accum [keys of the chunk, queries]; H takes their place where high is nullptr
  void* high;               // bfloat16, the same shape
  void* low;                // bfloat16: what high left of H
  const void* class_grads;  // accum [num_classes, queries]
  void* row_sums;           // accum [blocks of all keys, 2, num_queries]; nullptr: not wanted
  int64_t first_query, first_key, end_key;
  int queries;
};

// to [num_classes, queries] = rows of from [num_queries, num_classes], transposed.
template <class T>
__global__ void __launch_bounds__(kLanes* kWarps, 1)
    transpose_kernel(const T* from, T* to, int64_t queries, int64_t num_classes) {
  __shared__ T tile[kLanes][kLanes + 1];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t first_class = static_cast<int64_t>(blockIdx.x) * kLanes;
  const int64_t first_query = static_cast<int64_t>(blockIdx.y) * kLanes;
  for (int i = warp; i < kLanes; i += kWarps)
    if (first_query + i < queries && first_class + lane < num_classes)
      tile[i][lane] = from[(first_query + i) * num_classes + first_class + lane];
  __syncthreads();
  for (int i = warp; i < kLanes; i += kWarps)
    if (first_class + i < num_classes && first_query + lane < queries)
      to[(first_class + i) * queries + first_query + lane] = tile[lane][i];
}

// `split`: high and low in place of the products.
template <class T, bool split>
__global__ void __launch_bounds__(kLanes* kWarps, 1) weights_kernel(const WeightsJob job) {
  __shared__ T sums[kWarps][kLanes + 1], moments[kWarps][kLanes + 1];
  const BackwardParams& p = job.params;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t q = static_cast<int64_t>(blockIdx.y) * kLanes + lane, b = job.first_query + q;
  const int64_t begin = job.first_key + static_cast<int64_t>(blockIdx.x) * kKeysOfABlock;
  const int64_t end = begin + kKeysOfABlock < job.end_key ? begin + kKeysOfABlock : job.end_key;
  T sum = T(0), moment = T(0);
  if (q < job.queries) {
    const T scale = value_of<T>(p.side.scale, b), center = value_of<T>(p.side.center, b);
    const T factor = value_of<T>(p.weight, b) * scale;
    const int own_key = key_within(p.own_key ? p.own_key[b] : -1, begin, end);
    const int64_t skipped = (begin - job.first_key) * job.queries + q;  // of the chunk, before this block's keys
    const int count = static_cast<int>(end - begin);
    const int64_t* labels = p.labels + begin;
    const T* class_grads = static_cast<const T*>(job.class_grads) + q;
    T* products = static_cast<T*>(job.products) + skipped;
    for (int first = warp; first < count; first += kInFlight * kWarps) {
      int64_t label[kInFlight];
      T product[kInFlight], upstream[kInFlight], multiplicity[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int key = first + i * kWarps < count ? first + i * kWarps : first;
        label[i] = labels[key];
        product[i] = products[key * job.queries];
        multiplicity[i] = p.multiplicity ? static_cast<const T*>(p.multiplicity)[begin + key] : T(1);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) upstream[i] = class_grads[label[i] * job.queries];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        // Calculated past the end too: behind a branch the compiler would put the loads.
        const int key = first + i * kWarps;
        const bool inside = key < count;
        const T entries = multiplicity[i] - (key == own_key ? T(1) : T(0));
        const T offset = product[i] - center;
        const T g = upstream[i] * entries * exponential(scale * offset);
        sum += inside ? g : T(0);
        moment += inside ? g * offset : T(0);
        if (!inside) continue;
        const T h = factor * g;
        if constexpr (split) {
          const int64_t at = skipped + key * job.queries;
          const __nv_bfloat16 high = __float2bfloat16(h);
          static_cast<__nv_bfloat16*>(job.high)[at] = high;
          static_cast<__nv_bfloat16*>(job.low)[at] = __float2bfloat16(h - __bfloat162float(high));
        } else {
          products[key * job.queries] = h;
        }
      }
    }
  }
  if (!job.row_sums) return;
  sums[warp][lane] = sum;
  moments[warp][lane] = moment;
  __syncthreads();
  if (warp < 2 && q < job.queries) {
    T total = T(0);
    for (int i = 0; i < kWarps; ++i) total += (warp == 0 ? sums : moments)[i][lane];
    const int64_t block = begin / kKeysOfABlock;
    static_cast<T*>(job.row_sums)[(2 * block + warp) * p.num_queries + b] = total;
  }
}

// out += part, both of `count` numbers.
template <class T>
__global__ void __launch_bounds__(kLanes* kWarps, 1) add_kernel(const T* part, T* out, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    out[i] += part[i];
}

}  // namespace vlmadapt::cache_retrieval
