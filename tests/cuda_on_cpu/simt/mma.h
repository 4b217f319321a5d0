// Warp-level matrix instructions with the register layouts of the PTX ISA ("Matrix Fragments for mma.m16n8k16 with
// floating point type", "... mma.m16n8k8", "ldmatrix"). Shared by both routes, so tests/cuda_on_cpu/test_layouts.py
// checks them against an independent statement of the layouts. Products and sums are in double.
#pragma once

namespace simt {

inline float half_to_float(uint16_t b) { return __half2float(bits<__half>(b)); }
inline float bfloat_to_float(uint16_t b) { return bits<float>(static_cast<uint32_t>(b) << 16); }
// A tensor core reads the upper 19 bits of a tf32 operand and ignores the rest.
inline float tf32_to_float(uint32_t b) { return bits<float>(b & 0xffffe000u); }
// cvt.rna.tf32.f32: nearest, ties away from zero.
inline uint32_t float_to_tf32(float f) {
  uint32_t u = bits<uint32_t>(f);
  if ((u & 0x7f800000u) == 0x7f800000u) return u;  // infinities and NaN pass
  return (u + 0x1000u) & 0xffffe000u;
}

enum MmaKind { kHalf, kBfloat, kTf32 };

struct MmaPayload {
  uint32_t a[4], b[2];
  float c[4], d[4];
};

// A is 16 x K row-major, B is K x 8 column-major; K = 16 for 16-bit elements, 8 for tf32.
template <MmaKind kind>
void finish_mma(void** payload, unsigned mask, const void*) {
  if (mask != 0xffffffffu) {
    report("mma.sync needs all 32 lanes (mask %08x)", mask);
    return;
  }
  constexpr int kDepth = kind == kTf32 ? 8 : 16;
  constexpr int kPerRegister = kind == kTf32 ? 1 : 2;
  auto element = [](uint32_t word, int half) {
    if (kind == kTf32) return tf32_to_float(word);
    uint16_t b = static_cast<uint16_t>(word >> (16 * half));
    return kind == kBfloat ? bfloat_to_float(b) : half_to_float(b);
  };
  float A[16][kDepth], B[kDepth][8];
  for (int lane = 0; lane < 32; ++lane) {
    auto* p = static_cast<MmaPayload*>(payload[lane]);
    int group = lane >> 2, quad = lane & 3;
    for (int h = 0; h < kPerRegister; ++h) {
      for (int r = 0; r < 4; ++r)
        A[group + (r & 1) * 8][quad * kPerRegister + h + (r >> 1) * (kDepth / 2)] = element(p->a[r], h);
      for (int r = 0; r < 2; ++r) B[quad * kPerRegister + h + r * (kDepth / 2)][group] = element(p->b[r], h);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto* p = static_cast<MmaPayload*>(payload[lane]);
    int group = lane >> 2, quad = lane & 3;
    for (int r = 0; r < 4; ++r) {
      double sum = p->c[r];
      for (int k = 0; k < kDepth; ++k)
        sum += static_cast<double>(A[group + (r >> 1) * 8][k]) * B[k][quad * 2 + (r & 1)];
      p->d[r] = static_cast<float>(sum);
    }
  }
}

template <MmaKind kind>
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], Site site) {
  MmaPayload p;
  memcpy(p.a, a, sizeof a);
  memcpy(p.b, b, sizeof b);
  memcpy(p.c, c, sizeof c);
  warp_collective(0xffffffffu, kMma, &finish_mma<kind>, &p, nullptr, false, site);
  memcpy(d, p.d, sizeof p.d);
}

struct LdmatrixPayload {
  const void* row;
  uint32_t out[4];
};
struct LdmatrixShape {
  int matrices;
  bool transpose;
};

inline void finish_ldmatrix(void** payload, unsigned mask, const void* argument) {
  auto* shape = static_cast<const LdmatrixShape*>(argument);
  if (mask != 0xffffffffu) {
    report("ldmatrix needs all 32 lanes (mask %08x)", mask);
    return;
  }
  for (int m = 0; m < shape->matrices; ++m) {
    uint16_t M[8][8];
    for (int r = 0; r < 8; ++r) {
      const void* row = static_cast<LdmatrixPayload*>(payload[m * 8 + r])->row;
      if (reinterpret_cast<uintptr_t>(row) & 15)
        report("ldmatrix: row address of lane %d is not 16-byte aligned", m * 8 + r);
      runtime_copy(M[r], row, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      int group = lane >> 2, quad = lane & 3;
      uint16_t low = shape->transpose ? M[2 * quad][group] : M[group][2 * quad];
      uint16_t high = shape->transpose ? M[2 * quad + 1][group] : M[group][2 * quad + 1];
      static_cast<LdmatrixPayload*>(payload[lane])->out[m] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

// Lane 8m + r holds the address of row r of matrix m; lanes beyond 8 * matrices are ignored.
inline void ldmatrix(uint32_t* out, const void* row, int matrices, bool transpose, Site site) {
  if (lane() < 8 * matrices) note_read(row, 16);
  LdmatrixPayload p{row, {0, 0, 0, 0}};
  LdmatrixShape shape{matrices, transpose};
  warp_collective(0xffffffffu, kLdmatrix, &finish_ldmatrix, &p, &shape, false, site);
  memcpy(out, p.out, matrices * sizeof(uint32_t));
}

}  // namespace simt
