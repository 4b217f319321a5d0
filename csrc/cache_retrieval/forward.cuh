// Class scores on a GPU: one block a tile of 64 queries and a run of whole classes.
//
//   S[g, b, c] = sum over the entries e of class c of  ratio A_image[b, e] + (1 - ratio) A_text[b, e]
//   A[b, e]    = exp(scale (queries[b] . keys[e] - center))        scale may take several values g
//
// Entries come in class order, so a block walks its entries in tiles of 64: products of one or two streams on the
// tensor cores (tile.cuh) behind a three-stage cp.async pipeline that runs on across tiles, then the exponential in
// registers, the affinities to a shared tile, and each (query, class) of the tile summed by one thread. A class that
// began in an earlier tile is added to; every score has one owner and one order of summation, so results are
// bit-identical from run to run and there are no atomics. Nothing larger than a tile is stored.
//
// Ladder: (1) one thread a (query, class): no reuse. (2) a GEMM, then exp and index_add: writes A. (3) this.
#pragma once

#include "cache_retrieval/cuda.h"
#include "cache_retrieval/tile.cuh"

namespace vlmadapt::cache_retrieval {

constexpr int kTileStride = kTile + 1;

struct ForwardJob {
  ForwardParams params;
  const void* betas;        // accum [num_betas]: replaces image.scale with a value for all queries; or nullptr
  int64_t num_betas;        // at least 1
  int64_t entries_a_split;  // blockIdx.y owns the classes that start in its share of the entries
  void* partial;            // accum [splits, num_queries]: sums of |A_image - A_text|; or nullptr
  bool image_aligned, text_aligned;
};

// The largest c with offsets[c] <= entry and a non-empty class, for an entry below offsets[num_classes].
__device__ __forceinline__ int64_t class_of(const int64_t* offsets, int64_t num_classes, int64_t entry) {
  return first_from(offsets + 1, 0, num_classes, entry + 1);
}

template <class T>
struct QueryTerms {
  T scale, center, text_scale, text_center, ratio;
  int64_t own_entry;
};

template <class Product>
constexpr int forward_shared_bytes() {
  using T = typename Product::Accumulator;
  return kStages * kStageBytes + kTile * static_cast<int>(sizeof(QueryTerms<T>)) +
         kTile * kTileStride * static_cast<int>(sizeof(T));
}

// Copies step after step of the block's tiles into the pipeline: all image steps of a tile, then all text steps.
template <class E, bool two_streams>
struct ForwardLoader {
  const ForwardJob& job;
  PieceRows queries, image, text;
  int64_t tile_begin, end, step;
  int64_t image_steps, steps;

  __device__ ForwardLoader(const ForwardJob& job_, int64_t first_query, int64_t begin, int64_t end_)
      : job(job_), tile_begin(begin), end(end_), step(0) {
    const ForwardParams& p = job.params;
    image_steps = steps_of(p.image.width, kStepWidth<E>);
    steps = image_steps + (two_streams ? steps_of(p.text.width, kStepWidth<E>) : 0);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int64_t query = first_query + piece_row(i);
      queries.row[i] = query < p.num_queries ? query : -1;
    }
    find_rows();
  }

  __device__ void find_rows() {
    const ForwardParams& p = job.params;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int64_t entry = tile_begin + piece_row(i);
      image.row[i] = entry < end ? p.order[entry] : -1;
      if (two_streams) {
        text.row[i] = image.row[i];
        if (p.text_per_class && entry < end) text.row[i] = class_of(p.offsets, p.num_classes, entry);
      }
    }
  }

  __device__ __forceinline__ void load_stage(char* stage, const Side& s, const PieceRows& keys, int64_t step_of_stream,
                                             bool aligned) {
    const int64_t column = step_of_stream * kStepWidth<E>;
    load_operand(stage, static_cast<const E*>(s.queries), s.width, queries, column, aligned);
    load_operand(stage + kOperandBytes, static_cast<const E*>(s.keys), s.width, keys, column, aligned);
  }

  __device__ __forceinline__ void load_next(char* stages, int64_t number) {
    if (tile_begin < end) {
      char* stage = stages + number % kStages * kStageBytes;
      const bool is_text = two_streams && step >= image_steps;
      if (is_text)
        load_stage(stage, job.params.text, text, step - image_steps, job.text_aligned);
      else
        load_stage(stage, job.params.image, image, step, job.image_aligned);
      if (++step == steps) {
        step = 0;
        tile_begin += kTile;
        find_rows();
      }
    }
    ptx::commit_copies();  // an empty group at the end keeps the count of groups equal to the count of steps
  }
};

// Adds a tile of affinities to the scores of the classes it meets, from first_class on; one thread a (query, class).
template <class T>
__device__ __forceinline__ void add_class_sums(const T* tile, T* scores, const ForwardParams& p, int64_t first_query,
                                               int64_t begin, int64_t end, int64_t first_class, int classes) {
  const int64_t left = p.num_queries - first_query;
  const int rows = left < kTile ? static_cast<int>(left) : kTile;
  for (int64_t item = threadIdx.x; item < static_cast<int64_t>(rows) * classes; item += kThreads) {
    const int row = static_cast<int>(item / classes);
    const int64_t c = first_class + item % classes;
    const int64_t low = p.offsets[c], high = p.offsets[c + 1];
    const int from = static_cast<int>((low < begin ? begin : low) - begin);
    const int to = static_cast<int>((high < end ? high : end) - begin);
    if (from >= to) continue;  // an empty class between others
    T sum = T(0);
    for (int k = from; k < to; ++k) sum += tile[row * kTileStride + k];
    T* score = scores + (first_query + row) * p.num_classes + c;
    *score = low < begin ? *score + sum : sum;
  }
}

// One block a multiprocessor is asked for, not more: left to itself ptxas saves registers by spilling.
template <class Product, bool two_streams>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const ForwardJob job) {
  using E = typename Product::Element;
  using T = typename Product::Accumulator;
  CUDA_DYN_SMEM(char, stages);
  auto* terms = reinterpret_cast<QueryTerms<T>*>(stages + kStages * kStageBytes);
  T* tile = reinterpret_cast<T*>(terms + kTile);
  const ForwardParams& p = job.params;
  const int64_t first_query = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t share = static_cast<int64_t>(blockIdx.y) * job.entries_a_split;
  // Classes that start in the share.
  const int64_t first_class = first_from(p.offsets, 0, p.num_classes, share);
  const int64_t last_class =
      blockIdx.y + 1 < gridDim.y ? first_from(p.offsets, 0, p.num_classes, share + job.entries_a_split) : p.num_classes;
  const int64_t begin = p.offsets[first_class], end = p.offsets[last_class];

  if (threadIdx.x < kTile) {
    const int64_t b = first_query + threadIdx.x;
    QueryTerms<T> t{T(0), T(0), T(0), T(0), T(0), -1};
    if (b < p.num_queries) {
      t.scale = value_of<T>(p.image.scale, b);
      t.center = value_of<T>(p.image.center, b);
      if (two_streams) {
        t.text_scale = value_of<T>(p.text.scale, b);
        t.text_center = value_of<T>(p.text.center, b);
        t.ratio = value_of<T>(p.ratio, b);
      }
      if (p.own_entry) t.own_entry = p.own_entry[b];
    }
    terms[threadIdx.x] = t;
  }
  const int64_t score_stride = p.num_queries * p.num_classes;
  for (int64_t c = first_class + threadIdx.x; c < last_class; c += kThreads) {
    if (p.offsets[c] < p.offsets[c + 1]) continue;
    for (int64_t g = 0; g < job.num_betas; ++g)
      for (int64_t b = first_query; b < first_query + kTile && b < p.num_queries; ++b)
        static_cast<T*>(p.scores)[g * score_stride + b * p.num_classes + c] = T(0);
  }

  T gaps[Product::kRowSlots] = {};
  ForwardLoader<E, two_streams> loader(job, first_query, begin, end);
  for (int i = 0; i < kStages - 1; ++i) loader.load_next(stages, i);
  int64_t number = 0;
  auto multiply_next = [&](Sums<T>& sums) {
    ptx::wait_copies<kStages - 2>();
    __syncthreads();  // this step's copies are everyone's, and everyone has left the stage that is loaded next
    loader.load_next(stages, number + kStages - 1);
    const char* stage = stages + number % kStages * kStageBytes;
    Product::multiply(sums, stage, stage + kOperandBytes);
    ++number;
  };
  for (int64_t at = begin; at < end; at += kTile) {
    const int64_t tile_end = at + kTile < end ? at + kTile : end;
    Sums<T> image = {}, text = {};
    for (int64_t step = 0; step < loader.image_steps; ++step) multiply_next(image);
    if (two_streams)
      for (int64_t step = loader.image_steps; step < loader.steps; ++step) multiply_next(text);
    const int64_t tile_class = class_of(p.offsets, p.num_classes, at);
    const int classes = static_cast<int>(class_of(p.offsets, p.num_classes, tile_end - 1) - tile_class) + 1;
    for (int64_t g = 0; g < job.num_betas; ++g) {
      if (g > 0) __syncthreads();  // the sums of the previous beta have been read
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = Product::row(i, j), column = Product::column(i, j);
          const QueryTerms<T> t = terms[row];
          const T scale = job.betas ? static_cast<const T*>(job.betas)[g] : t.scale;
          const bool inside = at + column < tile_end;
          const bool own = t.own_entry >= 0 && inside && p.order[at + column] == t.own_entry;
          T affinity = exponential(scale * (image.at[i][j] - t.center));
          if (two_streams) {
            const T other = exponential(t.text_scale * (text.at[i][j] - t.text_center));
            const T gap = affinity > other ? affinity - other : other - affinity;
            if (inside && !own) gaps[Product::row_slot(i, j)] += gap;
            affinity = t.ratio * affinity + (T(1) - t.ratio) * other;
          }
          tile[row * kTileStride + column] = own && p.mask_own_scores ? T(0) : affinity;
        }
      __syncthreads();
      add_class_sums(tile, static_cast<T*>(p.scores) + g * score_stride, p, first_query, at, tile_end, tile_class,
                     classes);
    }
  }
  ptx::wait_copies<0>();

  if (two_streams && job.partial) {
    __syncthreads();  // the last tile has been read
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)  // writes each row once or several times over, always the same value
        tile[Product::row(i, j) * kTileStride + Product::contributor()] = gaps[Product::row_slot(i, j)];
    __syncthreads();
    const int64_t b = first_query + threadIdx.x;
    if (threadIdx.x < kTile && b < p.num_queries) {
      T sum = T(0);
      for (int k = 0; k < Product::kContributors; ++k) sum += tile[threadIdx.x * kTileStride + k];
      static_cast<T*>(job.partial)[blockIdx.y * p.num_queries + b] = sum;
    }
  }
}

// disagreement[b] = sum over splits / entries that are not b's own.
template <class T>
__global__ void disagreement_kernel(const ForwardParams p, const T* partial, int splits) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (b >= p.num_queries) return;
  T sum = T(0);
  for (int s = 0; s < splits; ++s) sum += partial[s * p.num_queries + b];
  const int64_t kept = p.num_entries - (p.own_entry && p.own_entry[b] >= 0 ? 1 : 0);
  static_cast<T*>(p.disagreement)[b] = sum / static_cast<T>(kept < 1 ? 1 : kept);
}

constexpr int kAlphas = 32;           // of one pass: a bit of a word each
constexpr int kAccuracyQueries = 16;  // of a block

// Marks the alphas whose logit of a class in [begin, end) takes the first place from `best`, that of the target:
// a larger one, a NaN, or an equal one if those win. Lanes take turns.
template <bool equal_wins, class T>
__device__ __forceinline__ uint32_t beaten_alphas(const T* logits, const T* scores, int64_t begin, int64_t end,
                                                  const T (&alphas)[kAlphas], const T (&best)[kAlphas], int count) {
  uint32_t beaten = 0;
  for (int64_t c = begin + threadIdx.x % 32; c < end; c += 32) {
    const T logit = logits[c], score = scores[c];
#pragma unroll
    for (int a = 0; a < kAlphas; ++a) {
      if (a % 4 == 0 && a >= count) break;  // registers need constant indices; up to three alphas too many
      const T value = logit + alphas[a] * score;
      if (equal_wins ? !(value < best[a]) : !(value <= best[a])) beaten |= 1u << a;
    }
  }
  return beaten;
}

// correct[g, a] += queries whose best class is their target, ties to the lowest class. A warp takes a query and a beta
// at a time, and reads their scores once for all alphas. Counts are whole numbers: their atomic sums have no order.
template <class T>
__global__ void __launch_bounds__(kThreads, 1) accuracy_kernel(const GridParams p, int64_t blocks_a_beta) {
  const int64_t g = blockIdx.x / blocks_a_beta, first_query = blockIdx.x % blocks_a_beta * kAccuracyQueries;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t first = 0; first < p.num_alphas; first += kAlphas) {
    const int64_t left = p.num_alphas - first;
    const int count = left < kAlphas ? static_cast<int>(left) : kAlphas;
    T alphas[kAlphas];
#pragma unroll
    for (int a = 0; a < kAlphas; ++a) alphas[a] = a < count ? static_cast<const T*>(p.alphas)[first + a] : T(0);
    int correct = 0;  // of the alpha whose number is the lane's
    for (int i = warp; i < kAccuracyQueries; i += kThreads / 32) {
      const int64_t b = first_query + i;
      if (b >= p.num_queries) break;
      const T* logits = static_cast<const T*>(p.base_logits) + b * p.num_classes;
      const T* scores = static_cast<const T*>(p.scores) + (g * p.num_queries + b) * p.num_classes;
      const int64_t target = p.targets[b];
      if (target < 0 || target >= p.num_classes) continue;  // not looked at where that would wait
      T best[kAlphas];
#pragma unroll
      for (int a = 0; a < kAlphas; ++a) best[a] = logits[target] + alphas[a] * scores[target];
      // The target's own logit is among the second: it beats itself where it is a NaN.
      uint32_t beaten = beaten_alphas<true>(logits, scores, 0, target, alphas, best, count) |
                        beaten_alphas<false>(logits, scores, target, p.num_classes, alphas, best, count);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) beaten |= __shfl_xor_sync(0xffffffffu, beaten, step);
      correct += 1 - (beaten >> lane & 1);
    }
    if (lane < count && correct > 0)
      atomicAdd(reinterpret_cast<unsigned long long*>(p.correct) + g * p.num_alphas + first + lane,
                static_cast<unsigned long long>(correct));
  }
}

}  // namespace vlmadapt::cache_retrieval
