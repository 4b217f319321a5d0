#include "attention_column_sums/cpu_kernels.h"
#include "common/cpu_dispatch.h"

namespace vlmadapt::attention_column_sums {

void forward_cpu(const ForwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).forward[static_cast<int>(params.scores.dtype)](params, parallel);
}

void backward_cpu(const BackwardParams& params, const Parallel& parallel, Isa isa) {
  kernels_of<CpuKernels>(isa).backward[static_cast<int>(params.scores.dtype)](params, parallel);
}

}  // namespace vlmadapt::attention_column_sums
