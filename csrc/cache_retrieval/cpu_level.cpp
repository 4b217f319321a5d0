// Compiled once a level, with VLMADAPT_ISA and the level's flags: the level's function table, in dtype order.
#include "cache_retrieval/cpu_backward.h"
#include "cache_retrieval/cpu_dense.h"
#include "cache_retrieval/cpu_forward.h"
#include "cache_retrieval/cpu_grid.h"
#include "cache_retrieval/cpu_kernels.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

#define VLMADAPT_EVERY_DTYPE(kernel) \
  {kernel<FloatProducts<float>>, kernel<FloatProducts<double>>, kernel<FloatProducts<bf16>>, kernel<FloatProducts<f16>>}

constexpr vlmadapt::cache_retrieval::CpuKernels cpu_kernels = {
    VLMADAPT_EVERY_DTYPE(forward), VLMADAPT_EVERY_DTYPE(dense_forward), VLMADAPT_EVERY_DTYPE(backward),
    VLMADAPT_EVERY_DTYPE(grid)};

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA

namespace cache_retrieval {
const CpuKernels& CpuKernels::VLMADAPT_ISA() { return vlmadapt::VLMADAPT_ISA::cache_retrieval::cpu_kernels; }
}  // namespace cache_retrieval
}  // namespace vlmadapt
