// Cache retrieval with values in place of classes, and its gradients, on a GPU; tiles recomputed, nothing but tiles
// stored. A[b, k] = exp(scale[b] (queries[b] . keys[k] - center[b])), an own key left out.
//
//   scores      = A values                                  queries own, no upstream
//   grad_values = A^T grad_scores                           keys own, no upstream
//   H           = scale A (grad_scores values^T)            upstream
//   grad_queries = H keys      grad_keys = H^T queries      and sum_k H / scale, sum_k H (s - center) / scale
//
// One kernel for all four, as in cache_retrieval/backward.cuh: a block owns 64 queries (or 64 keys) and walks over
// tiles of 64 of the other side. For each it computes the upstream product, where there is one, into a shared tile,
// then the similarities, forms its weights in that tile, and multiplies them by rows of the other side, one step of
// columns at a time, adding to its own rows of the result. No atomics and no races: the order of summation is fixed.
#pragma once

#include "cache_retrieval/backward.cuh"

namespace vlmadapt::cache_retrieval {

struct DenseJob {
  BackwardParams params;
  void* out;       // accum [splits, rows of the owner, out_width]; nullptr: only the row sums are wanted
  void* row_sums;  // accum [splits, 2, num_queries], when queries own and there is an upstream; nullptr: not wanted
  int64_t out_width;
  int64_t tiles_a_split;  // blockIdx.y walks over this many tiles of the other side
  bool side_aligned, upstream_aligned;
};

template <class E>
__device__ __forceinline__ uint32_t tf32_at(const char* operand, int row, int column) {
  return ptx::to_tf32(to_float(reinterpret_cast<const E*>(operand + row * kRowBytes)[column]));
}

// sums += left right^T over one step of 16 columns, in tf32: one operand is float, the other of 16 bits.
template <class L, class R>
__device__ __forceinline__ void multiply_mixed(Sums<float>& sums, const char* left, const char* right) {
  using Product = TensorProduct<float>;
  const int group = Product::lane() / 4, quad = Product::lane() % 4;
  const int left_row = Product::warp() / 2 * 32 + group, right_row = Product::warp() % 2 * 32 + group;
#pragma unroll
  for (int k = 0; k < kStepWidth<float>; k += 8) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) a[m][i] = tf32_at<L>(left, left_row + m * 16 + i % 2 * 8, k + quad + i / 2 * 4);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const uint32_t b[2] = {tf32_at<R>(right, right_row + n * 8, k + quad),
                             tf32_at<R>(right, right_row + n * 8, k + quad + 4)};
#pragma unroll
      for (int m = 0; m < 2; ++m) ptx::mma<float>(sums.at[m * 4 + n], a[m], b);
    }
  }
}

// What a product's kernels multiply with what: E are keys, queries and values, T gradients of scores.
template <class Product>
struct DenseProduct {
  using E = typename Product::Element;
  using T = typename Product::Accumulator;
  using OfGrads = Product;  // the second product, when its rows are gradients of scores

  // left or right is of gradients, the other of values
  template <bool grads_left>
  static __device__ __forceinline__ void multiply_upstream(Sums<T>& sums, const char* left, const char* right) {
    Product::multiply(sums, left, right);
  }
};

template <class E>
struct DenseProduct16 {
  using T = float;
  using OfGrads = TensorProduct<float>;
  template <bool grads_left>
  static __device__ __forceinline__ void multiply_upstream(Sums<float>& sums, const char* left, const char* right) {
    if constexpr (grads_left)
      multiply_mixed<float, E>(sums, left, right);
    else
      multiply_mixed<E, float>(sums, left, right);
  }
};
template <>
struct DenseProduct<TensorProduct<__nv_bfloat16>> : DenseProduct16<__nv_bfloat16> {};
template <>
struct DenseProduct<TensorProduct<__half>> : DenseProduct16<__half> {};

// The product that multiplies the weights, and the rows it multiplies them by.
template <class Product, bool queries_own, bool upstream>
using RowsProduct = std::conditional_t<!queries_own && !upstream, typename DenseProduct<Product>::OfGrads, Product>;

// The steps of a tile: upstream, similarities, then the rows that the weights are multiplied by.
template <class Product, bool queries_own, bool upstream>
struct DenseLoader {
  using E = typename Product::Element;
  using T = typename Product::Accumulator;
  using R = typename RowsProduct<Product, queries_own, upstream>::Element;

  const DenseJob& job;
  int64_t num_other, begin, end, upstream_steps, before_rows, total, step = 0;
  PieceRows owner_rows, other_rows;

  __device__ DenseLoader(const DenseJob& job_, int64_t num_owner, int64_t num_other_, int64_t first_owner,
                         int64_t begin_, int64_t end_)
      : job(job_), num_other(num_other_), begin(begin_), end(end_) {
    const BackwardParams& p = job.params;
    upstream_steps = upstream ? steps_of(p.num_classes, kStepWidth<T>) : 0;
    before_rows = upstream_steps + steps_of(p.side.width, kStepWidth<E>);
    total = before_rows + (job.out ? steps_of(job.out_width, kStepWidth<R>) : 0);
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

  // One operand of queries and one of keys: the owner's first.
  template <class Q, class K>
  __device__ __forceinline__ void load_pair(char* stage, const void* queries, const void* keys, int64_t width,
                                            int64_t column, bool aligned) {
    load_operand(stage + (queries_own ? 0 : kOperandBytes), static_cast<const Q*>(queries), width,
                 queries_own ? owner_rows : other_rows, column, aligned);
    load_operand(stage + (queries_own ? kOperandBytes : 0), static_cast<const K*>(keys), width,
                 queries_own ? other_rows : owner_rows, column, aligned);
  }

  __device__ __forceinline__ void load_next(char* stages, int64_t number) {
    if (begin < end) {
      const BackwardParams& p = job.params;
      char* stage = stages + number % kStages * kStageBytes;
      if (upstream && step < upstream_steps) {
        load_pair<T, E>(stage, p.grad_scores, p.values, p.num_classes, step * kStepWidth<T>, job.upstream_aligned);
      } else if (step < before_rows) {
        const int64_t column = (step - upstream_steps) * kStepWidth<E>;
        load_pair<E, E>(stage, p.side.queries, p.side.keys, p.side.width, column, job.side_aligned);
      } else {
        const void* rows =
            queries_own ? (upstream ? p.side.keys : p.values) : (upstream ? p.side.queries : p.grad_scores);
        load_operand(stage + kOperandBytes, static_cast<const R*>(rows), job.out_width, other_rows,
                     (step - before_rows) * kStepWidth<R>, upstream ? job.side_aligned : job.upstream_aligned);
      }
      if (++step == total) {
        step = 0;
        begin += kTile;
        find_rows();
      }
    }
    ptx::commit_copies();
  }
};

template <class Product>
constexpr int dense_shared_bytes() {
  using T = typename Product::Accumulator;
  return kStages * kStageBytes + kTile * static_cast<int>(sizeof(BackwardQuery<T>)) +
         kTile * kWeightStride * static_cast<int>(sizeof(T));
}

// One block a multiprocessor is asked for, not more: left to itself ptxas saves registers by spilling.
template <class Product, bool queries_own, bool upstream>
__global__ void __launch_bounds__(kThreads, 1) dense_kernel(const DenseJob job) {
  using T = typename Product::Accumulator;
  using Rows = RowsProduct<Product, queries_own, upstream>;
  using Weight = typename Rows::Weight;
  static_assert(sizeof(Weight) == sizeof(T), "the weights share the size of the sums");
  CUDA_DYN_SMEM(char, stages);
  auto* terms = reinterpret_cast<BackwardQuery<T>*>(stages + kStages * kStageBytes);
  T* tile = reinterpret_cast<T*>(terms + kTile);
  auto* weights = reinterpret_cast<Weight*>(tile);
  const BackwardParams& p = job.params;
  const int64_t num_owner = queries_own ? p.num_queries : p.num_keys;
  const int64_t num_other = queries_own ? p.num_keys : p.num_queries;
  const int64_t first_owner = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * job.tiles_a_split * kTile;
  const int64_t share = begin + job.tiles_a_split * kTile;
  const int64_t end = share < num_other ? share : num_other;
  T* out = job.out ? static_cast<T*>(job.out) + blockIdx.y * num_owner * job.out_width : nullptr;

  if (queries_own) load_query(terms, p, first_owner);
  DenseLoader<Product, queries_own, upstream> loader(job, num_owner, num_other, first_owner, begin, end);
  for (int i = 0; i < kStages - 1; ++i) loader.load_next(stages, i);

  T sum[Product::kRowSlots] = {}, moment[Product::kRowSlots] = {};
  int64_t number = 0;
  const auto next_stage = [&] {
    ptx::wait_copies<kStages - 2>();
    __syncthreads();  // this step's copies are everyone's, and everyone has left the stage that is loaded next
    loader.load_next(stages, number + kStages - 1);
    return stages + number++ % kStages * kStageBytes;
  };
  for (int64_t at = begin; at < end; at += kTile) {
    if (upstream) {
      Sums<T> products = {};
      for (int64_t step = 0; step < loader.upstream_steps; ++step) {
        const char* stage = next_stage();
        DenseProduct<Product>::template multiply_upstream<queries_own>(products, stage, stage + kOperandBytes);
      }
      // Everyone has left the previous tile's weights; each thread reads its own elements again below.
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          tile[Product::row(i, j) * kWeightStride + Product::column(i, j)] = products.at[i][j];
    }
    Sums<T> products = {};
    for (int64_t step = loader.upstream_steps; step < loader.before_rows; ++step) {
      const char* stage = next_stage();
      if (step == loader.upstream_steps && !queries_own)
        load_query(terms, p, at);  // the previous tile's are not needed
      Product::multiply(products, stage, stage + kOperandBytes);
    }
    if (!queries_own) __syncthreads();  // the terms of this tile are there

#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = Product::row(i, j), column = Product::column(i, j);
        const int q = queries_own ? row : column, k = queries_own ? column : row;
        const int64_t query = (queries_own ? first_owner : at) + q, key = (queries_own ? at : first_owner) + k;
        T h = T(0);
        if (query < p.num_queries && key < p.num_keys) {
          const BackwardQuery<T>& b = terms[q];
          const T offset = products.at[i][j] - b.center;
          h = b.own_key == key ? T(0) : exponential(b.scale * offset);
          if (upstream) {
            const T g = h * tile[row * kWeightStride + column];
            if (queries_own) {
              sum[Product::row_slot(i, j)] += g;
              moment[Product::row_slot(i, j)] += g * offset;
            }
            h = b.scale * g;
          }
        }
        weights[row * kWeightStride + column] = Rows::weight(h);
      }

    if (out) {
      for (int64_t step = loader.before_rows; step < loader.total; ++step) {
        const char* rows = next_stage() + kOperandBytes;  // in the first step the weights are there, too
        typename Rows::Accumulator part[Rows::kSecond];
        Rows::second_multiply(part, weights, kWeightStride, rows);
#pragma unroll
        for (int i = 0; i < Rows::kSecond; ++i) {
          const int64_t row = first_owner + Rows::second_row(i);
          const int64_t column =
              (step - loader.before_rows) * kStepWidth<typename Rows::Element> + Rows::second_column(i);
          if (row < num_owner && column < job.out_width) {
            T* to = out + row * job.out_width + column;
            *to = at == begin ? part[i] : *to + part[i];
          }
        }
      }
    }
  }
  ptx::wait_copies<0>();

  if (begin >= end && out) {  // nothing on the other side: the result is zero, not what the memory held
    for (int64_t i = threadIdx.x; i < kTile * job.out_width; i += kThreads)
      if (first_owner + i / job.out_width < num_owner) out[first_owner * job.out_width + i] = T(0);
  }
  if (queries_own && upstream && job.row_sums) {
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

}  // namespace vlmadapt::cache_retrieval
