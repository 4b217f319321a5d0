// The choice of an operator's kernels by instruction-set level. An operator declares a struct CpuKernels of function
// pointers with a static member for every level; cpu_level.cpp, compiled once a level, defines the member of that
// level.
#pragma once

#include "common/isa.h"

namespace vlmadapt {

template <class Kernels>
const Kernels& kernels_of(Isa isa) {
#if defined(__x86_64__) && !defined(VLMADAPT_WITHOUT_AVX512)
  if (isa == Isa::avx512) return Kernels::avx512();
#endif
#if defined(__x86_64__) && !defined(VLMADAPT_WITHOUT_AVX2)
  if (isa == Isa::avx2) return Kernels::avx2();
#endif
  (void)isa;
  return Kernels::baseline();
}

}  // namespace vlmadapt
