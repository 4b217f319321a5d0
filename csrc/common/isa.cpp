#include "common/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace vlmadapt {

namespace {

#define VLMADAPT_LEVEL(level, features) #level,
constexpr const char* names[num_isas] = {"baseline", VLMADAPT_NEWER_LEVELS(VLMADAPT_LEVEL, )};
#undef VLMADAPT_LEVEL

std::string all_names() {
  std::string text = names[0];
  for (int level = 1; level < num_isas; ++level) text += std::string(", ") + names[level];
  return text;
}

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
  throw std::invalid_argument("VLMADAPT_ISA is '" + std::string(wanted) + "': choose one of " + all_names() +
                              ", or unset it.");
}

}  // namespace

#if defined(__x86_64__)
namespace {

// Bits of the processor's own description, since older compilers know no name for them.
struct Cpuid {
  unsigned a = 0, b = 0, c = 0, d = 0;
  explicit Cpuid(unsigned page) { __get_cpuid_count(7, page, &a, &b, &c, &d); }
};

bool has(unsigned bits, int bit) { return (bits >> bit & 1) != 0; }

// Whether the system keeps the registers of these components when it switches between threads.
bool system_keeps(uint32_t components) {
  unsigned a, b, c, d;
  constexpr int osxsave = 27;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, osxsave)) return false;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & components) == components;
}

}  // namespace

bool has_bf16_dot_products() {
  constexpr int avx512_bf16 = 5;
  return has(Cpuid(1).a, avx512_bf16);
}

bool has_bf16_tiles() {
#if defined(__linux__)
  constexpr int amx_bf16 = 22, amx_tile = 24;
  constexpr uint32_t tile_configuration = 1u << 17, tile_data = 1u << 18;
  const Cpuid processor(0);
  if (!has(processor.d, amx_bf16) || !has(processor.d, amx_tile)) return false;
  if (!system_keeps(tile_configuration | tile_data)) return false;
  constexpr long request_permission = 0x1023, data_component = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, data_component) == 0;
#else
  return false;
#endif
}
#endif

Isa best_isa() {
  Isa best = Isa::baseline;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define VLMADAPT_LEVEL(level, features)                  \
  if (!is_built(Isa::level) || !(features)) return best; \
  best = Isa::level;
  VLMADAPT_NEWER_LEVELS(VLMADAPT_LEVEL, __builtin_cpu_supports)
#undef VLMADAPT_LEVEL
#endif
  return best;
}

Isa active_isa() {
  static const Isa isa = chosen_isa();
  return isa;
}

const char* isa_name(Isa isa) { return names[static_cast<int>(isa)]; }

}  // namespace vlmadapt
