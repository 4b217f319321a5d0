// The kernels that every instruction-set file provides, one set of function pointers a level.
#pragma once

#include "cache_retrieval/kernel.h"
#include "common/isa.h"

namespace vlmadapt::cache_retrieval {

struct CpuKernels {
  void (*forward[num_dtypes])(const ForwardParams&, const Parallel&);
  void (*dense_forward[num_dtypes])(const DenseForwardParams&, const Parallel&);
  void (*backward[num_dtypes])(const BackwardParams&, const Parallel&);
  void (*grid[num_dtypes])(const GridParams&, const Parallel&);

  VLMADAPT_KERNELS_OF_EVERY_LEVEL
};

}  // namespace vlmadapt::cache_retrieval
