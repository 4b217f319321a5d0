// p-Laplacian attention of 16-bit inputs on a GPU's tensor cores: as forward.cuh, with nothing of a tile in shared
// memory but the rows of keys, which the next tile's asynchronous copies follow. The sums over W x_value and P value
// stay in accumulators from the first key to the last (flash_tile.cuh).
//
// Both P = 2^(s - m) and W = 2^(h s + g log |x_i - x_j|^2 - n) have a base of their own, whole numbers not below the
// row's largest exponents so far: weights are at most one, as float16 needs, and what has been summed is scaled, where
// a base rises, by a power of two. From probabilities s is their logarithm; at p = 2 they are weights as they are.
//
// Scores, distances and both sums of rows are products of the widths of their matrices, rounded up to 16.
#pragma once

#include <type_traits>

#include "p_laplacian/flash_tile.cuh"
#include "p_laplacian/forward.cuh"

namespace vlmadapt::p_laplacian {

// The block's own rows, two stages of tiles of keys, and squared norms of both.
template <class E, bool from_scores, int columns>
struct FlashMemory {
  static constexpr int keys = kFlashKeys<columns>, stride = kFlashStride<columns>;
  static constexpr int sides = from_scores ? 2 : 1, matrices = from_scores ? 3 : 1;
  static constexpr int elements = (sides * kOwned<float> + 2 * matrices * keys) * stride;

  E *x_queries, *queries, *tiles;
  float *own_norms, *norms;

  __device__ explicit FlashMemory(E* shared)
      : x_queries(shared),
        queries(x_queries + kOwned<float> * stride),
        tiles(x_queries + sides * kOwned<float> * stride),
        own_norms(reinterpret_cast<float*>(shared + elements)),
        norms(own_norms + kOwned<float>) {}

  __device__ E* x_values(int stage) const { return tiles + stage * matrices * keys * stride; }
  __device__ E* keys_of(int stage) const { return x_values(stage) + keys * stride; }
  __device__ E* values(int stage) const { return x_values(stage) + 2 * keys * stride; }
};

// What is left of a block's walk, in the same memory: rows of the sums, and three numbers a row.
template <bool from_scores, int columns>
struct FlashSums {
  static constexpr int stride = columns + 4, rows = kOwned<float>;
  static constexpr int floats = (from_scores ? 2 : 1) * rows * stride + 3 * rows;

  float *most, *sum_p, *sum_w, *out, *context;

  __device__ explicit FlashSums(float* shared)
      : most(shared), sum_p(most + rows), sum_w(sum_p + rows), out(sum_w + rows), context(out + rows * stride) {}
};

template <class E, bool from_scores, int columns>
constexpr int flash_forward_shared_bytes() {
  using Memory = FlashMemory<E, from_scores, columns>;
  constexpr int walk = Memory::elements * static_cast<int>(sizeof(E)) + (kOwned<float> + Memory::keys) * 4;
  constexpr int end = FlashSums<from_scores, columns>::floats * 4;
  return walk > end ? walk : end;
}

// Where there are no exponents yet any base does.
__device__ __forceinline__ float usable(float base) { return base == -infinity<float>() ? 0.f : base; }

// Scales what has been summed with the base `before` to `base`, the two rows of a thread each with its own.
template <int columns>
__device__ __forceinline__ void rebase(Fragments<columns>& rows, float (&sums)[2], const float (&before)[2],
                                       const float (&base)[2], int width) {
  if (!__any_sync(0xffffffffu, before[0] != base[0] || before[1] != base[1])) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float keep = ptx::exp2_flushed(before[half] - usable(base[half]));
    sums[half] *= keep;
#pragma unroll
    for (int n = 0; n < columns / 8; ++n) {
      if (8 * n >= width) continue;
      rows[n][2 * half] *= keep;
      rows[n][2 * half + 1] *= keep;
    }
  }
}

template <class E, bool from_scores, int columns>
__global__ void __launch_bounds__(kThreads, 2)
    flash_forward_kernel(const ForwardParams params, int64_t tiles, int64_t share, void* workspace) {
  constexpr int keys = kFlashKeys<columns>, stride = kFlashStride<columns>;
  CUDA_DYN_SMEM(E, shared);
  const Problem& p = params.problem;
  const FlashMemory<E, from_scores, columns> memory(shared);
  const FlashPlace place;
  const int head = static_cast<int>(blockIdx.x / tiles);  // below 2^31, as blocks are
  const int64_t first = blockIdx.x % tiles * kOwned<float>;
  const Pairs<float> pairs(p, head);
  const float exponent = static_cast<const float*>(p.p)[head % p.heads], h = exponent / 2, g = h - 1;
  const float unit = static_cast<float>(kLog2OfE), score_unit = static_cast<float>(p.scale * kLog2OfE);
  const bool plain = exponent == 2.f, with_context = from_scores && p.has_value;
  const Matrix<E> queries(p.query, head, p.num_queries, p.width), key_rows(p.key, head, p.num_keys, p.width);
  const Matrix<E> x_queries(p.x_query, head, p.num_queries, p.features);
  const Matrix<E> x_values(p.x_value, head, p.num_keys, p.features);
  const Matrix<E> values(p.value, head, p.num_keys, with_context ? p.value_width : 0);
  const Matrix<E> attention(p.attention, head, p.num_queries, p.num_keys);
  const int features = static_cast<int>(p.features), width = static_cast<int>(p.width);
  const int value_width = static_cast<int>(values.width);
  const int rows = p.num_queries - first < kOwned<float> ? static_cast<int>(p.num_queries - first) : kOwned<float>;
  const int64_t begin = blockIdx.y * share;
  int64_t end = begin + share < pairs.key_end ? begin + share : pairs.key_end;
  if (p.causal && first + rows + pairs.offset < end) end = first + rows + pairs.offset;  // what the last query sees

  if (begin < end) {
    copy_rows<kOwned<float>, stride>(memory.x_queries, x_queries, first);
    if constexpr (from_scores) copy_rows<kOwned<float>, stride>(memory.queries, queries, first);
  }

  Fragments<columns> out = {}, context = {};
  float most[2], most_w[2], sum_p[2] = {}, sum_w[2] = {}, own_norms[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    most[half] = -infinity<float>();
    // Of probabilities a base whose power weights as they are may be divided by.
    most_w[half] = from_scores ? -infinity<float>() : -126.f;
  }
  // A round before the first tile only asks for it: copies written twice would take twice the registers.
  int stage = 1;
  for (int64_t at = begin - keys; at < end; at += keys, stage ^= 1) {
    ptx::wait_copies<0>();
    __syncthreads();  // this tile is there, and everyone has left the one before
    if (at + keys < end) {
      copy_rows<keys, stride>(memory.x_values(stage ^ 1), x_values, at + keys);
      if constexpr (from_scores) {
        copy_rows<keys, stride>(memory.keys_of(stage ^ 1), key_rows, at + keys);
        copy_rows<keys, stride>(memory.values(stage ^ 1), values, at + keys);
      }
      ptx::commit_copies();
    }
    if (at < begin) continue;
    const E* x = memory.x_values(stage);
    const E* own = memory.x_queries + 16 * place.warp * stride;

    if (!plain) {
      if (at == begin) square_norms<stride>(memory.own_norms + 16 * place.warp, own, features, place);
      if (16 * place.warp < keys)
        square_norms<stride>(memory.norms + 16 * place.warp, x + 16 * place.warp * stride, features, place);
    }
    Fragments<keys> score = {}, exponents;
    if constexpr (from_scores) {
      multiply_rows<keys, stride>(score, memory.queries + 16 * place.warp * stride, memory.keys_of(stage), width,
                                  place.lane);
    } else {
      load_pairs<keys>(score, attention, first, at, TileBounds(rows, end - at, 0), place);
    }
    if (!plain) {
      __syncthreads();  // the norms are there
#pragma unroll
      for (int half = 0; half < 2; ++half) own_norms[half] = memory.own_norms[place.row(half)];
      squared_distances<keys, stride>(exponents, own, own_norms, x, memory.norms, features, place);
    }

    const TileBounds bounds(rows, end - at, first + pairs.offset - at);  // late, for want of registers
    if constexpr (from_scores) {
      each_of<keys>([&](int n, int r) { score[n][r] *= score_unit; });
      if (p.causal || bounds.keys < keys) {
        each_of<keys>([&](int n, int r) {
          const int key = place.other(n, r);
          if (key >= bounds.keys || (p.causal && key > place.row(r / 2) + bounds.self))
            score[n][r] = -infinity<float>();
        });
      }
      if (p.mask_kind != MaskKind::none) {
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
          const int query = place.row(half);
          each_of<keys>([&](int n, int r) {
            if (r / 2 != half || query >= bounds.queries || score[n][r] == -infinity<float>()) return;
            score[n][r] = pairs.masked(score[n][r], first + query, at + place.other(n, r), unit);
          });
        }
      }
    }
    // Exponents of the weights; minus infinity where the pair is dropped, or its probability no normal number.
    const auto exponent_of = [&](int n, int r) { return from_scores ? score[n][r] : ptx::log2_flushed(score[n][r]); };
    if (plain) {
      each_of<keys>([&](int n, int r) { exponents[n][r] = exponent_of(n, r); });
    } else {
      each_of<keys>([&](int n, int r) {
        const float squared = exponents[n][r], x = h * exponent_of(n, r) + g * ptx::log2_flushed(squared);
        exponents[n][r] = squared < Limits<float>::coincidence ? -infinity<float>() : x;
      });
    }
    if (p.drop_diagonal && bounds.self > -kOwned<float> && bounds.self < keys) {
      each_of<keys>([&](int n, int r) {
        if (place.other(n, r) != place.row(r / 2) + bounds.self) return;
        exponents[n][r] = -infinity<float>();
        if (!from_scores) score[n][r] = 0.f;
      });
    }

    const float before[2] = {most[0], most[1]}, before_w[2] = {most_w[0], most_w[1]};
    float top[2] = {most[0], most[1]}, top_w[2] = {most_w[0], most_w[1]};
    each_of<keys>([&](int n, int r) {
      if (from_scores) top[r / 2] = fmaxf(top[r / 2], score[n][r]);
      top_w[r / 2] = fmaxf(top_w[r / 2], exponents[n][r]);
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (from_scores) most[half] = ceilf(quad_max(top[half]));
      most_w[half] = ceilf(quad_max(top_w[half]));
    }
    if (from_scores) rebase<columns>(context, sum_p, before, most, value_width);
    rebase<columns>(out, sum_w, before_w, most_w, features);
    const float base[2] = {usable(most[0]), usable(most[1])}, base_w[2] = {usable(most_w[0]), usable(most_w[1])};
    if (from_scores) {
      each_of<keys>([&](int n, int r) {
        score[n][r] = ptx::exp2_flushed(score[n][r] - base[r / 2]);
        sum_p[r / 2] += score[n][r];
      });
    }
    if (from_scores || !plain) {
      each_of<keys>([&](int n, int r) { exponents[n][r] = ptx::exp2_flushed(exponents[n][r] - base_w[r / 2]); });
    } else {
      const float down[2] = {power_of_two(-base_w[0]), power_of_two(-base_w[1])};
      each_of<keys>([&](int n, int r) { exponents[n][r] = score[n][r] * down[r / 2]; });
    }
    each_of<keys>([&](int n, int r) { sum_w[r / 2] += exponents[n][r]; });
    if (with_context) add_weighted<columns>(context, score, memory.values(stage), value_width, place.lane);
    add_weighted<columns>(out, exponents, x, features, place.lane);
  }

  __syncthreads();  // nobody reads tiles any more, and no copy is on its way
  const FlashSums<from_scores, columns> sums(reinterpret_cast<float*>(shared));
  float up[2] = {1.f, 1.f};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = place.row(half);
    // To the base that forward.cuh has: h m, from probabilities zero.
    const float total_p = quad_sum(sum_p[half]), total_w = quad_sum(sum_w[half]);
    if (most_w[half] > -infinity<float>()) up[half] = power_of_two(most_w[half] - (from_scores ? h * most[half] : 0.f));
    if (place.quad == 0) {
      sums.most[row] = most[half];
      sums.sum_p[row] = total_p;
      sums.sum_w[row] = total_w * up[half];
    }
  }
  each_of<columns>([&](int n, int r) {
    const int at = place.row(r / 2) * sums.stride + place.other(n, r);
    sums.out[at] = out[n][r] * up[r / 2];
    if (from_scores) sums.context[at] = context[n][r];
  });
  __syncthreads();
  const PartOfRows<float> part(params, workspace, head * p.num_queries + first);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) / kLanes; i < rows; i += kGroups) {
    const float *moved = sums.out + i * sums.stride, *seen = sums.context + i * sums.stride;
    if (!workspace) {
      finish_query<E, from_scores>(
          params, head * p.num_queries + first + i, lane, sums.most[i], sums.sum_p[i], sums.sum_w[i],
          [&](int64_t c) { return moved[c]; }, [&](int64_t c) { return seen[c]; });
      continue;
    }
    for (int c = lane; c < features; c += kLanes) part.out[i * features + c] = moved[c];
    for (int c = lane; c < value_width; c += kLanes) part.context[i * value_width + c] = seen[c];
    if (lane != 0) continue;
    part.sums.most[part.place + i] = sums.most[i];
    part.sums.sum_p[part.place + i] = sums.sum_p[i];
    part.sums.sum_w[part.place + i] = sums.sum_w[i];
  }
}

}  // namespace vlmadapt::p_laplacian
