#define VLMADAPT_ISA baseline
#include "p_laplacian/cpu_table.h"

namespace vlmadapt::p_laplacian {
const CpuKernels cpu_kernels_baseline = vlmadapt::baseline::p_laplacian::cpu_kernels;
}
