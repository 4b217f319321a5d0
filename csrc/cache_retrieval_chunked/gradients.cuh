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
  void* products;             // accum [keys of the chunk, queries]; H takes their place where high is nullptr
  void* high;                 // bfloat16, the same shape
  void* low;                  // bfloat16: what high left of H
  const void* class_grads;    // accum [num_classes, queries]
  void* row_sums;             // accum [blocks of all keys, 2, num_queries]; nullptr: not wanted
  int64_t first_query, queries;
  int64_t first_key, end_key;
};

// to [num_classes, queries] = rows of from [num_queries, num_classes], transposed.
template <class T>
__global__ void __launch_bounds__(kLanes* kWarps) transpose_kernel(const T* from, T* to, int64_t queries,
                                                                    int64_t num_classes) {
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
__global__ void __launch_bounds__(kLanes* kWarps) weights_kernel(const WeightsJob job) {
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
    const int64_t own_key = p.own_key ? p.own_key[b] : -1;
    const T* class_grads = static_cast<const T*>(job.class_grads) + q;
    T* products = static_cast<T*>(job.products) + q;
#pragma unroll 4
    for (int64_t key = begin + warp; key < end; key += kWarps) {
      const int64_t at = (key - job.first_key) * job.queries;
      const T multiplicity = p.multiplicity ? static_cast<const T*>(p.multiplicity)[key] : T(1);
      const T count = multiplicity - (key == own_key ? T(1) : T(0));
      const T offset = products[at] - center;
      const T g = class_grads[p.labels[key] * job.queries] * count * exponential(scale * offset);
      sum += g;
      moment += g * offset;
      const T h = factor * g;
      if constexpr (split) {
        const __nv_bfloat16 high = __float2bfloat16(h);
        static_cast<__nv_bfloat16*>(job.high)[at + q] = high;
        static_cast<__nv_bfloat16*>(job.low)[at + q] = __float2bfloat16(h - __bfloat162float(high));
      } else {
        products[at] = h;
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
__global__ void __launch_bounds__(kLanes* kWarps) add_kernel(const T* part, T* out, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    out[i] += part[i];
}

}  // namespace vlmadapt::cache_retrieval
