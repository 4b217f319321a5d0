// GoogleTest's side of unit_simd.h: tests with the level as their parameter, skipped where the processor lacks it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "common/isa.h"
#include "unit_simd.h"

namespace vlmadapt {

constexpr int64_t block = 4096;                                     // numbers to a call
constexpr double broken = std::numeric_limits<double>::infinity();  // an error beyond any

struct Level {
  Isa isa;
  const SimdTable* table;
};

inline const Level levels[] = {
#define VLMADAPT_LEVEL(level, features) {Isa::level, &level::simd_table},
    VLMADAPT_LEVEL(baseline, )
#if VLMADAPT_NUM_NEWER_LEVELS
        VLMADAPT_VECTOR_LEVELS(VLMADAPT_LEVEL, )
#endif
#undef VLMADAPT_LEVEL
};

// A test runs once a level.
class Simd : public testing::TestWithParam<Level> {
 protected:
  void SetUp() override {
    if (GetParam().isa > best_isa()) GTEST_SKIP() << "this processor lacks " << isa_name(GetParam().isa);
  }
  template <class T>
  const SimdFunctions<T>& functions() const {
    if constexpr (sizeof(T) == 4)
      return GetParam().table->f32;
    else
      return GetParam().table->f64;
  }
};

inline std::string name_of_level(const testing::TestParamInfo<Level>& info) { return isa_name(info.param.isa); }

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
template <class T>
using Limits = std::numeric_limits<T>;

template <class T>
T of_bits(Bits<T> bits) {
  T x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

}  // namespace vlmadapt
