// Tiles of the CUDA kernels: 64 rows by 64 rows, 128 threads, the inner dimension in steps of 64 bytes.
//
// A stage of the pipeline holds one step of both operands: 64 rows of 64 bytes each, padded to 80, so that the eight
// rows an ldmatrix reads fall into different banks. Bytes, not elements, are the unit: 16-bit and tf32 fragments are
// the same bytes. Two products share this shape:
//   TensorProduct  mma.sync on bf16, fp16, or float rounded to tf32; sums in float
//   FmaProduct     plain multiply-add on float or double: exact to the accumulation type
// Both also compute (64 x 64 weights) x (64 rows x one step of columns), which the backward pass needs; the tensor
// version does that in tf32 for every type: 16-bit keys are exact in it, and weights keep the exponent range of float.
#pragma once

#include <type_traits>

#include "cache_retrieval/kernel.h"
#include "common/cuda_launch.h"
#include "common/ptx.cuh"

namespace vlmadapt::cache_retrieval {

constexpr int kThreads = 128;
constexpr int kTile = 64;
constexpr int kStepBytes = 64;
constexpr int kRowBytes = kStepBytes + 16;
constexpr int kOperandBytes = kTile * kRowBytes;
constexpr int kStageBytes = 2 * kOperandBytes;
constexpr int kStages = 3;
constexpr int kPieces = kTile * kStepBytes / 16 / kThreads;  // 16-byte pieces of one operand that a thread loads
constexpr int kPieceRows = kThreads * 16 / kStepBytes;       // rows between two pieces of a thread

template <class E>
constexpr int kStepWidth = kStepBytes / static_cast<int>(sizeof(E));

inline __host__ __device__ int64_t steps_of(int64_t width, int step_width) {
  const int64_t steps = (width + step_width - 1) / step_width;
  return steps < 1 ? 1 : steps;  // a width of zero still makes one step, of zeros
}

template <class T>
__device__ __forceinline__ T value_of(const PerQuery& x, int64_t query) {
  return x.values ? static_cast<const T*>(x.values)[query * x.stride] : static_cast<T>(x.same);
}

// The first position in [low, high) of a value from `value` on, where values rise.
__device__ __forceinline__ int64_t first_from(const int64_t* values, int64_t low, int64_t high, int64_t value) {
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (values[middle] < value)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

// The rows of a matrix that this thread copies into an operand; -1 past the end, which reads as zeros.
struct PieceRows {
  int64_t row[kPieces];
};

__device__ __forceinline__ int piece_row(int piece) {
  return static_cast<int>(threadIdx.x) / (kStepBytes / 16) + piece * kPieceRows;
}

// Starts copying columns [column, column + step) of the given rows. `aligned`: rows start at multiples of 16 bytes.
template <class E>
__device__ __forceinline__ void load_operand(char* operand, const E* matrix, int64_t width, const PieceRows& rows,
                                             int64_t column, bool aligned) {
  constexpr int per_piece = 16 / static_cast<int>(sizeof(E));
  const int part = static_cast<int>(threadIdx.x) % (kStepBytes / 16);
  const int64_t first = column + part * per_piece;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    char* to = operand + piece_row(i) * kRowBytes + part * 16;
    if (aligned) {  // then the width is a multiple of a piece too
      const bool inside = rows.row[i] >= 0 && first < width;
      ptx::copy16_async(to, inside ? matrix + rows.row[i] * width + first : matrix, inside ? 16 : 0);
    } else {
#pragma unroll 1  // the slow path: small code rather than fast
      for (int k = 0; k < per_piece; ++k) {
        const bool inside = rows.row[i] >= 0 && first + k < width;
        reinterpret_cast<E*>(to)[k] = inside ? matrix[rows.row[i] * width + first + k] : E(0.f);
      }
    }
  }
}

// Sums of a 64 x 64 tile, 32 a thread: element [i][j] lies at (row(i, j), column(i, j)). The threads that share a row
// are numbered by contributor(); row_slot(i, j) counts the rows within a thread.
template <class T>
struct Sums {
  T at[8][4];
};

template <class E>
struct TensorProduct {
  using Element = E;
  using Accumulator = float;
  using Weight = uint32_t;  // tf32 bits
  static constexpr int kRowSlots = 4, kContributors = 8;
  static constexpr int kColumnGroups = kStepWidth<E> / 8;  // of the second product

  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ int warp() { return threadIdx.x / 32; }
  // Warps lie 2 x 2 over the tile; i counts 2 x 4 fragments of 16 x 8.
  static __device__ int row_slot(int i, int j) { return i / 4 * 2 + j / 2; }
  static __device__ int row(int i, int j) { return warp() / 2 * 32 + i / 4 * 16 + j / 2 * 8 + lane() / 4; }
  static __device__ int column(int i, int j) { return warp() % 2 * 32 + i % 4 * 8 + lane() % 4 * 2 + j % 2; }
  static __device__ int contributor() { return warp() % 2 * 4 + lane() % 4; }

  static __device__ __forceinline__ void round_fragment(uint32_t (&words)[4]) {
    if constexpr (std::is_same<E, float>::value) {
#pragma unroll
      for (int k = 0; k < 4; ++k) words[k] = ptx::to_tf32(__uint_as_float(words[k]));
    }
  }

  // sums += left right^T over one step.
  static __device__ __forceinline__ void multiply(Sums<float>& sums, const char* left, const char* right) {
    const char* left_row = left + (warp() / 2 * 32 + lane() % 16) * kRowBytes + lane() / 16 * 16;
    const char* right_row = right + (warp() % 2 * 32 + lane() / 16 * 8 + lane() % 8) * kRowBytes + lane() / 8 % 2 * 16;
#pragma unroll
    for (int byte = 0; byte < kStepBytes; byte += 32) {
      uint32_t a[2][4], b[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        ptx::load_matrices(a[m], left_row + m * 16 * kRowBytes + byte);
        round_fragment(a[m]);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        ptx::load_matrices(b[n], right_row + n * 16 * kRowBytes + byte);
        round_fragment(b[n]);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const uint32_t pair[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
          ptx::mma<E>(sums.at[m * 4 + n], a[m], pair);
        }
    }
  }

  // The second product: out = weights [64, stride] x rows [64, one step]; a warp has 16 rows, out[n] is a fragment.
  static constexpr int kSecond = kColumnGroups * 4;
  static __device__ int second_row(int i) { return warp() * 16 + lane() / 4 + i % 4 / 2 * 8; }
  static __device__ int second_column(int i) { return i / 4 * 8 + lane() % 4 * 2 + i % 2; }
  static __device__ __forceinline__ Weight weight(float x) { return ptx::to_tf32(x); }
  static __device__ __forceinline__ void second_multiply(float (&out)[kSecond], const Weight* weights, int stride,
                                                         const char* rows) {
    const int group = lane() / 4, quad = lane() % 4;
    float sums[kColumnGroups][4] = {};
    const Weight* mine = weights + (warp() * 16 + group) * stride + quad;
#pragma unroll
    for (int k = 0; k < kTile; k += 8) {
      const uint32_t a[4] = {mine[k], mine[8 * stride + k], mine[k + 4], mine[8 * stride + k + 4]};
#pragma unroll
      for (int n = 0; n < kColumnGroups; ++n) {
        const char* column = rows + (k + quad) * kRowBytes + (n * 8 + group) * sizeof(E);
        const uint32_t b[2] = {ptx::to_tf32(to_float(*reinterpret_cast<const E*>(column))),
                               ptx::to_tf32(to_float(*reinterpret_cast<const E*>(column + 4 * kRowBytes)))};
        ptx::mma<float>(sums[n], a, b);
      }
    }
#pragma unroll
    for (int i = 0; i < kSecond; ++i) out[i] = sums[i / 4][i % 4];
  }
};

template <class T>
struct FmaProduct {
  using Element = T;
  using Accumulator = T;
  using Weight = T;
  static constexpr int kRowSlots = 8, kContributors = 16;
  static constexpr int kPerPiece = 16 / sizeof(T);
  struct alignas(16) Piece {
    T at[kPerPiece];
  };

  // 8 x 16 threads; a thread has every eighth row and every sixteenth column.
  static __device__ int row_slot(int i, int) { return i; }
  static __device__ int row(int i, int) { return threadIdx.x / 16 + i * 8; }
  static __device__ int column(int, int j) { return threadIdx.x % 16 + j * 16; }
  static __device__ int contributor() { return threadIdx.x % 16; }

  static __device__ __forceinline__ void multiply(Sums<T>& sums, const char* left, const char* right) {
#pragma unroll(sizeof(T) == 8 ? 1 : kStepBytes / 16)  // two streams of doubles leave no register to spare
    for (int byte = 0; byte < kStepBytes; byte += 16) {
      Piece b[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) b[j] = *reinterpret_cast<const Piece*>(right + column(0, j) * kRowBytes + byte);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const Piece a = *reinterpret_cast<const Piece*>(left + row(i, 0) * kRowBytes + byte);
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int k = 0; k < kPerPiece; ++k) sums.at[i][j] += a.at[k] * b[j].at[k];
      }
    }
  }

  static constexpr int kColumns = kStepWidth<T>, kSecondRows = kThreads / kColumns;
  static constexpr int kSecond = kTile / kSecondRows;
  static __device__ int second_row(int i) { return threadIdx.x / kColumns + i * kSecondRows; }
  static __device__ int second_column(int) { return threadIdx.x % kColumns; }
  static __device__ __forceinline__ Weight weight(T x) { return x; }
  static __device__ __forceinline__ void second_multiply(T (&out)[kSecond], const Weight* weights, int stride,
                                                         const char* rows) {
#pragma unroll
    for (int i = 0; i < kSecond; ++i) out[i] = T(0);
#pragma unroll 4
    for (int k = 0; k < kTile; ++k) {
      const T x = reinterpret_cast<const T*>(rows + k * kRowBytes)[second_column(0)];
#pragma unroll
      for (int i = 0; i < kSecond; ++i) out[i] += weights[second_row(i) * stride + k] * x;
    }
  }
};

}  // namespace vlmadapt::cache_retrieval
