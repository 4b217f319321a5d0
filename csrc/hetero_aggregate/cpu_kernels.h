// The kernels that every instruction-set file provides, one set of function pointers a level.
#pragma once

#include "common/isa.h"
#include "hetero_aggregate/kernel.h"

namespace vlmadapt::hetero_aggregate {

struct CpuKernels {
  void (*aggregate[num_dtypes][num_indices])(const AggregateParams&, const Parallel&);

  VLMADAPT_KERNELS_OF_EVERY_LEVEL
};

}  // namespace vlmadapt::hetero_aggregate
