// Compiled once a level, with VLMADAPT_ISA and the level's flags: the level's function table. Kernels are compiled for
// two accumulation types; a tensor of another storage type is converted as it is read.
#include "p_laplacian/cpu_kernels.h"
#include "p_laplacian/cpu_probabilities_backward.h"
#include "p_laplacian/cpu_probabilities_forward.h"
#include "p_laplacian/cpu_scores_backward.h"
#include "p_laplacian/cpu_scores_forward.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace p_laplacian {

template <class A>
inline void forward(const ForwardParams& params, const Parallel& parallel) {
  params.problem.from_scores ? forward_scores<A>(params, parallel) : forward_probabilities<A>(params, parallel);
}

template <class A>
inline void backward(const BackwardParams& params, const Parallel& parallel) {
  params.problem.from_scores ? backward_scores<A>(params, parallel) : backward_probabilities<A>(params, parallel);
}

constexpr vlmadapt::p_laplacian::CpuKernels cpu_kernels = {
    {forward<float>, forward<double>, forward<float>, forward<float>},
    {backward<float>, backward<double>, backward<float>, backward<float>},
};

}  // namespace p_laplacian
}  // namespace VLMADAPT_ISA

namespace p_laplacian {
const CpuKernels& CpuKernels::VLMADAPT_ISA() { return vlmadapt::VLMADAPT_ISA::p_laplacian::cpu_kernels; }
}  // namespace p_laplacian
}  // namespace vlmadapt
