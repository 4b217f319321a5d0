// Reading rows of any storage type in the accumulation type, and small things that every file here needs.
#pragma once

#include "common/buffer.h"
#include "p_laplacian/cpu_tiles.h"
#include "p_laplacian/kernel.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

using vlmadapt::p_laplacian::BackwardParams;
using vlmadapt::p_laplacian::ForwardParams;
using vlmadapt::p_laplacian::Problem;

constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
template <class A>
constexpr int64_t padded(int64_t columns) {
  return divide_up(columns, Simd<A>::lanes) * Simd<A>::lanes;
}

// Features in registers at a time; rows and panels of features are padded with zeros to a multiple.
constexpr int64_t features_step = 8;
constexpr int64_t padded_features(int64_t features) {
  return max_of(divide_up(features, features_step), 1) * features_step;
}

template <class A>
constexpr A coincidence();
template <>
constexpr float coincidence<float>() {
  return static_cast<float>(vlmadapt::p_laplacian::coincidence_f32);
}
template <>
constexpr double coincidence<double>() {
  return vlmadapt::p_laplacian::coincidence_f64;
}

template <class A>
constexpr A smallest_normal();
template <>
constexpr float smallest_normal<float>() {
  return 1.17549435e-38f;
}
template <>
constexpr double smallest_normal<double>() {
  return 2.2250738585072014e-308;
}

// Whether tensors of this type hold the accumulation type itself.
template <class A>
constexpr bool is_accum(Dtype dtype) {
  return dtype == (sizeof(A) == 8 ? Dtype::f64 : Dtype::f32);
}

template <class T>
inline void convert(const void* matrix, int64_t start, int64_t count, Accum<T>* to) {
  const T* from = static_cast<const T*>(matrix) + start;
  for (int64_t i = 0; i < count; ++i) to[i] = to_accum(from[i]);
}

// `count` elements of a tensor from `start` on: where they lie, or converted into `to`. Not a template of the storage
// type, so that every kernel is compiled for two types only.
template <class A>
inline const A* read(Dtype dtype, const void* tensor, int64_t start, int64_t count, A* to) {
  if (is_accum<A>(dtype)) return static_cast<const A*>(tensor) + start;
  if constexpr (sizeof(A) == 4) {
    if (dtype == Dtype::bf16)
      convert<bf16>(tensor, start, count, to);
    else
      convert<f16>(tensor, start, count, to);
  }
  return to;
}

// The size of the buffer that `read` needs.
template <class A>
constexpr int64_t converted_count(Dtype dtype, int64_t count) {
  return is_accum<A>(dtype) ? 0 : count;
}

// Rows [row, row + count) of features, each padded to a multiple of features_step: where they lie, or in `to`.
template <class A>
inline const A* padded_rows(const Problem& p, const void* x, int64_t row, int64_t count, A* to) {
  const int64_t d = p.features, width = padded_features(d);
  const A* rows = read<A>(p.dtype, x, row * d, count * d, to);
  if (width == d) return rows;
  for (int64_t i = count - 1; i >= 0; --i) {  // from the end: the rows may lie packed in `to` itself
    for (int64_t c = width - 1; c >= 0; --c) to[i * width + c] = c < d ? rows[i * d + c] : A(0);
  }
  return to;
}

// Where heads are few, a head's queries are cut into so many chunks, of which there are at most `most`.
constexpr int64_t chunks_of(int64_t heads, int64_t most) {
  constexpr int64_t wanted_tasks = 32, max_chunks = 4;
  return max_of(min_of(min_of(divide_up(wanted_tasks, max_of(heads, 1)), max_chunks), most), 1);
}

// to = the sum of `chunks` pieces of `count` elements that lie `gap` apart, in order.
template <class A>
inline void add_partial(const A* from, int64_t chunks, int64_t gap, int64_t count, A* to) {
  for (int64_t i = 0; i < count; ++i) {
    A sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += from[chunk * gap + i];
    to[i] = sum;
  }
}

// The gradients of p and pull: scalars[batch, head, chunk] holds each task's pair.
template <class A>
inline void add_scalars(const Problem& p, int64_t chunks, const double* scalars, void* to_p, void* to_pull) {
  for (int64_t h = 0; h < p.heads; ++h) {
    double grad_p = 0, grad_pull = 0;
    for (int64_t b = 0; b < p.batch; ++b)
      for (int64_t task = (b * p.heads + h) * chunks; task < (b * p.heads + h + 1) * chunks; ++task) {
        grad_p += scalars[task * 2];
        grad_pull += scalars[task * 2 + 1];
      }
    static_cast<A*>(to_p)[h] = static_cast<A>(grad_p);
    static_cast<A*>(to_pull)[h] = static_cast<A>(grad_pull);
  }
}

// log2(Q), at least that of the smallest normal number: its products with powers are finite.
template <class A>
VLMADAPT_INLINE typename Simd<A>::V bounded_log2(typename Simd<A>::V q) {
  return Simd<A>::at_least(sizeof(A) == 4 ? -126 : -1022, log2(q));
}

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
