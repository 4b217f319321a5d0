// The kernels of cache_retrieval for NumPy as on a processor that multiplies bfloat16, on any processor: the levels of
// bfloat16 have their instructions emulated, and the vector levels are the baseline.
#include "cache_retrieval/cpu_kernels.h"
#include "raw.h"

namespace vlmadapt {

Isa best_isa() { return static_cast<Isa>(num_isas - 1); }

const char* isa_name(Isa isa) {
#define VLMADAPT_LEVEL(level, features) \
  if (isa == Isa::level) return #level;
  VLMADAPT_NEWER_LEVELS(VLMADAPT_LEVEL, )
#undef VLMADAPT_LEVEL
  return "baseline";
}

namespace cache_retrieval {
#define VLMADAPT_LEVEL(level, features) \
  const CpuKernels& CpuKernels::level() { return baseline(); }
VLMADAPT_VECTOR_LEVELS(VLMADAPT_LEVEL, )
#undef VLMADAPT_LEVEL
}  // namespace cache_retrieval

}  // namespace vlmadapt

PYBIND11_MODULE(emulated_kernels, m) {
  bind_levels(m);
  bind_cache_retrieval(m);
}
