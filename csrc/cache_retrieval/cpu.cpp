#include <cstring>

#include "cache_retrieval/cpu_kernels.h"
#include "cache_retrieval/kernel.h"
#include "common/cpu_dispatch.h"

namespace vlmadapt::cache_retrieval {

void forward_cpu(const ForwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).forward[static_cast<int>(params.dtype)](params, parallel);
}

void dense_forward_cpu(const DenseForwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).dense_forward[static_cast<int>(params.dtype)](params, parallel);
}

void backward_cpu(const BackwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).backward[static_cast<int>(params.dtype)](params, parallel);
}

void grid_cpu(const GridParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).grid[static_cast<int>(params.dtype)](params, parallel);
}

int64_t class_order(const int64_t* labels, int64_t num_entries, int64_t num_classes, int64_t* order, int64_t* offsets) {
  std::memset(offsets, 0, static_cast<size_t>(num_classes + 1) * sizeof(int64_t));
  for (int64_t e = 0; e < num_entries; ++e) {
    if (labels[e] < 0 || labels[e] >= num_classes) return e;
    ++offsets[labels[e] + 1];
  }
  for (int64_t c = 0; c < num_classes; ++c) offsets[c + 1] += offsets[c];
  // offsets[c] serves as the next free slot of class c while placing, then every start is shifted back.
  for (int64_t e = 0; e < num_entries; ++e) order[offsets[labels[e]]++] = e;
  for (int64_t c = num_classes; c > 0; --c) offsets[c] = offsets[c - 1];
  offsets[0] = 0;
  return -1;
}

}  // namespace vlmadapt::cache_retrieval
