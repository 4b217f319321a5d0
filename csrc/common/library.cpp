// What the library says about itself.
#include <string>

#include "common/isa.h"
#include "common/marker.h"
#include "common/torch_binding.h"

// The version that setup.py chose.
VLMADAPT_MARKER(vlmadapt_stable_abi, "stable-abi", TORCH_TARGET_VERSION);
VLMADAPT_MARKER(vlmadapt_isa_levels, "isa-levels", VLMADAPT_ISA_LEVELS);
VLMADAPT_MARKER(vlmadapt_isa_missing, "isa-missing", VLMADAPT_ISA_MISSING);

namespace vlmadapt {

namespace {

std::string describe_isa() { return isa_name(active_isa()); }

std::string describe_best_isa() { return isa_name(best_isa()); }

}  // namespace

STABLE_TORCH_LIBRARY(vlmadapt, m) {
  m.def("active_isa() -> str");
  m.def("best_isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(vlmadapt, CompositeExplicitAutograd, m) {
  m.impl("active_isa", TORCH_BOX(&describe_isa));
  m.impl("best_isa", TORCH_BOX(&describe_best_isa));
}

}  // namespace vlmadapt
