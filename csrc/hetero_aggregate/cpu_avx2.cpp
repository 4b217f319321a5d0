#define VLMADAPT_ISA avx2
#include "hetero_aggregate/cpu_table.h"

namespace vlmadapt::hetero_aggregate {
const CpuKernels cpu_kernels_avx2 = vlmadapt::avx2::hetero_aggregate::cpu_kernels;
}
