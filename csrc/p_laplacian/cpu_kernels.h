// The kernels that every instruction-set file provides, one set of function pointers a level.
#pragma once

#include "common/isa.h"
#include "p_laplacian/kernel.h"

namespace vlmadapt::p_laplacian {

struct CpuKernels {
  void (*forward[num_dtypes])(const ForwardParams&, const Parallel&);
  void (*backward[num_dtypes])(const BackwardParams&, const Parallel&);

  VLMADAPT_KERNELS_OF_EVERY_LEVEL
};

}  // namespace vlmadapt::p_laplacian
