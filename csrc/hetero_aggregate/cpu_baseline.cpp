#define VLMADAPT_ISA baseline
#include "hetero_aggregate/cpu_table.h"

namespace vlmadapt::hetero_aggregate {
const CpuKernels cpu_kernels_baseline = vlmadapt::baseline::hetero_aggregate::cpu_kernels;
}
