#include "p_laplacian/cpu_kernels.h"
#include "p_laplacian/kernel.h"

namespace vlmadapt::p_laplacian {

namespace {

const CpuKernels& kernels_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return cpu_kernels_avx512;
  if (isa == Isa::avx2) return cpu_kernels_avx2;
#endif
  return cpu_kernels_baseline;
}

}  // namespace

void forward_cpu(const ForwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of(isa).forward[static_cast<int>(params.problem.dtype)](params, parallel);
}

void backward_cpu(const BackwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of(isa).backward[static_cast<int>(params.problem.dtype)](params, parallel);
}

}  // namespace vlmadapt::p_laplacian
