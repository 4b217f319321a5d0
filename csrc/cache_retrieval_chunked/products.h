// What the chunked route asks of a library of matrix products. Knows no torch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/dtype.h"

namespace vlmadapt::cache_retrieval {

// Row-major and contiguous, or the transpose of a matrix that is.
struct Matrix {
  const void* data;
  Dtype dtype;
  int64_t rows, columns;
  bool transposed = false;  // [columns, rows] lie in memory
};

class Products {
 public:
  virtual ~Products() = default;
  // out [left.rows, right.columns] = left right, in the accumulation type of their common dtype; neither size is zero.
  virtual cudaError_t multiply(const Matrix& left, const Matrix& right, void* out) = 0;
};

}  // namespace vlmadapt::cache_retrieval
