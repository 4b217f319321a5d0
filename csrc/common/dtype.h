// Element types the kernels read. Sums are kept in the accumulation type: double for f64, float for all others.
#pragma once

#include <cstdint>

namespace vlmadapt {

enum class Dtype : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };

constexpr int num_dtypes = 4;

}  // namespace vlmadapt
