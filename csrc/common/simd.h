// Vectors as wide as the instruction set this file is compiled for, through the compiler's vector extensions:
// one source for SSE2, AVX2, AVX-512 (and any other architecture's baseline).
//
// Included only by files compiled with VLMADAPT_ISA defined; everything lives in a namespace of that name, so that the
// same template compiled for two levels never shares a symbol.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "common/dtype.h"

#ifndef VLMADAPT_ISA
#error "define VLMADAPT_ISA (a level of common/isa.h) before including common/simd.h"
#endif

#define VLMADAPT_INLINE inline __attribute__((always_inline))

namespace vlmadapt {
namespace VLMADAPT_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int tile_rows = 14;  // 14 x 2 accumulators, 2 loads and a broadcast fill the 32 registers
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
constexpr int tile_rows = 6;  // 6 x 2 accumulators of 16 registers
#else
constexpr int vector_bytes = 16;
constexpr int tile_rows = 6;
#endif

constexpr int tile_vectors = 2;

// The integer type as wide as T, whose vectors hold T's comparison masks.
template <class T>
struct MaskOf;
template <>
struct MaskOf<float> {
  using type = int32_t;
};
template <>
struct MaskOf<double> {
  using type = int64_t;
};

// The sum of all lanes, by halves: a fixed order, and no more than one step a doubling.
template <class T, int bytes, class V>
VLMADAPT_INLINE T sum_of_vector(V v) {
  if constexpr (bytes == 16) {
    if constexpr (sizeof(T) == 8)
      return v[0] + v[1];
    else
      return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    typedef T Half __attribute__((vector_size(bytes / 2)));
    Half halves[2];
    std::memcpy(halves, &v, sizeof(v));
    return sum_of_vector<T, bytes / 2>(halves[0] + halves[1]);
  }
}

template <class T>
struct Simd {
  using Mask = typename MaskOf<T>::type;
  static constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));
  static constexpr int panel = lanes * tile_vectors;  // columns of a full tile
  typedef T V __attribute__((vector_size(vector_bytes)));
  typedef Mask I __attribute__((vector_size(vector_bytes)));
  typedef std::make_unsigned_t<Mask> U __attribute__((vector_size(vector_bytes)));  // for bits that wrap around

  static VLMADAPT_INLINE V load(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static VLMADAPT_INLINE I load_mask(const Mask* p) {
    I v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static VLMADAPT_INLINE void store(T* p, V v) { std::memcpy(p, &v, sizeof(v)); }
  // The first `count` lanes, fewer than all; the others are zero, or left alone, and their memory is not touched.
  static VLMADAPT_INLINE V load_first(const T* p, int64_t count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      return (V)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
    else
      return (V)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), p);
#else
    V v{};
    for (int lane = 0; lane < lanes; ++lane)
      if (lane < count) v[lane] = p[lane];
    return v;
#endif
  }
  static VLMADAPT_INLINE void store_first(T* p, V v, int64_t count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
    else
      _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << count) - 1), (__m512d)v);
#else
    for (int lane = 0; lane < lanes; ++lane)
      if (lane < count) p[lane] = v[lane];
#endif
  }
  // max(x, least), NaN where x is.
  static VLMADAPT_INLINE V at_least(T least, V x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      return (V)_mm512_maskz_max_ps(static_cast<__mmask16>(-1), (__m512)broadcast(least), (__m512)x);
    else
      return (V)_mm512_maskz_max_pd(static_cast<__mmask8>(-1), (__m512d)broadcast(least), (__m512d)x);
#else
    return x < least ? broadcast(least) : x;
#endif
  }
  static VLMADAPT_INLINE V broadcast(T x) { return x - V{}; }
  static VLMADAPT_INLINE T sum(V v) { return sum_of_vector<T, vector_bytes>(v); }
};

// exp, within 1.5 units in the last place. Results below the smallest normal number are flushed to zero (a denormal
// would cost a microcode assist), and so may those up to 4.1 times that number be; overflow gives infinity, NaN stays.
// x = n ln 2 + r, e^r = 1 + r + r^2 p(r) with p a minimax polynomial on |r| <= ln(2)/2, computed for this project.
VLMADAPT_INLINE Simd<float>::V exp(Simd<float>::V x) {
  using S = Simd<float>;
  const S::I underflow = x < -86.5f;
  x = x > 88.8f ? S::broadcast(88.8f) : x;
  x = underflow ? S::broadcast(-86.5f) : x;
  const S::V shift = S::broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const S::V shifted = x * 1.44269504088896341f + shift;
  const S::V n = shifted - shift;
  const S::V r = (x - n * 0.693145751953125f) - n * 1.42860676533018e-6f;
  S::V p = S::broadcast(0.0013926213466332443f);
  p = p * r + 0.008363202971575855f;
  p = p * r + 0.04166655443768594f;
  p = p * r + 0.16666576845993977f;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  const S::I exponent = ((S::I)shifted - (S::I)shift + 126) << 23;  // 2^(n - 1): n itself may be 128
  const S::V result = (p + p) * (S::V)exponent;
  return underflow ? S::V{} : result;
}

VLMADAPT_INLINE Simd<double>::V exp(Simd<double>::V x) {
  using S = Simd<double>;
  const S::I underflow = x < -707.0;
  x = x > 709.9 ? S::broadcast(709.9) : x;
  x = underflow ? S::broadcast(-707.0) : x;
  const S::V shift = S::broadcast(6755399441055744.0);  // 1.5 * 2^52
  const S::V shifted = x * 1.44269504088896338700 + shift;
  const S::V n = shifted - shift;
  const S::V r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  S::V p = S::broadcast(2.0914717341716376e-9);
  p = p * r + 2.5105259538448493e-8;
  p = p * r + 2.755727357010214e-7;
  p = p * r + 2.7557255297969644e-6;
  p = p * r + 2.4801587325605323e-5;
  p = p * r + 1.9841269874901259e-4;
  p = p * r + 1.3888888888883732e-3;
  p = p * r + 8.333333333326112e-3;
  p = p * r + 4.1666666666669767e-2;
  p = p * r + 1.6666666666666671e-1;
  p = p * r + 0.5;
  p = (p * r) * r + r + 1.0;
  const S::I exponent = ((S::I)shifted - (S::I)shift + 1022) << 52;
  const S::V result = (p + p) * (S::V)exponent;
  return underflow ? S::V{} : result;
}

// log, within 1.5 units in the last place. Zero and subnormal numbers give minus infinity (they would need a
// second normalisation), negative numbers NaN; infinity and NaN stay what they are.
// x = 2^n (1 + z) with 1 + z in [sqrt(1/2), sqrt(2)); the polynomials are minimax fits computed for this project.
VLMADAPT_INLINE Simd<float>::V log(Simd<float>::V x) {
  using S = Simd<float>;
  const S::I n = (S::I)((S::U)x - 0x3f3504f3u) >> 23;
  const S::V z = (S::V)((S::U)x - ((S::U)n << 23)) - 1.0f;
  const S::V exponent = (S::V)(n + 0x4b400000) - 12582912.0f;  // 1.5 * 2^23: n as a float without a conversion
  S::V p = S::broadcast(-0.07634495943784714f);
  p = p * z + 0.1276157647371292f;
  p = p * z - 0.13160182535648346f;
  p = p * z + 0.14201758801937103f;
  p = p * z - 0.16623356938362122f;
  p = p * z + 0.20001226663589478f;
  p = p * z - 0.2500081956386566f;
  p = p * z + 0.3333333134651184f;
  const S::V square = z * z;
  S::V result = (z * square) * p + exponent * 1.42860676533018e-6f;
  result = result - 0.5f * square + z + exponent * 0.693145751953125f;
  result = x < 1.17549435e-38f ? (S::V)(x < 0 ? S::I{} - 1 : S::I{} - 0x00800000) : result;  // NaN or -infinity
  return x < __builtin_inff() ? result : x;
}

VLMADAPT_INLINE Simd<double>::V log(Simd<double>::V x) {
  using S = Simd<double>;
  const S::I n = (S::I)((S::U)x - 0x3fe6a09e667f3bcdu) >> 52;
  const S::V z = (S::V)((S::U)x - ((S::U)n << 52)) - 1.0;
  const S::V exponent = (S::V)(n + 0x4338000000000000) - 6755399441055744.0;  // 1.5 * 2^52
  const S::V s = z / (z + 2.0);
  const S::V t = s * s;
  S::V p = S::broadcast(-0.02079769599560725);
  p = p * t + 0.1501468971056425;
  p = p * t + 0.1530654930965116;
  p = p * t + 0.18183609224910133;
  p = p * t + 0.22222201398226846;
  p = p * t + 0.28571428678230576;
  p = p * t + 0.39999999999896524;
  p = p * t + 0.666666666666663;
  const S::V half_square = 0.5 * z * z;  // log(1 + z) = z - z^2 / 2 + s (z^2 / 2 + t p)
  const S::V tail = s * (half_square + t * p) + exponent * 1.90821492927058770002e-10;
  S::V result = exponent * 6.93147180369123816490e-01 - ((half_square - tail) - z);
  result = x < 2.2250738585072014e-308 ? (S::V)(x < 0 ? S::I{} - 1 : S::I{} - 0x0010000000000000) : result;
  return x < __builtin_inf() ? result : x;
}

// log2 and exp2 for powers, q^g = exp2(g log2 q). log2 is within 2 units in the last place and, of a float, another
// 1e-7 absolutely: near one it is not accurate relatively, which a power does not ask for. log2(0) is minus infinity,
// that of a negative number NaN, that of a subnormal number as accurate or minus infinity. exp2 is within 1.5 + |x|
// units in the last place, as x g is rounded by the caller too; it overflows to infinity and underflows as exp does or
// gradually.
#if defined(__AVX512F__)
constexpr __mmask16 every = 0xffff;  // the forms without a mask warn of uninitialised values in GCC 12

// 1 / c and -log2(1 / c) for the centres c of the sixteenths of [1, 2): x = 2^n m, log2 x = n - log2(1 / c) + log2(m /
// c).
alignas(64) constexpr float log2_inverse[16] = {
    0.9696969985961914f, 0.9142857193946838f, 0.8648648858070374f, 0.8205128312110901f,
    0.7804877758026123f, 0.7441860437393188f, 0.7111111283302307f, 0.6808510422706604f,
    0.6530612111091614f, 0.6274510025978088f, 0.6037735939025879f, 0.581818163394928f,
    0.5614035129547119f, 0.5423728823661804f, 0.5245901346206665f, 0.5079365372657776f};
alignas(64) constexpr float log2_centre[16] = {
    0.044394075870513916f, 0.12928301095962524f, 0.20945332944393158f, 0.28540220856666565f,
    0.35755205154418945f,  0.42626476287841797f, 0.4918530583381653f,  0.5545889139175415f,
    0.6147098541259766f,   0.6724252700805664f,  0.727920413017273f,   0.7813597321510315f,
    0.832889974117279f,    0.8826430439949036f,  0.9307374358177185f,  0.9772798418998718f};

VLMADAPT_INLINE Simd<float>::V log2(Simd<float>::V x) {
  using S = Simd<float>;
  const S::V exponent = (S::V)_mm512_maskz_getexp_ps(every, (__m512)x);
  const S::V mantissa = (S::V)_mm512_maskz_getmant_ps(every, (__m512)x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_nan);
  const __m512i sixteenth =
      _mm512_maskz_srli_epi32(every, (__m512i)mantissa, 19);  // the permutations look at the low four bits
  const S::V inverse = (S::V)_mm512_maskz_permutexvar_ps(every, sixteenth, _mm512_load_ps(log2_inverse));
  const S::V centre = (S::V)_mm512_maskz_permutexvar_ps(every, sixteenth, _mm512_load_ps(log2_centre));
  // Rounded once, though no compiler need contract a product and a sum: of two nearly equal numbers that tells.
  const S::V z = (S::V)_mm512_maskz_fmsub_ps(every, (__m512)mantissa, (__m512)inverse, (__m512)S::broadcast(1.0f));
  S::V p = S::broadcast(-0.36104100942611694f);
  p = p * z + 0.481231153011322f;
  p = p * z - 0.7213473916053772f;
  p = p * z + 1.4426950216293335f;
  return p * z + centre + exponent;
}

VLMADAPT_INLINE Simd<float>::V exp2(Simd<float>::V x) {
  using S = Simd<float>;
  const S::V r = (S::V)_mm512_maskz_reduce_ps(every, (__m512)x, 8);  // to the nearest integer; zero at infinity
  S::V p = S::broadcast(0.00015353361959569156f);
  p = p * r + 0.0013398875016719103f;
  p = p * r + 0.00961843691766262f;
  p = p * r + 0.055503323674201965f;
  p = p * r + 0.24022647738456726f;
  p = p * r + 0.6931471824645996f;
  p = p * r + 1.0f;
  return (S::V)_mm512_maskz_scalef_ps(every, (__m512)p, (__m512)(x - r));
}
#else
VLMADAPT_INLINE Simd<float>::V log2(Simd<float>::V x) { return log(x) * 1.44269504088896341f; }
VLMADAPT_INLINE Simd<float>::V exp2(Simd<float>::V x) { return exp(x * 0.693147180559945309f); }
#endif
VLMADAPT_INLINE Simd<double>::V log2(Simd<double>::V x) { return log(x) * 1.44269504088896340736; }
VLMADAPT_INLINE Simd<double>::V exp2(Simd<double>::V x) { return exp(x * 0.693147180559945309417); }

// Storage types of half width; converted on the way in.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

VLMADAPT_INLINE float to_accum(float x) { return x; }
VLMADAPT_INLINE double to_accum(double x) { return x; }
VLMADAPT_INLINE float to_accum(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}
VLMADAPT_INLINE float to_accum(f16 x) {
  // Place exponent and mantissa at float's positions, then correct the exponent bias by a multiplication, which also
  // normalises half's denormals; infinities and NaN (exponent 31) keep an all-ones exponent.
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const uint32_t bias = 0x77800000u;  // 2^112
  float scaled, factor;
  std::memcpy(&scaled, &magnitude, sizeof(scaled));
  std::memcpy(&factor, &bias, sizeof(factor));
  scaled *= factor;
  uint32_t bits;
  std::memcpy(&bits, &scaled, sizeof(bits));
  if ((x.bits & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
  bits |= sign;
  float y;
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}

template <class T>
struct AccumOf {
  using type = float;
};
template <>
struct AccumOf<double> {
  using type = double;
};
template <class T>
using Accum = typename AccumOf<T>::type;

// Whether the nearest bfloat16 is not finite.
VLMADAPT_INLINE Simd<float>::I is_large(Simd<float>::V x) {
  return (Simd<float>::I)((Simd<float>::U)x & 0x7fffffffu) >= 0x7f7f8000;
}

// 16 bits a lane.
VLMADAPT_INLINE Simd<float>::U load_halves(const void* p) {
#if defined(__AVX512F__)  // what the compiler makes of the conversion takes twice as long
  return (Simd<float>::U)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(static_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (Simd<float>::U)_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
#else
  typedef uint16_t Halves __attribute__((vector_size(vector_bytes / 2)));
  Halves halves;
  std::memcpy(&halves, p, sizeof(halves));
  return __builtin_convertvector(halves, Simd<float>::U);
#endif
}
VLMADAPT_INLINE void store_halves(void* p, Simd<float>::U x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)x));
#else
  typedef uint16_t Halves __attribute__((vector_size(vector_bytes / 2)));
  const Halves halves = __builtin_convertvector(x, Halves);
  std::memcpy(p, &halves, sizeof(halves));
#endif
}

// One vector of elements of any storage type.
template <class T>
VLMADAPT_INLINE typename Simd<Accum<T>>::V load_widened(const T* p) {
  using S = Simd<Accum<T>>;
  if constexpr (std::is_same_v<T, Accum<T>>) {
    return S::load(p);
  } else if constexpr (std::is_same_v<T, bf16>) {
    return (typename S::V)(load_halves(p) << 16);
  } else {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, f16>)
      return (typename S::V)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    if constexpr (std::is_same_v<T, f16>)
      return (typename S::V)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#endif
    Accum<T> values[S::lanes];
    for (int i = 0; i < S::lanes; ++i) values[i] = to_accum(p[i]);
    return S::load(values);
  }
}

// The nearest element of the storage type, ties to even; NaN stays NaN.
template <class T>
VLMADAPT_INLINE T from_accum(Accum<T> x) {
  return x;
}
template <>
VLMADAPT_INLINE bf16 from_accum<bf16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(x != x ? (bits >> 16) | 0x40u : rounded)};
}
template <>
VLMADAPT_INLINE f16 from_accum<f16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 half's step is that of a float in [0.5, 1): adding 0.5 rounds. Above, only the bias changes.
  float small;
  std::memcpy(&small, &magnitude, sizeof(small));
  small += 0.5f;
  uint32_t shifted;
  std::memcpy(&shifted, &small, sizeof(shifted));
  const uint32_t denormal = shifted - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? denormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and above
  half = x != x ? 0x7e00u : half;
  return {static_cast<uint16_t>(half | ((bits >> 16) & 0x8000u))};
}

// The nearest number without the last `dropped` bits. NaN and infinities stay what they are, finite numbers finite:
// those beyond the largest that there is are cut off.
template <int dropped>
VLMADAPT_INLINE Simd<float>::U nearest_without(Simd<float>::V x) {
  using S = Simd<float>;
  constexpr uint32_t half = 1u << (dropped - 1), kept = ~0u << dropped;
  const S::U bits = (S::U)x;
  const S::U nearest = (bits + (half - 1) + ((bits >> dropped) & 1u)) & kept;
  const S::U cut = (x == x ? bits : bits | 0x00400000u) & kept;
  const S::I large = (S::I)(bits & 0x7fffffffu) >= static_cast<int32_t>(0x7f800000u - half);
  return large ? cut : nearest;
}

// One vector, rounded to the storage type as from_accum does.
template <class T>
VLMADAPT_INLINE void store_narrowed(T* p, typename Simd<Accum<T>>::V x) {
  using S = Simd<Accum<T>>;
  if constexpr (std::is_same_v<T, Accum<T>>) {
    S::store(p, x);
  } else if constexpr (std::is_same_v<T, bf16>) {
    const typename S::U bits = (typename S::U)x;
    const typename S::U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    store_halves(p, x == x ? rounded : (bits >> 16) | 0x40u);
  } else {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, f16>) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, (__m512)x, 0));
      return;
    }
#elif defined(__F16C__)
    if constexpr (std::is_same_v<T, f16>) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x, 0));
      return;
    }
#endif
    Accum<T> values[S::lanes];
    S::store(values, x);
    for (int i = 0; i < S::lanes; ++i) p[i] = from_accum<T>(values[i]);
  }
}

}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
