// Multiplying bfloat16: the instruction for vectors, and those for tiles where the level has them (VLMADAPT_TILES).
//
// Both multiply pairs: two bfloat16 that stand side by side along the depth of a product, the earlier in the low half
// of a Pair. Products are exact, sums are rounded to the nearest float32, ties to even, and subnormal numbers count as
// zero, going in and coming out. Tests compile the users of this header with their own instructions in place of these.
#pragma once

#include "common/simd.h"

#ifdef VLMADAPT_EMULATED_BF16
#include VLMADAPT_EMULATED_BF16
#else

namespace vlmadapt {
namespace VLMADAPT_ISA {

// sums[lane] += the products of both halves of a pair. The upper halves are added first.
VLMADAPT_INLINE Simd<float>::V add_products(Simd<float>::V sums, Simd<float>::U a, Simd<float>::U b) {
  return (Simd<float>::V)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}

}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt

#ifdef __AMX_BF16__
#define VLMADAPT_TILES 1
#endif
#endif
