// Compiled once a level, with VLMADAPT_ISA and the level's flags: the level's function table, in dtype order.
#include "cache_retrieval/cpu_backward.h"
#include "cache_retrieval/cpu_dense.h"
#include "cache_retrieval/cpu_forward.h"
#include "cache_retrieval/cpu_grid.h"
#include "cache_retrieval/cpu_kernels.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

constexpr vlmadapt::cache_retrieval::CpuKernels cpu_kernels = {
    {forward<float>, forward<double>, forward<bf16>, forward<f16>},
    {dense_forward<float>, dense_forward<double>, dense_forward<bf16>, dense_forward<f16>},
    {backward<float>, backward<double>, backward<bf16>, backward<f16>},
    {grid<float>, grid<double>, grid<bf16>, grid<f16>},
};

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA

namespace cache_retrieval {
const CpuKernels& CpuKernels::VLMADAPT_ISA() { return vlmadapt::VLMADAPT_ISA::cache_retrieval::cpu_kernels; }
}  // namespace cache_retrieval
}  // namespace vlmadapt
