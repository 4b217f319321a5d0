// Compiled once a level, with VLMADAPT_ISA and the level's flags: the level's function table, in dtype and index order.
#include "hetero_aggregate/cpu_aggregate.h"
#include "hetero_aggregate/cpu_kernels.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace hetero_aggregate {

constexpr vlmadapt::hetero_aggregate::CpuKernels cpu_kernels = {{
    {aggregate<float, int32_t>, aggregate<float, int64_t>},
    {aggregate<double, int32_t>, aggregate<double, int64_t>},
    {aggregate<bf16, int32_t>, aggregate<bf16, int64_t>},
    {aggregate<f16, int32_t>, aggregate<f16, int64_t>},
}};

}  // namespace hetero_aggregate
}  // namespace VLMADAPT_ISA

namespace hetero_aggregate {
const CpuKernels& CpuKernels::VLMADAPT_ISA() { return vlmadapt::VLMADAPT_ISA::hetero_aggregate::cpu_kernels; }
}  // namespace hetero_aggregate
}  // namespace vlmadapt
