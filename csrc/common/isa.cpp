#include "common/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace vlmadapt {

namespace {

constexpr const char* names[num_isas] = {"baseline", "avx2", "avx512"};

Isa chosen_isa() {
  const char* wanted = std::getenv("VLMADAPT_ISA");
  if (wanted == nullptr || *wanted == '\0') return best_isa();
  for (int level = 0; level < num_isas; ++level) {
    if (std::string(wanted) != names[level]) continue;
    if (level > static_cast<int>(best_isa()))
      throw std::invalid_argument("VLMADAPT_ISA is '" + std::string(wanted) +
                                  "', but this processor or build has at most '" + isa_name(best_isa()) +
                                  "': unset it or choose that level.");
    return static_cast<Isa>(level);
  }
  throw std::invalid_argument("VLMADAPT_ISA is '" + std::string(wanted) +
                              "': choose one of baseline, avx2, avx512, or unset it.");
}

}  // namespace

Isa best_isa() {
#if defined(__x86_64__) && !defined(VLMADAPT_WITHOUT_AVX2)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#if !defined(VLMADAPT_WITHOUT_AVX512)
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
#endif
  if (avx2) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa active_isa() {
  static const Isa isa = chosen_isa();
  return isa;
}

const char* isa_name(Isa isa) { return names[static_cast<int>(isa)]; }

}  // namespace vlmadapt
