// The choice of an operator's kernels by instruction-set level. An operator declares a struct CpuKernels of function
// pointers with a static member for every level; cpu_level.cpp, compiled once a level, defines the member of that
// level.
#pragma once

#include "common/isa.h"

namespace vlmadapt {

template <class Kernels>
const Kernels& kernels_of(Isa isa) {
#define VLMADAPT_LEVEL(level, features) \
  if constexpr (is_built(Isa::level))   \
    if (isa == Isa::level) return Kernels::level();
  VLMADAPT_NEWER_LEVELS(VLMADAPT_LEVEL, )
#undef VLMADAPT_LEVEL
  (void)isa;
  return Kernels::baseline();
}

}  // namespace vlmadapt
