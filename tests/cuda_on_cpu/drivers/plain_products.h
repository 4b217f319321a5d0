// Products by a plain loop, a thread an element: for the chunked route, in place of a library that needs a GPU.
#pragma once

#include "cache_retrieval/tile.cuh"
#include "cache_retrieval_chunked/products.h"
#include "common/cuda_launch.h"

struct PlainMatrix {
  const void* data;
  int64_t row_stride, column_stride;
};

template <class T, class E>
__device__ T widened(E x) {
  if constexpr (sizeof(T) == sizeof(E))
    return x;
  else
    return vlmadapt::cache_retrieval::to_float(x);
}

template <class E, class T>
__global__ void product_kernel(PlainMatrix left, PlainMatrix right, T* out, int64_t rows, int64_t columns,
                               int64_t inner) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= rows * columns) return;
  const E* x = static_cast<const E*>(left.data) + at / columns * left.row_stride;
  const E* y = static_cast<const E*>(right.data) + at % columns * right.column_stride;
  T sum = T(0);
  for (int64_t k = 0; k < inner; ++k)
    sum += widened<T>(x[k * left.column_stride]) * widened<T>(y[k * right.row_stride]);
  out[at] = sum;
}

class PlainProducts : public vlmadapt::cache_retrieval::Products {
 public:
  cudaError_t multiply(const vlmadapt::cache_retrieval::Matrix& left, const vlmadapt::cache_retrieval::Matrix& right,
                       void* out) override {
    using vlmadapt::Dtype;
    if (left.dtype != right.dtype || left.columns != right.rows || left.rows == 0 || right.columns == 0)
      return cudaErrorInvalidValue;
    switch (left.dtype) {
      case Dtype::bf16:
        return launch<__nv_bfloat16, float>(left, right, out);
      case Dtype::f16:
        return launch<__half, float>(left, right, out);
      case Dtype::f32:
        return launch<float, float>(left, right, out);
      case Dtype::f64:
        return launch<double, double>(left, right, out);
    }
    return cudaErrorInvalidValue;
  }

 private:
  static PlainMatrix plain(const vlmadapt::cache_retrieval::Matrix& m) {
    return m.transposed ? PlainMatrix{m.data, 1, m.rows} : PlainMatrix{m.data, m.columns, 1};
  }

  template <class E, class T>
  cudaError_t launch(const vlmadapt::cache_retrieval::Matrix& left, const vlmadapt::cache_retrieval::Matrix& right,
                     void* out) {
    constexpr int threads = 64;
    const int64_t count = left.rows * right.columns;
    CUDA_LAUNCH((product_kernel<E, T>), vlmadapt::grid_of((count + threads - 1) / threads), dim3(threads), 0, nullptr,
                plain(left), plain(right), static_cast<T*>(out), left.rows, right.columns, left.columns);
    return cudaGetLastError();
  }
};
