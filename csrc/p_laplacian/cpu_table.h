// The function table of one instruction-set level, in dtype order.
#pragma once

#include "p_laplacian/cpu_backward.h"
#include "p_laplacian/cpu_forward.h"
#include "p_laplacian/cpu_kernels.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

constexpr vlmadapt::p_laplacian::CpuKernels cpu_kernels = {
    {forward<float>, forward<double>, forward<bf16>, forward<f16>},
    {backward<float>, backward<double>, backward<bf16>, backward<f16>},
};

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
