// Compiled once a level, with VLMADAPT_ISA and the level's flags: the level's function table. Kernels are compiled for
// two accumulation types; a tensor of another storage type is converted as it is read.
#include "attention_column_sums/cpu_backward.h"
#include "attention_column_sums/cpu_forward.h"
#include "attention_column_sums/cpu_kernels.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace attention_column_sums {

constexpr vlmadapt::attention_column_sums::CpuKernels cpu_kernels = {
    {forward<float>, forward<double>, forward<float>, forward<float>},
    {backward<float>, backward<double>, backward<float>, backward<float>},
};

}  // namespace attention_column_sums
}  // namespace VLMADAPT_ISA

namespace attention_column_sums {
const CpuKernels& CpuKernels::VLMADAPT_ISA() { return vlmadapt::VLMADAPT_ISA::attention_column_sums::cpu_kernels; }
}  // namespace attention_column_sums
}  // namespace vlmadapt
