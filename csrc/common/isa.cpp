#include "common/isa.h"

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
