#define VLMADAPT_ISA avx2
#include "p_laplacian/cpu_table.h"

namespace vlmadapt::p_laplacian {
const CpuKernels cpu_kernels_avx2 = vlmadapt::avx2::p_laplacian::cpu_kernels;
}
