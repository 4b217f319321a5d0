// The only inline PTX of the package: asynchronous copies, ldmatrix, mma.sync, powers and
// logarithms. All of it exists since sm_80.
// On the CPU emulation (SIMT_EMU) the same names call the emulated instruction.
//
// Fragments follow the PTX ISA ("Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8"): with group = lane / 4 and
// quad = lane % 4, an accumulator holds rows group, group + 8 and columns 2 quad, 2 quad + 1:
//   d[0] (group, 2 quad)   d[1] (group, 2 quad + 1)   d[2] (group + 8, 2 quad)   d[3] (group + 8, 2 quad + 1)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace vlmadapt::ptx {

#ifdef SIMT_EMU

// Copies `bytes` (0 or 16) from global to shared memory and fills the rest of 16 with zeros.
inline void copy16_async(void* shared, const void* global, int bytes) { simt::cp_async(shared, global, 16, bytes); }
inline void commit_copies() { simt::cp_commit(); }
template <int groups_left>
void wait_copies() {
  simt::cp_wait(groups_left);
}

// Four 8x8 matrices of 16-bit elements (or 8x4 of 32 bits); lane l gives the address of row l % 8 of matrix l / 8.
inline void load_matrices(uint32_t (&out)[4], const void* row, SIMT_SITE) {
  simt::ldmatrix(out, row, 4, false, SIMT_HERE);
}
// The same, each matrix of 16-bit elements transposed.
inline void load_matrices_transposed(uint32_t (&out)[4], const void* row, SIMT_SITE) {
  simt::ldmatrix(out, row, 4, true, SIMT_HERE);
}

// d += a b, d 16x8 in float. T = __nv_bfloat16, __half: a 16x16, b 16x8. T = float: tf32 operands, a 16x8, b 8x8.
template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIMT_SITE) {
  constexpr simt::MmaKind kind = std::is_same<T, float>::value    ? simt::kTf32
                                 : std::is_same<T, __half>::value ? simt::kHalf
                                                                  : simt::kBfloat;
  const float c[4] = {d[0], d[1], d[2], d[3]};
  simt::mma<kind>(d, a, b, c, SIMT_HERE);
}

inline uint32_t to_tf32(float x) { return simt::float_to_tf32(x); }

// One instruction each of the special function units; denormal numbers are zeros on either side.
inline float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.f, x) : x; }
inline float exp2_flushed(float x) { return flushed(exp2f(flushed(x))); }
inline float log2_flushed(float x) { return log2f(flushed(x)); }

#else

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void copy16_async(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int groups_left>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(groups_left) : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

#define VLMADAPT_MMA(shape_and_types)                                               \
  asm volatile("mma.sync.aligned." shape_and_types                                  \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  VLMADAPT_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
template <>
__device__ __forceinline__ void mma<__half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  VLMADAPT_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
template <>
__device__ __forceinline__ void mma<float>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  VLMADAPT_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef VLMADAPT_MMA

__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t out;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(out) : "f"(x));
  return out;
}

__device__ __forceinline__ float exp2_flushed(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(out) : "f"(x));
  return out;
}
__device__ __forceinline__ float log2_flushed(float x) {
  float out;
  asm("lg2.approx.ftz.f32 %0, %1;\n" : "=f"(out) : "f"(x));
  return out;
}

#endif

}  // namespace vlmadapt::ptx
