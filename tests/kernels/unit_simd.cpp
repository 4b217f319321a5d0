// exp and the half-precision conversions against the standard library, at this compiler's baseline level.
#define VLMADAPT_ISA baseline
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/simd.h"

namespace simd = vlmadapt::baseline;

template <class T>
T exp_of(T x) {
  return simd::exp(simd::Simd<T>::broadcast(x))[0];
}

template <class T>
T log_of(T x) {
  return simd::log(simd::Simd<T>::broadcast(x))[0];
}

// log at points spread evenly over the exponents between low and high.
template <class T>
double largest_log_error_in_ulp(double low, double high) {
  double worst = 0;
  for (int i = 0; i <= 400000; ++i) {
    const T x = static_cast<T>(low * std::pow(high / low, i / 400000.0));
    const long double exact = std::log(static_cast<long double>(x));
    if (exact == 0) continue;
    const T rounded = static_cast<T>(exact);
    const long double ulp = std::fabs(std::nextafter(rounded, std::numeric_limits<T>::infinity()) - rounded);
    worst = std::max(worst, static_cast<double>(std::fabs(log_of<T>(x) - exact) / ulp));
  }
  return worst;
}

template <class T>
double largest_error_in_ulp(double low, double high) {
  double worst = 0;
  for (int i = 0; i <= 200000; ++i) {
    const T x = static_cast<T>(low + (high - low) * i / 200000);
    const long double exact = std::exp(static_cast<long double>(x));
    const T rounded = static_cast<T>(exact);
    const long double ulp = std::nextafter(rounded, std::numeric_limits<T>::infinity()) - rounded;
    worst = std::max(worst, static_cast<double>(std::fabs(exp_of<T>(x) - exact) / ulp));
  }
  return worst;
}

TEST(Exp, IsAccurate) {
  EXPECT_LT(largest_error_in_ulp<float>(-86, 88), 1.5);
  EXPECT_LT(largest_error_in_ulp<double>(-700, 709), 1.5);
}

TEST(Exp, HandlesTheEnds) {
  EXPECT_EQ(exp_of(0.0f), 1.0f);
  EXPECT_EQ(exp_of(-1e30f), 0.0f);
  EXPECT_EQ(exp_of(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_TRUE(std::isinf(exp_of(100.0f)));
  EXPECT_TRUE(std::isinf(exp_of(std::numeric_limits<float>::infinity())));
  EXPECT_TRUE(std::isfinite(exp_of(88.7f)));
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(exp_of(-1e30), 0.0);
  EXPECT_TRUE(std::isinf(exp_of(710.0)));
  EXPECT_TRUE(std::isfinite(exp_of(709.7)));
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<double>::quiet_NaN())));
}

TEST(Log, IsAccurate) {
  EXPECT_LT(largest_log_error_in_ulp<float>(1.2e-38, 3e38), 1.5);
  EXPECT_LT(largest_log_error_in_ulp<float>(0.7, 1.5), 1.5);
  EXPECT_LT(largest_log_error_in_ulp<double>(2.3e-308, 1.7e308), 1.5);
  EXPECT_LT(largest_log_error_in_ulp<double>(0.7, 1.5), 1.5);
}

template <class T>
void log_handles_the_ends() {
  using Limits = std::numeric_limits<T>;
  EXPECT_EQ(log_of<T>(1), T(0));
  EXPECT_EQ(log_of<T>(0), -Limits::infinity());
  EXPECT_EQ(log_of<T>(Limits::denorm_min()), -Limits::infinity());
  EXPECT_EQ(log_of<T>(Limits::infinity()), Limits::infinity());
  EXPECT_TRUE(std::isfinite(log_of<T>(Limits::max())));
  EXPECT_TRUE(std::isfinite(log_of<T>(Limits::min())));
  EXPECT_TRUE(std::isnan(log_of<T>(-1)));
  EXPECT_TRUE(std::isnan(log_of<T>(-Limits::infinity())));
  EXPECT_TRUE(std::isnan(log_of<T>(Limits::quiet_NaN())));
}

TEST(Log, HandlesTheEnds) {
  log_handles_the_ends<float>();
  log_handles_the_ends<double>();
}

TEST(Half, EveryValueConverts) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float sign = bits >> 15 ? -1.0f : 1.0f;
    const float got = simd::to_accum(simd::f16{static_cast<uint16_t>(bits)});
    if (exponent == 31 && mantissa != 0) {
      EXPECT_TRUE(std::isnan(got));
    } else {
      const float magnitude = exponent == 31 ? std::numeric_limits<float>::infinity()
                              : exponent == 0
                                  ? std::ldexp(static_cast<float>(mantissa), -24)
                                  : std::ldexp(static_cast<float>(mantissa + 1024), static_cast<int>(exponent) - 25);
      ASSERT_EQ(got, sign * magnitude) << bits;
    }
  }
}

TEST(Bfloat16, IsTheUpperHalfOfAFloat) {
  EXPECT_EQ(simd::to_accum(simd::bf16{0x3f80}), 1.0f);
  EXPECT_EQ(simd::to_accum(simd::bf16{0xc040}), -3.0f);
  EXPECT_TRUE(std::isnan(simd::to_accum(simd::bf16{0x7fc0})));
}
