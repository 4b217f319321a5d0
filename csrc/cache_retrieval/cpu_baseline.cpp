#define VLMADAPT_ISA baseline
#include "cache_retrieval/cpu_table.h"

namespace vlmadapt::cache_retrieval {
const CpuKernels cpu_kernels_baseline = vlmadapt::baseline::cache_retrieval::cpu_kernels;
}
