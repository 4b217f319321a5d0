// The strongest entries of the rows of a tile: the contract between kernel and caller. Knows no torch.
#pragma once

#include <cstdint>

#include "common/parallel.h"

namespace vlmadapt::signed_cosine {

// For every row of a row-major tile [num_rows, num_columns] the k entries of largest magnitude, columns rising, with
// their signs. Among equal magnitudes the lower column wins; NaN counts as the largest. Row r leaves the column
// first_row + r out where `skip_diagonal` says so; there must be k others.
template <class T>
struct TopKParams {
  const T* tile;
  int64_t num_rows;
  int64_t num_columns;
  int64_t k;
  int64_t first_row;
  bool skip_diagonal;
  int64_t* columns;  // [num_rows, k]
  T* values;         // [num_rows, k]
};

void top_k_cpu(const TopKParams<float>& params, const Parallel& parallel);
void top_k_cpu(const TopKParams<double>& params, const Parallel& parallel);

}  // namespace vlmadapt::signed_cosine
