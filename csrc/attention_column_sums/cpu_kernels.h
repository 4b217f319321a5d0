// The kernels that every instruction-set file provides, one set of function pointers a level.
#pragma once

#include "attention_column_sums/kernel.h"
#include "common/isa.h"

namespace vlmadapt::attention_column_sums {

struct CpuKernels {
  void (*forward[num_dtypes])(const ForwardParams&, const Parallel&);
  void (*backward[num_dtypes])(const BackwardParams&, const Parallel&);

  VLMADAPT_KERNELS_OF_EVERY_LEVEL
};

}  // namespace vlmadapt::attention_column_sums
