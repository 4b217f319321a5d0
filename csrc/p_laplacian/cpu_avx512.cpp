#define VLMADAPT_ISA avx512
#include "p_laplacian/cpu_table.h"

namespace vlmadapt::p_laplacian {
const CpuKernels cpu_kernels_avx512 = vlmadapt::avx512::p_laplacian::cpu_kernels;
}
