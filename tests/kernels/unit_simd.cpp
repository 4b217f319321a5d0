// Every function of csrc/common/simd.h at every level of this processor, against the standard library in the next wider
// type: float32 along a stride through all bit patterns (VLMADAPT_SIMD_STRIDE=1 sweeps every one), float64 by draws.
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "unit_simd_levels.h"

using namespace vlmadapt;

namespace {

template <class T>
using Wide = std::conditional_t<sizeof(T) == 4, double, long double>;

// The distance in units of the last place of the exact result; infinity counts as the power of two it stands for.
template <class T>
double ulps(T got, Wide<T> exact) {
  const Wide<T> top = std::ldexp(Wide<T>(1), Limits<T>::max_exponent);
  const Wide<T> bounded = std::fmax(-top, std::fmin(top, exact));
  const Wide<T> value = std::isinf(got) ? std::copysign(top, Wide<T>(got)) : Wide<T>(got);
  int exponent = Limits<T>::min_exponent - 1;
  if (bounded != 0) exponent = std::max(exponent, std::ilogb(bounded));
  exponent = std::min(exponent, Limits<T>::max_exponent - 1);
  return static_cast<double>(std::fabs(value - bounded) / std::ldexp(Wide<T>(1), exponent + 1 - Limits<T>::digits));
}

// The contracts of simd.h: each gives the error as a share of what is allowed there.

template <class T>
double powers(T x, T got, Wide<T> exact, double allowed) {
  if (std::isnan(x)) return std::isnan(got) ? 0 : broken;
  if (std::isnan(got) || got < 0) return broken;
  const Wide<T> smallest = Limits<T>::min();
  if (got == 0 && exact < Wide<T>(4.1) * smallest) return 0;  // flushed
  return ulps<T>(got, exact) / allowed;
}

template <class T>
double logarithms(T x, T got, Wide<T> exact, double absolute, double allowed) {
  if (std::isnan(x) || x < 0) return std::isnan(got) ? 0 : broken;
  if (x == 0) return got == -Limits<T>::infinity() ? 0 : broken;
  if (x < Limits<T>::min() && got == -Limits<T>::infinity()) return 0;  // subnormal
  if (std::isinf(x) || !std::isfinite(got)) return got == x ? 0 : broken;
  const double slack = absolute == 0 ? 0 : absolute / static_cast<double>(std::fabs(exact) * Limits<T>::epsilon());
  return ulps<T>(got, exact) / (allowed + slack);
}

template <class T>
struct Exp {
  static constexpr auto function = &SimdFunctions<T>::exp;
  static constexpr T low = sizeof(T) == 4 ? -105 : -746, high = sizeof(T) == 4 ? 90 : 711;
  static double error(T x, T got) {
    const Wide<T> exact = std::exp(Wide<T>(x));
    if (exact < Limits<T>::min()) return got == 0 ? 0 : broken;
    return powers<T>(x, got, exact, 1.5);
  }
};

template <class T>
struct Exp2 {
  static constexpr auto function = &SimdFunctions<T>::exp2;
  static constexpr T low = sizeof(T) == 4 ? -150 : -1076, high = sizeof(T) == 4 ? 129 : 1025;
  static double error(T x, T got) { return powers<T>(x, got, std::exp2(Wide<T>(x)), 1.5 + std::fabs(double(x))); }
};

template <class T>
struct Log {
  static constexpr auto function = &SimdFunctions<T>::log;
  static constexpr T low = 0.5, high = 2;
  static double error(T x, T got) { return logarithms<T>(x, got, std::log(Wide<T>(x)), 0, 1.5); }
};

template <class T>
struct Log2 {
  static constexpr auto function = &SimdFunctions<T>::log2;
  static constexpr T low = 0.5, high = 2;
  static double error(T x, T got) { return logarithms<T>(x, got, std::log2(Wide<T>(x)), sizeof(T) == 4 ? 1e-7 : 0, 2); }
};

template <class T, class F>
class Sweep {
 public:
  explicit Sweep(const SimdFunctions<T>& functions) : function_(functions.*F::function), x_(block), y_(block) {}

  void add(T x) {
    x_[filled_++] = x;
    if (filled_ == block) flush();
  }
  void flush() {
    function_(x_.data(), y_.data(), block);
    for (int64_t i = 0; i < filled_; ++i) {
      const double error = F::error(x_[i], y_[i]);
      if (error > worst_) worst_ = error, at_ = x_[i], got_ = y_[i];
    }
    filled_ = 0;
  }
  void expect_within_contract() {
    flush();
    testing::Test::RecordProperty("share_of_the_allowed_error", std::to_string(worst_));
    EXPECT_LE(worst_, 1) << "f(" << std::hexfloat << at_ << ") = " << got_ << std::defaultfloat;
  }

 private:
  typename SimdFunctions<T>::Map function_;
  std::vector<T> x_, y_;
  int64_t filled_ = 0;
  double worst_ = 0;
  T at_ = 0, got_ = 0;
};

// Where rules change: zeros, denormals, the ends of the range, infinities, NaN, and the neighbours of each.
template <class T, class F>
void add_edges(Sweep<T, F>& sweep) {
  for (T x : {T(0),
              T(1),
              T(0.5),
              T(2),
              Limits<T>::denorm_min(),
              Limits<T>::min() / 2,
              Limits<T>::min(),
              Limits<T>::max(),
              Limits<T>::infinity(),
              Limits<T>::quiet_NaN(),
              F::low,
              F::high,
              T(-86.5),
              T(-87.33654),
              T(88.72284),
              T(88.8),
              T(-707),
              T(-708.3964185322641),
              T(709.782712893384),
              T(709.9),
              T(128),
              T(-126),
              T(-149),
              T(1024),
              T(-1022),
              T(-1074)})
    for (T sign : {T(1), T(-1)})
      for (T near : {std::nextafter(x, T(0)), x, std::nextafter(x, Limits<T>::infinity())}) sweep.add(sign * near);
}

template <class F>
void sweep_floats(const SimdFunctions<float>& functions) {
  const char* given = std::getenv("VLMADAPT_SIMD_STRIDE");
  const uint64_t stride = given != nullptr ? std::strtoull(given, nullptr, 10) : 251;
  ASSERT_GT(stride, 0u);
  Sweep<float, F> sweep(functions);
  add_edges(sweep);
  for (uint64_t bits = 0; bits < uint64_t(1) << 32; bits += stride)
    sweep.add(of_bits<float>(static_cast<uint32_t>(bits)));
  sweep.expect_within_contract();
}

template <class F>
void draw_doubles(const SimdFunctions<double>& functions) {
  Sweep<double, F> sweep(functions);
  add_edges(sweep);
  std::mt19937_64 random(0);
  std::uniform_real_distribution<double> within(F::low, F::high);
  for (int i = 0; i < 500000; ++i) {
    sweep.add(within(random));
    sweep.add(of_bits<double>(random()));
    sweep.add(1 + std::ldexp(within(random), -static_cast<int>(random() % 60)));  // towards one
  }
  sweep.expect_within_contract();
}

INSTANTIATE_TEST_SUITE_P(Level, Simd, testing::ValuesIn(levels), name_of_level);

}  // namespace

TEST_P(Simd, ExpOfFloat) { sweep_floats<Exp<float>>(functions<float>()); }
TEST_P(Simd, LogOfFloat) { sweep_floats<Log<float>>(functions<float>()); }
TEST_P(Simd, Exp2OfFloat) { sweep_floats<Exp2<float>>(functions<float>()); }
TEST_P(Simd, Log2OfFloat) { sweep_floats<Log2<float>>(functions<float>()); }
TEST_P(Simd, ExpOfDouble) { draw_doubles<Exp<double>>(functions<double>()); }
TEST_P(Simd, LogOfDouble) { draw_doubles<Log<double>>(functions<double>()); }
TEST_P(Simd, Exp2OfDouble) { draw_doubles<Exp2<double>>(functions<double>()); }
TEST_P(Simd, Log2OfDouble) { draw_doubles<Log2<double>>(functions<double>()); }
