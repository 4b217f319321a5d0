// Gradients of one stream of cache retrieval on a GPU, tiles recomputed, nothing but tiles stored.
//
//   G[b, k] = grad_scores[b, labels[k]] count[b, k] exp(scale[b] (queries[b] . keys[k] - center[b]))
//   H[b, k] = weight[b] scale[b] G[b, k]
//   grad_queries = H keys      grad_keys = H^T queries      sum_k G and sum_k G (s - center) give the other three
//
// One kernel, two owners: a block owns 64 queries (or 64 keys) and walks over tiles of 64 of the other side. For each
// it recomputes the products as in forward.cuh, forms H in a shared tile, and multiplies H by the other side's rows,
// one step of columns at a time, adding to its own rows of the gradient. The same thread adds to the same element
// every time, so there are neither atomics nor races and the order of summation is fixed. Where the owners are too
// few to fill a GPU the other side is split; each split writes a buffer of its own and sum_kernel adds them up.
//
// Work: 8 B n D flops for both gradients, against 6 with a stored [B, n] matrix.
#pragma once

#include "cache_retrieval/cuda.h"
#include "cache_retrieval/tile.cuh"

namespace vlmadapt::cache_retrieval {

constexpr int kWeightStride = kTile + 4;  // a multiple of four off a multiple of 32: fragment reads hit all banks

struct BackwardJob {
  BackwardParams params;
  void* gradient;         // accum [splits, rows of the owner, width]; nullptr: only the row sums are wanted
  void* row_sums;         // accum [splits, 2, num_queries], when queries own; nullptr: not wanted
  int64_t tiles_a_split;  // blockIdx.y walks over this many tiles of the other side
  bool aligned;
};

template <class T>
struct BackwardQuery {
  T scale, center, weight;
  int64_t own_key;
};
template <class T>
struct BackwardKey {
  T multiplicity;
  int64_t label;
};

template <class T>
__device__ __forceinline__ void load_query(BackwardQuery<T>* to, const BackwardParams& p, int64_t first) {
  const int64_t b = first + threadIdx.x;
  if (threadIdx.x >= kTile || b >= p.num_queries) return;
  to[threadIdx.x] = {value_of<T>(p.side.scale, b), value_of<T>(p.side.center, b), value_of<T>(p.weight, b),
                     p.own_key ? p.own_key[b] : -1};
}

template <class T>
__device__ __forceinline__ void load_key(BackwardKey<T>* to, const BackwardParams& p, int64_t first) {
  const int64_t k = first + threadIdx.x;
  if (threadIdx.x >= kTile || k >= p.num_keys) return;
  to[threadIdx.x] = {p.multiplicity ? static_cast<const T*>(p.multiplicity)[k] : T(1), p.labels[k]};
}

template <class Product>
constexpr int backward_shared_bytes() {
  using T = typename Product::Accumulator;
  return kStages * kStageBytes + kTile * static_cast<int>(sizeof(BackwardQuery<T>) + sizeof(BackwardKey<T>)) +
         kTile * kWeightStride * static_cast<int>(sizeof(T));
}

// The steps of a tile: owner and other side for the first product, then the other side alone for the second.
template <class E>
struct BackwardLoader {
  const E *owner, *other;
  int64_t width, num_other, begin, end, steps, total, step = 0;
  bool aligned;
  PieceRows owner_rows, other_rows;

  __device__ BackwardLoader(const E* owner_, const E* other_, int64_t width_, int64_t num_owner, int64_t num_other_,
                            int64_t first_owner, int64_t begin_, int64_t end_, bool second, bool aligned_)
      : owner(owner_),
        other(other_),
        width(width_),
        num_other(num_other_),
        begin(begin_),
        end(end_),
        steps(steps_of(width_, kStepWidth<E>)),
        total(second ? 2 * steps : steps),
        aligned(aligned_) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int64_t row = first_owner + piece_row(i);
      owner_rows.row[i] = row < num_owner ? row : -1;
    }
    find_rows();
  }

  __device__ void find_rows() {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int64_t row = begin + piece_row(i);
      other_rows.row[i] = row < num_other ? row : -1;
    }
  }

  __device__ __forceinline__ void load_next(char* stages, int64_t number) {
    if (begin < end) {
      char* stage = stages + number % kStages * kStageBytes;
      const bool second = step >= steps;
      const int64_t column = (second ? step - steps : step) * kStepWidth<E>;
      if (!second) load_operand(stage, owner, width, owner_rows, column, aligned);
      load_operand(stage + kOperandBytes, other, width, other_rows, column, aligned);
      if (++step == total) {
        step = 0;
        begin += kTile;
        find_rows();
      }
    }
    ptx::commit_copies();
  }
};

// One block a multiprocessor is asked for, not more: left to itself ptxas saves registers by spilling.
template <class Product, bool queries_own>
__global__ void __launch_bounds__(kThreads, 1) backward_kernel(const BackwardJob job) {
  using E = typename Product::Element;
  using T = typename Product::Accumulator;
  using Weight = typename Product::Weight;
  static_assert(sizeof(Weight) == sizeof(T), "the weights share the size of the sums");
  CUDA_DYN_SMEM(char, stages);
  auto* query_terms = reinterpret_cast<BackwardQuery<T>*>(stages + kStages * kStageBytes);
  auto* key_terms = reinterpret_cast<BackwardKey<T>*>(query_terms + kTile);
  T* tile = reinterpret_cast<T*>(key_terms + kTile);
  auto* weights = reinterpret_cast<Weight*>(tile);
  const BackwardParams& p = job.params;
  const int64_t width = p.side.width;
  const int64_t num_owner = queries_own ? p.num_queries : p.num_keys;
  const int64_t num_other = queries_own ? p.num_keys : p.num_queries;
  const int64_t first_owner = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * job.tiles_a_split * kTile;
  const int64_t share = begin + job.tiles_a_split * kTile;
  const int64_t end = share < num_other ? share : num_other;
  T* gradient = job.gradient ? static_cast<T*>(job.gradient) + blockIdx.y * num_owner * width : nullptr;

  if (queries_own)
    load_query(query_terms, p, first_owner);
  else
    load_key(key_terms, p, first_owner);

  const E* queries = static_cast<const E*>(p.side.queries);
  const E* keys = static_cast<const E*>(p.side.keys);
  BackwardLoader<E> loader(queries_own ? queries : keys, queries_own ? keys : queries, width, num_owner, num_other,
                           first_owner, begin, end, gradient != nullptr, job.aligned);
  for (int i = 0; i < kStages - 1; ++i) loader.load_next(stages, i);

  T sum[Product::kRowSlots] = {}, moment[Product::kRowSlots] = {};
  int64_t number = 0;
  for (int64_t at = begin; at < end; at += kTile) {
    Sums<T> products = {};
    for (int64_t step = 0; step < loader.steps; ++step, ++number) {
      ptx::wait_copies<kStages - 2>();
      __syncthreads();  // this step's copies are everyone's, and everyone has left the stage that is loaded next
      loader.load_next(stages, number + kStages - 1);
      if (step == 0) {  // everyone has left the previous tile, its terms included
        if (queries_own)
          load_key(key_terms, p, at);
        else
          load_query(query_terms, p, at);
      }
      const char* stage = stages + number % kStages * kStageBytes;
      Product::multiply(products, stage, stage + kOperandBytes);
    }
    __syncthreads();  // the terms of this tile are there

#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = Product::row(i, j), column = Product::column(i, j);
        const int q = queries_own ? row : column, k = queries_own ? column : row;
        const int64_t query = (queries_own ? first_owner : at) + q, key = (queries_own ? at : first_owner) + k;
        T h = T(0);
        if (query < p.num_queries && key < p.num_keys) {
          const BackwardQuery<T>& b = query_terms[q];
          const T count = key_terms[k].multiplicity - (b.own_key == key ? T(1) : T(0));
          const T offset = products.at[i][j] - b.center;
          const T upstream = static_cast<const T*>(p.grad_scores)[query * p.num_classes + key_terms[k].label];
          const T g = upstream * count * exponential(b.scale * offset);
          if (queries_own) {
            sum[Product::row_slot(i, j)] += g;
            moment[Product::row_slot(i, j)] += g * offset;
          }
          h = b.weight * b.scale * g;
        }
        weights[row * kWeightStride + column] = Product::weight(h);
      }

    if (gradient) {
      for (int64_t step = 0; step < loader.steps; ++step, ++number) {
        ptx::wait_copies<kStages - 2>();
        __syncthreads();  // as above, and in the first step the weights are there
        loader.load_next(stages, number + kStages - 1);
        const char* rows = stages + number % kStages * kStageBytes + kOperandBytes;
        T out[Product::kSecond];
        Product::second_multiply(out, weights, kWeightStride, rows);
#pragma unroll
        for (int i = 0; i < Product::kSecond; ++i) {
          const int64_t row = first_owner + Product::second_row(i);
          const int64_t column = step * kStepWidth<E> + Product::second_column(i);
          if (row < num_owner && column < width) {
            T* to = gradient + row * width + column;
            *to = at == begin ? out[i] : *to + out[i];
          }
        }
      }
    }
  }
  ptx::wait_copies<0>();

  if (begin >= end && gradient) {  // nothing on the other side: the gradient is zero, not what the memory held
    for (int64_t i = threadIdx.x; i < kTile * width; i += kThreads)
      if (first_owner + i / width < num_owner) gradient[first_owner * width + i] = T(0);
  }
  if (queries_own && job.row_sums) {
    for (int which = 0; which < 2; ++which) {
      __syncthreads();  // the weights, then the first sums, have been read
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          tile[Product::row(i, j) * kWeightStride + Product::contributor()] =
              which == 0 ? sum[Product::row_slot(i, j)] : moment[Product::row_slot(i, j)];
      __syncthreads();
      const int64_t b = first_owner + threadIdx.x;
      if (threadIdx.x < kTile && b < p.num_queries) {
        T total = T(0);
        for (int k = 0; k < Product::kContributors; ++k) total += tile[threadIdx.x * kWeightStride + k];
        static_cast<T*>(job.row_sums)[(static_cast<int64_t>(blockIdx.y) * 2 + which) * p.num_queries + b] = total;
      }
    }
  }
}

// out = sum over splits of partial [splits, count].
template <class T>
__global__ void sum_kernel(const T* partial, T* out, int64_t count, int splits) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    T sum = T(0);
#pragma unroll 8  // loads in flight: few owners make many parts and few threads
    for (int s = 0; s < splits; ++s) sum += partial[s * count + i];
    out[i] = sum;
  }
}

// Gradients of scale, center and weight from the row sums.
template <class T>
__global__ void row_gradients_kernel(const BackwardParams p, const T* row_sums, int splits) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (b >= p.num_queries) return;
  T sum = T(0), moment = T(0);
  for (int s = 0; s < splits; ++s) {
    sum += row_sums[(2 * s) * p.num_queries + b];
    moment += row_sums[(2 * s + 1) * p.num_queries + b];
  }
  const T weight = value_of<T>(p.weight, b), scale = value_of<T>(p.side.scale, b);
  static_cast<T*>(p.grad_scale)[b] = weight * moment;
  static_cast<T*>(p.grad_center)[b] = -weight * scale * sum;
  static_cast<T*>(p.grad_weight)[b] = sum;
}

}  // namespace vlmadapt::cache_retrieval
