// Instruction-set levels a CPU kernel is compiled for, and which one to run.
#pragma once

// The levels above the baseline, each containing the one before: LEVEL(name, what a processor must have). The names are
// those of csrc/sources.json, which has their flags; everything else that differs by level is made from these lists.
#define VLMADAPT_VECTOR_LEVELS(LEVEL, HAS)              \
  LEVEL(avx2, HAS("avx2") && HAS("fma") && HAS("f16c")) \
  LEVEL(avx512, HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl"))
// Those that add nothing but products of bfloat16: operators without kernels for them run those of the last before.
#define VLMADAPT_BF16_LEVELS(LEVEL)           \
  LEVEL(avx512_bf16, has_bf16_dot_products()) \
  LEVEL(amx, has_bf16_tiles())
#define VLMADAPT_NEWER_LEVELS(LEVEL, HAS) \
  VLMADAPT_VECTOR_LEVELS(LEVEL, HAS)      \
  VLMADAPT_BF16_LEVELS(LEVEL)

// In an operator's struct of kernels: its member of every level.
#define VLMADAPT_KERNELS_OF_LEVEL(level, features) static const CpuKernels& level();
#define VLMADAPT_KERNELS_OF_EVERY_LEVEL \
  static const CpuKernels& baseline();  \
  VLMADAPT_VECTOR_LEVELS(VLMADAPT_KERNELS_OF_LEVEL, )

namespace vlmadapt {

#define VLMADAPT_LEVEL(level, features) level,
enum class Isa : int { baseline, VLMADAPT_NEWER_LEVELS(VLMADAPT_LEVEL, ) };
#undef VLMADAPT_LEVEL

#define VLMADAPT_LEVEL(level, features) +1
constexpr int num_isas = 1 VLMADAPT_NEWER_LEVELS(VLMADAPT_LEVEL, );
#undef VLMADAPT_LEVEL

#ifdef VLMADAPT_NUM_NEWER_LEVELS
// This build contains the lowest ones; setup.py and CMakeLists.txt say how many. CUDA files need not be told.
constexpr bool is_built(Isa isa) { return static_cast<int>(isa) <= VLMADAPT_NUM_NEWER_LEVELS; }
#endif

// The best level that this processor has and this build contains.
Isa best_isa();

// What a processor, and the system that runs it, must have for the levels of bfloat16. The latter asks the system for
// the tiles' registers, once for the whole process.
bool has_bf16_dot_products();
bool has_bf16_tiles();

// best_isa(), unless the environment variable VLMADAPT_ISA names a lower level.
// Read once. Throws std::invalid_argument when it names an unknown level or one this processor lacks.
Isa active_isa();

const char* isa_name(Isa isa);

}  // namespace vlmadapt
