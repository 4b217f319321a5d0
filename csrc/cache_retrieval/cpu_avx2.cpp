#define VLMADAPT_ISA avx2
#include "cache_retrieval/cpu_table.h"

namespace vlmadapt::cache_retrieval {
const CpuKernels cpu_kernels_avx2 = vlmadapt::avx2::cache_retrieval::cpu_kernels;
}
