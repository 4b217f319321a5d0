// Compiled once a level of bfloat16, with VLMADAPT_ISA and the level's flags: the level's function table.
#include "cache_retrieval/cpu_backward.h"
#include "cache_retrieval/cpu_dense.h"
#include "cache_retrieval/cpu_forward.h"
#include "cache_retrieval/cpu_grid.h"
#include "cache_retrieval/cpu_kernels.h"
#include "cache_retrieval/cpu_pairs_weights.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

using AsOne = PairSums<float, 1, 1>;
#ifdef VLMADAPT_TILES
using AsTwo = PairSums<float, 2, 2>;
#define VLMADAPT_AS_TWO(kernel) kernel<AsTwo>
#else
// Vectors multiply twice as many bfloat16 as float32 at a time: three products in place of one are a loss.
#define VLMADAPT_AS_TWO(kernel) nullptr
#endif

// Weights as one bfloat16 each, for gradients that are rounded to bfloat16 in the end. Gradients of values multiply
// float32 by bfloat16 in all products but one.
bool backward_of_bf16(const BackwardParams& p, const Parallel& parallel) {
  return !p.dense && backward<PairSums<bf16, 1, 1>>(p, parallel);
}

// In the order of Bf16Kernels::Kind.
constexpr vlmadapt::cache_retrieval::Bf16Kernels bf16_kernels = {
    {forward<PairProducts<bf16, 1>>, forward<AsOne>, VLMADAPT_AS_TWO(forward)},
    {dense_forward<PairProducts<bf16, 1>>, dense_forward<AsOne>, VLMADAPT_AS_TWO(dense_forward)},
    {backward_of_bf16, backward<AsOne>, VLMADAPT_AS_TWO(backward)},
    {grid<PairProducts<bf16, 1>>, grid<AsOne>, VLMADAPT_AS_TWO(grid)}};

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA

namespace cache_retrieval {
const Bf16Kernels& Bf16Kernels::VLMADAPT_ISA() { return vlmadapt::VLMADAPT_ISA::cache_retrieval::bf16_kernels; }
}  // namespace cache_retrieval
}  // namespace vlmadapt
