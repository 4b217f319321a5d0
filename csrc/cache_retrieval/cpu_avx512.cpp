#define VLMADAPT_ISA avx512
#include "cache_retrieval/cpu_table.h"

namespace vlmadapt::cache_retrieval {
const CpuKernels cpu_kernels_avx512 = vlmadapt::avx512::cache_retrieval::cpu_kernels;
}
