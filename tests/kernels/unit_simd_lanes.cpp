// The exact operations of csrc/common/simd.h at every level: half-precision conversions, whole and partial vectors.
#include <cmath>
#include <vector>

#include "unit_simd_levels.h"

using namespace vlmadapt;

class Lanes : public Simd {};
INSTANTIATE_TEST_SUITE_P(Level, Lanes, testing::ValuesIn(levels), name_of_level);

TEST_P(Lanes, EveryHalfWidens) {
  std::vector<uint16_t> x(0x10000);
  std::vector<float> bf16(x.size()), f16(x.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(i);
  GetParam().table->half.widen_bf16(x.data(), bf16.data(), 0x10000);
  GetParam().table->half.widen_f16(x.data(), f16.data(), 0x10000);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float upper = of_bits<float>(bits << 16);
    ASSERT_EQ(std::memcmp(&bf16[bits], &upper, sizeof(upper)), 0) << bits;
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 31 && mantissa != 0) {
      ASSERT_TRUE(std::isnan(f16[bits])) << bits;
      continue;
    }
    const float magnitude = exponent == 31  ? Limits<float>::infinity()
                            : exponent == 0 ? std::ldexp(mantissa, -24)
                                            : std::ldexp(mantissa + 1024, exponent - 25);
    ASSERT_EQ(f16[bits], bits >> 15 ? -magnitude : magnitude) << bits;
  }
}

// Rounding by steps in double, ties to even: the value that the half of this precision and range stands for.
static double nearest_half(float x, int digits, int least_exponent, int greatest_exponent) {
  if (x == 0 || !std::isfinite(x)) return x;
  const double step = std::ldexp(1.0, std::max(std::ilogb(x), least_exponent) - digits + 1);
  const double rounded = std::nearbyint(x / step) * step;
  return std::fabs(rounded) < std::ldexp(1.0, greatest_exponent + 1) ? rounded : std::copysign(broken, rounded);
}

TEST_P(Lanes, FloatsNarrowToTheNearestHalf) {
  const HalfFunctions& half = GetParam().table->half;
  std::vector<float> x(block), widened(block);
  std::vector<uint16_t> narrowed(block);
  for (uint64_t first = 0; first < uint64_t(1) << 32;) {
    for (float& each : x) each = of_bits<float>(static_cast<uint32_t>(first)), first += 1021;
    for (const bool bfloat : {true, false}) {
      (bfloat ? half.narrow_bf16 : half.narrow_f16)(x.data(), narrowed.data(), block);
      (bfloat ? half.widen_bf16 : half.widen_f16)(narrowed.data(), widened.data(), block);
      for (int64_t i = 0; i < block; ++i) {
        const double exact = bfloat ? nearest_half(x[i], 8, -126, 127) : nearest_half(x[i], 11, -14, 15);
        if (std::isnan(exact))
          ASSERT_TRUE(std::isnan(widened[i]));
        else
          ASSERT_TRUE(widened[i] == exact && std::signbit(widened[i]) == std::signbit(x[i])) << std::hexfloat << x[i];
      }
    }
  }
}

template <class T>
static void lanes_are_handled(const SimdFunctions<T>& functions) {
  const int lanes = functions.lanes;
  std::vector<T> x(lanes), y(lanes);
  for (int i = 0; i < lanes; ++i) x[i] = T(i + 1);
  EXPECT_EQ(functions.sum(x.data()), T(lanes * (lanes + 1) / 2));
  for (int count = 0; count < lanes; ++count) {
    functions.load_first(x.data(), y.data(), count);
    for (int i = 0; i < lanes; ++i) EXPECT_EQ(y[i], i < count ? x[i] : 0) << count;
    y.assign(lanes, T(-7));
    functions.copy_first(x.data(), y.data(), count);
    for (int i = 0; i < lanes; ++i) EXPECT_EQ(y[i], i < count ? x[i] : -7) << count;
  }
  for (const T value : {T(-3), T(0.5), T(1), T(2), Limits<T>::infinity(), -Limits<T>::infinity()}) {
    x.assign(lanes, value);
    functions.at_least_one(x.data(), y.data(), lanes);
    for (const T got : y) EXPECT_EQ(got, std::max(T(1), value));
  }
  x.assign(lanes, Limits<T>::quiet_NaN());
  functions.at_least_one(x.data(), y.data(), lanes);
  for (const T got : y) EXPECT_TRUE(std::isnan(got));
}

TEST_P(Lanes, PartsOfFloat) { lanes_are_handled(functions<float>()); }
TEST_P(Lanes, PartsOfDouble) { lanes_are_handled(functions<double>()); }
