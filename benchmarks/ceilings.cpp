// What a core's arithmetic reaches at best: multiply-adds in registers, nothing read or written.

#include <chrono>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int kBytes = 64, kChains = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kChains = 12;
#else
constexpr int kBytes = 16, kChains = 12;
#endif

typedef float Floats __attribute__((vector_size(kBytes)));

namespace {

constexpr int kSteps = 100'000;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// As many independent chains as hide an instruction's latency, and no more than there are registers.
template <class Vector, class Step>
double rate(double flops_of_step, Step step) {
  Vector chains[kChains] = {};
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) {
      chains[c] = step(chains[c]);
      __asm__ volatile("" : "+x"(chains[c]));  // nothing is known of the sum, so no step is left out
    }
  }
  return flops_of_step * kChains * kSteps / seconds_since(start);
}

}  // namespace

extern "C" double float32_rate() {
  Floats factor = {}, term = {};
  __asm__ volatile("" : "+x"(factor), "+x"(term));
  return rate<Floats>(2.0 * kBytes / sizeof(float), [&](Floats sum) { return sum * factor + term; });
}

// Zero where the processor has no such instruction.
extern "C" double bfloat16_rate() {
#if defined(__AVX512BF16__)
  __m512i bits = _mm512_setzero_si512();
  __asm__ volatile("" : "+x"(bits));
  const auto factor = (__m512bh)bits;
  return rate<__m512>(4.0 * kBytes / sizeof(float), [&](__m512 sum) { return _mm512_dpbf16_ps(sum, factor, factor); });
#else
  return 0;
#endif
}
