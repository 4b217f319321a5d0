// Compiled once for every level, with VLMADAPT_ISA and the level's flags. No GoogleTest and no standard library here:
// the linker could hand another file, and an older processor, their inline code (test_symbols.py).
#include "common/simd.h"
#include "unit_simd.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {

template <class T, class F>
void each(const T* x, T* y, int64_t count, F f) {
  for (int64_t i = 0; i < count; i += Simd<T>::lanes) Simd<T>::store(y + i, f(Simd<T>::load(x + i)));
}

template <class Narrow>
void widen(const uint16_t* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = to_accum(Narrow{x[i]});
}

template <class Narrow>
void narrow(const float* x, uint16_t* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = from_accum<Narrow>(x[i]).bits;
}

template <class T>
constexpr SimdFunctions<T> functions() {
  using S = Simd<T>;
  using V = typename S::V;
  return {[](const T* x, T* y, int64_t n) { each(x, y, n, [](V v) { return exp(v); }); },
          [](const T* x, T* y, int64_t n) { each(x, y, n, [](V v) { return log(v); }); },
          [](const T* x, T* y, int64_t n) { each(x, y, n, [](V v) { return log2(v); }); },
          [](const T* x, T* y, int64_t n) { each(x, y, n, [](V v) { return exp2(v); }); },
          [](const T* x, T* y, int64_t n) { each(x, y, n, [](V v) { return S::at_least(1, v); }); },
          [](const T* x) { return S::sum(S::load(x)); },
          [](const T* from, T* to, int64_t n) { S::store_first(to, S::load_first(from, n), n); },
          [](const T* from, T* whole, int64_t n) { S::store(whole, S::load_first(from, n)); },
          S::lanes};
}

extern const SimdTable simd_table = {
    functions<float>(), functions<double>(), {widen<bf16>, widen<f16>, narrow<bf16>, narrow<f16>}};

}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
