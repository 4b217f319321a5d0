// Instruction-set levels a CPU kernel is compiled for, and which one to run.
#pragma once

namespace vlmadapt {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2 };

constexpr int num_isas = 3;

// The best level that this processor has and this build contains.
Isa best_isa();

// best_isa(), unless the environment variable VLMADAPT_ISA (baseline, avx2, avx512) asks for a lower level.
// Read once. Throws std::invalid_argument when it names an unknown level or one this processor lacks.
Isa active_isa();

const char* isa_name(Isa isa);

}  // namespace vlmadapt
