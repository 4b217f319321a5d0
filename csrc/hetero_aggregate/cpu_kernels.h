// The kernels that every instruction-set file provides, one set of function pointers a level.
#pragma once

#include "hetero_aggregate/kernel.h"

namespace vlmadapt::hetero_aggregate {

struct CpuKernels {
  void (*aggregate[num_dtypes][num_indices])(const AggregateParams&, const Parallel&);

  static const CpuKernels &baseline(), &avx2(), &avx512();
};

}  // namespace vlmadapt::hetero_aggregate
