// The kernels that every instruction-set file provides, one set of function pointers a level.
#pragma once

#include "p_laplacian/kernel.h"

namespace vlmadapt::p_laplacian {

struct CpuKernels {
  void (*forward[num_dtypes])(const ForwardParams&, const Parallel&);
  void (*backward[num_dtypes])(const BackwardParams&, const Parallel&);
};

extern const CpuKernels cpu_kernels_baseline;
#if defined(__x86_64__)
extern const CpuKernels cpu_kernels_avx2;
extern const CpuKernels cpu_kernels_avx512;
#endif

}  // namespace vlmadapt::p_laplacian
