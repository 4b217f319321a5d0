// The kernels that every instruction-set file provides, one set of function pointers a level.
#pragma once

#include "hetero_aggregate/kernel.h"

namespace vlmadapt::hetero_aggregate {

struct CpuKernels {
  void (*aggregate[num_dtypes][num_indices])(const Job&, const Parallel&);
};

extern const CpuKernels cpu_kernels_baseline;
#if defined(__x86_64__)
extern const CpuKernels cpu_kernels_avx2;
extern const CpuKernels cpu_kernels_avx512;
#endif

}  // namespace vlmadapt::hetero_aggregate
