// What csrc/common/simd.h computes at one level, behind function pointers: unit_simd_level.cpp is compiled once a level
// and fills a table; unit_simd.cpp, compiled for every processor, calls the tables of those levels this one has.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace vlmadapt {

template <class T>
struct SimdFunctions {
  using Map = void (*)(const T* x, T* y, int64_t count);  // y[i] = f(x[i]); count is a multiple of the lanes
  Map exp, log, log2, exp2;
  Map at_least_one;                                            // at_least(1, x)
  T (*sum)(const T* x);                                        // of one vector
  void (*copy_first)(const T* from, T* to, int64_t count);     // load_first, then store_first
  void (*load_first)(const T* from, T* whole, int64_t count);  // all lanes of load_first
  int lanes;
};

struct HalfFunctions {
  void (*widen_bf16)(const uint16_t* x, float* y, int64_t count);
  void (*widen_f16)(const uint16_t* x, float* y, int64_t count);
  void (*narrow_bf16)(const float* x, uint16_t* y, int64_t count);
  void (*narrow_f16)(const float* x, uint16_t* y, int64_t count);
};

struct SimdTable {
  SimdFunctions<float> f32;
  SimdFunctions<double> f64;
  HalfFunctions half;
};

// Constants, so that no code of a level runs before a test has asked whether the processor has it.
#define VLMADAPT_LEVEL(level, features) \
  namespace level {                     \
  extern const SimdTable simd_table;    \
  }
VLMADAPT_LEVEL(baseline, )
VLMADAPT_VECTOR_LEVELS(VLMADAPT_LEVEL, )
#undef VLMADAPT_LEVEL

}  // namespace vlmadapt
