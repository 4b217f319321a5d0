// Arithmetic and memory intrinsics that CUDA gives to device code only. Approximate ones are exact here.
#pragma once

inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
template <class T>
void __stcg(T* p, T v) {
  *p = v;
}

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frsqrt_rn(float a) { return 1.f / sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float a) { return a < 0 ? 0 : a > 1 ? 1 : a; }
inline float simt_rsqrtf(float a) { return 1.f / sqrtf(a); }
#define rsqrtf simt_rsqrtf

namespace simt {
template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same width");
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof to);
  return to;
}
}  // namespace simt
inline int __float_as_int(float f) { return simt::bits<int>(f); }
inline unsigned __float_as_uint(float f) { return simt::bits<unsigned>(f); }
inline float __int_as_float(int i) { return simt::bits<float>(i); }
inline float __uint_as_float(unsigned i) { return simt::bits<float>(i); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
#define __trap() simt::trap("__trap", {__FILE__, __LINE__})

template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
