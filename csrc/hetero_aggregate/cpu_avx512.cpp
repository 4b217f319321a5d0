#define VLMADAPT_ISA avx512
#include "hetero_aggregate/cpu_table.h"

namespace vlmadapt::hetero_aggregate {
const CpuKernels cpu_kernels_avx512 = vlmadapt::avx512::hetero_aggregate::cpu_kernels;
}
