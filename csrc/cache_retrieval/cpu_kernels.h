// The kernels that every instruction-set file provides, one set of function pointers a level.
#pragma once

#include "cache_retrieval/kernel.h"
#include "common/isa.h"

namespace vlmadapt::cache_retrieval {

// All return whether their results stand: the exact kernels always true, the others false where their products are not
// numbers, or weights not finite, which may be different with exact ones.
struct CpuKernels {
  bool (*forward[num_dtypes])(const ForwardParams&, const Parallel&);
  bool (*dense_forward[num_dtypes])(const DenseForwardParams&, const Parallel&);
  bool (*backward[num_dtypes])(const BackwardParams&, const Parallel&);
  bool (*grid[num_dtypes])(const GridParams&, const Parallel&);

  VLMADAPT_KERNELS_OF_EVERY_LEVEL
};

// The same through products of bfloat16, by what they multiply; nullptr where a level gains nothing.
struct Bf16Kernels {
  enum Kind { bf16, f32_as_one, f32_as_two, kinds };

  bool (*forward[kinds])(const ForwardParams&, const Parallel&);
  bool (*dense_forward[kinds])(const DenseForwardParams&, const Parallel&);
  bool (*backward[kinds])(const BackwardParams&, const Parallel&);
  bool (*grid[kinds])(const GridParams&, const Parallel&);

#define VLMADAPT_BF16_KERNELS_OF_LEVEL(level, features) static const Bf16Kernels& level();
  VLMADAPT_BF16_LEVELS(VLMADAPT_BF16_KERNELS_OF_LEVEL)
#undef VLMADAPT_BF16_KERNELS_OF_LEVEL
};

}  // namespace vlmadapt::cache_retrieval
