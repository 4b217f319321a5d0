#include "common/cpu_dispatch.h"
#include "p_laplacian/cpu_kernels.h"
#include "p_laplacian/kernel.h"

namespace vlmadapt::p_laplacian {

void forward_cpu(const ForwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).forward[static_cast<int>(params.problem.dtype)](params, parallel);
}

void backward_cpu(const BackwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).backward[static_cast<int>(params.problem.dtype)](params, parallel);
}

}  // namespace vlmadapt::p_laplacian
