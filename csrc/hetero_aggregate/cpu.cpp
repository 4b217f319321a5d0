#include <cstring>

#include "common/cpu_dispatch.h"
#include "hetero_aggregate/cpu_kernels.h"
#include "hetero_aggregate/kernel.h"

namespace vlmadapt::hetero_aggregate {

namespace {

template <class I>
void transpose(const int64_t* row_offsets, int64_t num_rows, const I* columns, int64_t num_columns, int64_t* offsets,
               I* rows, I* edges) {
  const int64_t num_edges = row_offsets[num_rows];
  std::memset(offsets, 0, static_cast<size_t>(num_columns + 1) * sizeof(int64_t));
  for (int64_t e = 0; e < num_edges; ++e) ++offsets[columns[e] + 1];
  for (int64_t c = 0; c < num_columns; ++c) offsets[c + 1] += offsets[c];
  // offsets[c] serves as the next free slot of column c while placing, then every start is shifted back.
  for (int64_t r = 0; r < num_rows; ++r)
    for (int64_t e = row_offsets[r]; e < row_offsets[r + 1]; ++e) {
      const int64_t slot = offsets[columns[e]]++;
      rows[slot] = static_cast<I>(r);
      edges[slot] = static_cast<I>(e);
    }
  for (int64_t c = num_columns; c > 0; --c) offsets[c] = offsets[c - 1];
  offsets[0] = 0;
}

}  // namespace

void aggregate_cpu(const AggregateParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).aggregate[static_cast<int>(params.dtype)][static_cast<int>(params.index)](params,
                                                                                                        parallel);
}

void transpose_cpu(const int64_t* row_offsets, int64_t num_rows, const void* columns, int64_t num_columns, Index index,
                   int64_t* offsets, void* rows, void* edges) {
  if (index == Index::i32)
    transpose(row_offsets, num_rows, static_cast<const int32_t*>(columns), num_columns, offsets,
              static_cast<int32_t*>(rows), static_cast<int32_t*>(edges));
  else
    transpose(row_offsets, num_rows, static_cast<const int64_t*>(columns), num_columns, offsets,
              static_cast<int64_t*>(rows), static_cast<int64_t*>(edges));
}

}  // namespace vlmadapt::hetero_aggregate
