// The choice of an operator's kernels by instruction-set level. An operator declares a struct CpuKernels of function
// pointers with a static member for every vector level; cpu_level.cpp, compiled once a level, defines the member of
// that level. One that multiplies bfloat16 declares another struct, whose members cpu_bf16_level.cpp defines.
#pragma once

#include "common/isa.h"

namespace vlmadapt {

template <class Kernels>
const Kernels& kernels_of(Isa isa) {
  const Kernels& (*kernels)() = Kernels::baseline;
#define VLMADAPT_LEVEL(level, features) \
  if constexpr (is_built(Isa::level))   \
    if (isa >= Isa::level) kernels = Kernels::level;
  VLMADAPT_VECTOR_LEVELS(VLMADAPT_LEVEL, )
#undef VLMADAPT_LEVEL
  (void)isa;
  return kernels();
}

// The kernels of a level of bfloat16, or nullptr where `isa` is below them all.
template <class Kernels>
const Kernels* bf16_kernels_of(Isa isa) {
  const Kernels* kernels = nullptr;
#define VLMADAPT_LEVEL(level, features) \
  if constexpr (is_built(Isa::level))   \
    if (isa >= Isa::level) kernels = &Kernels::level();
  VLMADAPT_BF16_LEVELS(VLMADAPT_LEVEL)
#undef VLMADAPT_LEVEL
  (void)isa;
  return kernels;
}

}  // namespace vlmadapt
