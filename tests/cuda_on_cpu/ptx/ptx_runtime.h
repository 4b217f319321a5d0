// What the C++ that ptx/ generates is written in: PTX's scalar operations and its view of memory.
#pragma once
#include "simt.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include <algorithm>
#include <cfenv>
#include <limits>

namespace ptx {

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned __int128 u128;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

struct Entry {
  const char* name;
  void (*body)(const char* parameters);
  size_t static_shared;
  int parameters;
  const int *offsets, *sizes;
};

// ---- bits and values ----
inline float f32(u32 x) { return simt::bits<float>(x); }
inline double f64(u64 x) { return simt::bits<double>(x); }
inline float f16(u16 x) { return simt::half_to_float(x); }
inline float bf16(u16 x) { return simt::bfloat_to_float(x); }
inline u32 bits_f32(float x) { return simt::bits<u32>(x); }
inline u64 bits_f64(double x) { return simt::bits<u64>(x); }
inline u16 bits_f16(double x) { return simt::bits<u16>(__double2half(x)); }
inline u16 bits_bf16(float x) { return simt::bits<u16>(__float2bfloat16_rn(x)); }
template <class T>
T flush(T x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x;
}
template <class T>
T saturate(T x) {
  return !(x > 0) ? 0 : x > 1 ? 1 : x;
}

// ---- memory ----
inline char* shared_at(u64 address, size_t bytes, simt::Site site) {
  const u32 offset = static_cast<u32>(address);
  if (offset + static_cast<u64>(bytes) > simt::g.dynamic_bytes) simt::trap("shared memory access out of bounds", site);
  if (offset & (bytes - 1)) simt::trap("misaligned shared memory access", site);
  return static_cast<char*>(simt::g.dynamic_shared) + offset;
}
inline char* global_at(u64 address, size_t bytes, simt::Site site) {
  if (address & (bytes - 1)) simt::trap("misaligned global memory access", site);
  return reinterpret_cast<char*>(address);
}
template <class T>
T load(const char* p) {
  T x;
  memcpy(&x, p, sizeof x);
  return x;
}
template <class T>
void store(char* p, T x) {
  memcpy(p, &x, sizeof x);
}
inline u64 shared_to_generic(u64 offset) {
  return reinterpret_cast<u64>(simt::g.dynamic_shared) + static_cast<u32>(offset);
}
inline u64 generic_to_shared(u64 address) { return address - reinterpret_cast<u64>(simt::g.dynamic_shared); }
template <class T, class F>
T atomic(char* p, T value, F rule) {
  return simt::read_modify_write(reinterpret_cast<T*>(p), [&](T old) { return rule(old, value); });
}

// ---- integers ----
// PTX leaves division by zero open; x / -1 would trap on the host where it wraps on the device.
template <class T>
T integer_div(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  return std::is_signed<T>::value && b == static_cast<T>(-1) ? static_cast<T>(0 - static_cast<u64>(a)) : a / b;
}
template <class T>
T integer_rem(T a, T b) {
  if (b == 0) return a;
  return std::is_signed<T>::value && b == static_cast<T>(-1) ? 0 : a % b;
}
template <class T>
T shift_shl(T a, u32 n) {
  return n >= sizeof(T) * 8 ? 0 : static_cast<T>(a << n);
}
template <class T>
T shift_shr(T a, u32 n) {
  return n >= sizeof(T) * 8 ? static_cast<T>(a < 0 ? -1 : 0) : static_cast<T>(a >> n);
}
// Bit k of the table is the result for (a, b, c) = the binary digits of k.
inline u32 lop3(u32 a, u32 b, u32 c, u32 table) {
  u32 out = 0;
  for (u32 k = 0; k < 8; ++k)
    if (table >> k & 1) out |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  return out;
}
inline u32 prmt(u32 a, u32 b, u32 selector) {
  const u64 bytes = static_cast<u64>(b) << 32 | a;
  u32 out = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 s = selector >> (4 * i) & 15;
    u8 x = static_cast<u8>(bytes >> (8 * (s & 7)));
    if (s & 8) x = (x & 0x80) ? 0xff : 0;
    out |= static_cast<u32>(x) << (8 * i);
  }
  return out;
}
inline u32 shf_l_wrap(u32 a, u32 b, u32 n) {
  return static_cast<u32>(((static_cast<u64>(b) << 32 | a) << (n & 31)) >> 32);
}
inline u32 shf_r_wrap(u32 a, u32 b, u32 n) { return static_cast<u32>((static_cast<u64>(b) << 32 | a) >> (n & 31)); }
inline u32 shf_l_clamp(u32 a, u32 b, u32 n) { return n >= 32 ? a : shf_l_wrap(a, b, n); }
inline u32 shf_r_clamp(u32 a, u32 b, u32 n) { return n >= 32 ? b : shf_r_wrap(a, b, n); }
template <class T>
T bfe(T a, u64 position, u64 length) {
  constexpr u32 width = sizeof(T) * 8;
  position &= 255;
  length &= 255;
  if (length == 0) return 0;
  const u32 sign_at = std::min<u32>(position + length - 1, width - 1);
  const bool sign = std::is_signed<T>::value && (a >> sign_at & 1);
  typename std::make_unsigned<T>::type out = 0;
  for (u32 i = 0; i < width; ++i) {
    const bool bit = i < length && position + i < width ? a >> (position + i) & 1 : sign;
    out |= static_cast<decltype(out)>(bit) << i;
  }
  return static_cast<T>(out);
}
template <class T>
T bfi(T a, T b, u64 position, u64 length) {
  T out = b;
  for (u32 i = 0; i < (length & 255) && (position & 255) + i < sizeof(T) * 8; ++i) {
    const T bit = static_cast<T>(1) << ((position & 255) + i);
    out = (out & ~bit) | (a >> i & 1 ? bit : 0);
  }
  return out;
}
template <class T>
u32 bit_popc(T x) {
  return __builtin_popcountll(x);
}
template <class T>
u32 bit_clz(T x) {
  return x == 0 ? sizeof(T) * 8 : sizeof(T) == 8 ? __builtin_clzll(x) : __builtin_clz(x);
}
template <class T>
T bit_brev(T x) {
  T out = 0;
  for (u32 i = 0; i < sizeof(T) * 8; ++i) out |= (x >> i & 1) << (sizeof(T) * 8 - 1 - i);
  return out;
}

// ---- floats ----
// Saturates, and turns a NaN into zero, or into the sign bit alone for 64-bit results.
template <class I, class Float>
I float_to_integer(Float x) {
  if (x != x) return sizeof(I) == 8 ? static_cast<I>(1ull << 63) : 0;
  if (x <= static_cast<Float>(std::numeric_limits<I>::min())) return std::numeric_limits<I>::min();
  if (x >= static_cast<Float>(std::numeric_limits<I>::max())) return std::numeric_limits<I>::max();
  return static_cast<I>(x);
}
template <class T>
T float_min(T a, T b) {
  return a != a ? b : b != b ? a : a == b ? (std::signbit(a) ? a : b) : std::min(a, b);
}
template <class T>
T float_max(T a, T b) {
  return a != a ? b : b != b ? a : a == b ? (std::signbit(a) ? b : a) : std::max(a, b);
}
template <class T>
T float_min_nan(T a, T b) {
  return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : float_min(a, b);
}
template <class T>
T float_max_nan(T a, T b) {
  return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : float_max(a, b);
}

// An operation under a rounding mode of its own; volatile operands keep it between the two mode changes.
template <class T, class Rule>
__attribute__((noinline)) T directed(int mode, T x, T y, T z, Rule rule) {
  volatile T a = x, b = y, c = z;
  std::fesetround(mode);
  volatile T out = rule(a, b, c);
  std::fesetround(FE_TONEAREST);
  return out;
}

// ---- shuffles: `clamp` is PTX's operand c, ((32 - width) << 8) | bound ----
inline u32 shuffle_from(u32 x, int source, bool inside, u32 mask, bool& in, simt::Site site) {
  in = inside;
  return simt::shuffle<u32>(mask, x, inside ? source : -1, site);
}
struct Segment {
  int lane, mask, bound, first;
  explicit Segment(u32 clamp)
      : lane(simt::lane()), mask(clamp >> 8 & 31), bound((lane & mask) | (clamp & 31 & ~mask)), first(lane & mask) {}
};
inline u32 shuffle_up(u32 x, u32 by, u32 clamp, u32 mask, bool& in, simt::Site site) {
  const Segment s(clamp);
  const int source = s.lane - static_cast<int>(by & 31);
  return shuffle_from(x, source, source >= s.bound, mask, in, site);
}
inline u32 shuffle_down(u32 x, u32 by, u32 clamp, u32 mask, bool& in, simt::Site site) {
  const Segment s(clamp);
  const int source = s.lane + static_cast<int>(by & 31);
  return shuffle_from(x, source, source <= s.bound, mask, in, site);
}
inline u32 shuffle_bfly(u32 x, u32 by, u32 clamp, u32 mask, bool& in, simt::Site site) {
  const Segment s(clamp);
  const int source = s.lane ^ static_cast<int>(by & 31);
  return shuffle_from(x, source, source <= s.bound, mask, in, site);
}
inline u32 shuffle_idx(u32 x, u32 by, u32 clamp, u32 mask, bool& in, simt::Site site) {
  const Segment s(clamp);
  const int source = s.first | static_cast<int>(by & 31 & ~s.mask);
  return shuffle_from(x, source, source <= s.bound, mask, in, site);
}

}  // namespace ptx
