// Heterogeneous aggregation: the contract between kernels and callers. Knows no torch.
//
//   out[i]    = sum over relations r of coefficients[r] * sum over edges k of row i of w_r[k] * matrix_r[columns_r[k]]
//   out[r, i] =                         coefficients[r] * sum over edges k of row i of w_r[k] * matrix_r[columns_r[k]]
//
// One params serves both directions. Forward: the rows are targets, the matrices sources. Backward: the rows are the
// rows of one source matrix, the edges those of the transposed relations, the matrix the gradient of the result, so
// that `out` is that source's gradient. There `own`, the source rows themselves, give two gradients more from the same
// reads:
//
//   grad_weights_r[edges_r[k]] = coefficients[r] * own[i] . matrix_r[columns_r[k]]
//   grad_coefficients[r]       = sum over rows i of own[i] . (sum over edges k of row i of w_r[k]
//   matrix_r[columns_r[k]])
//
// All matrices are row-major and contiguous; sizes and offsets count elements and are 64-bit.
// "accum" marks pointers of the accumulation type: double for f64, float for every other dtype; "index" those of
// int32_t or int64_t.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace vlmadapt::hetero_aggregate {

enum class Index : int { i32 = 0, i64 = 1 };

constexpr int num_indices = 2;

struct Matrix {
  const void* data;  // dtype [rows, width]
  int64_t rows;
};

struct Relation {
  const int64_t* offsets;   // [num_rows + 1]: row i owns the edges offsets[i] .. offsets[i + 1]
  const void* columns;      // index [num_edges], rows of the matrix
  const void* edges;        // index [num_edges]: where an edge's weight and gradient are; nullptr: at its own place
  const void* weights;      // accum [num_edges]; nullptr: all one
  void* grad_weights;       // accum [num_edges], written whole; nullptr: not wanted
  const void* coefficient;  // accum [1]
  void* grad_coefficient;   // accum [1]; nullptr: not wanted
  int64_t matrix;           // which of the params's matrices is read
  int64_t num_edges;
};

struct AggregateParams {
  Dtype dtype;
  Index index;
  int64_t num_rows;
  int64_t width;
  int64_t num_matrices;
  const Matrix* matrices;
  int64_t num_relations;
  const Relation* relations;
  bool stacked;     // one result a relation
  void* out;        // dtype [num_rows, width] or [num_relations, num_rows, width]; nullptr: not wanted
  const void* own;  // dtype [num_rows, width]; read where one of the other two gradients is wanted
};

inline int64_t element_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }
inline int64_t accum_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }

void aggregate_cpu(const AggregateParams& params, const Parallel& parallel, Isa isa);

// The transpose of a relation by a stable counting sort: offsets [num_columns + 1], and per edge of the transpose its
// row in the relation and its place there.
void transpose_cpu(const int64_t* row_offsets, int64_t num_rows, const void* columns, int64_t num_columns, Index index,
                   int64_t* offsets, void* rows, void* edges);

}  // namespace vlmadapt::hetero_aggregate
