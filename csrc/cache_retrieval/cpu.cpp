#include <cstring>

#include "cache_retrieval/cpu_kernels.h"
#include "cache_retrieval/kernel.h"
#include "common/buffer.h"
#include "common/cpu_dispatch.h"

namespace vlmadapt::cache_retrieval {

namespace {

int64_t accum_size(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }

// The kernel of a level of bfloat16 for these inputs, or nullptr.
template <class Kernel>
Kernel bf16_kernel(Kernel const (Bf16Kernels::*member)[Bf16Kernels::kinds], Dtype dtype, Float32 float32, Isa isa) {
  const Bf16Kernels* kernels = bf16_kernels_of<Bf16Kernels>(isa);
  if (kernels == nullptr) return nullptr;
  switch (dtype) {
    case Dtype::bf16:
      return (kernels->*member)[Bf16Kernels::bf16];
    case Dtype::f32:
      if (float32 == Float32::two_bf16) return (kernels->*member)[Bf16Kernels::f32_as_two];
      if (float32 == Float32::bf16) return (kernels->*member)[Bf16Kernels::f32_as_one];
      return nullptr;
    default:
      return nullptr;
  }
}

// Few queries take dot products, whose time is that of reading the keys.
template <class Params, class Kernel>
void run(const Params& params, Kernel const (Bf16Kernels::*bf16)[Bf16Kernels::kinds],
         Kernel const (CpuKernels::*exact)[num_dtypes], Float32 float32, const Parallel& parallel, Isa isa) {
  if (params.num_queries > max_dot_queries)
    if (const Kernel kernel = bf16_kernel(bf16, params.dtype, float32, isa))
      if (kernel(params, parallel)) return;
  (kernels_of<CpuKernels>(isa).*exact)[static_cast<int>(params.dtype)](params, parallel);
}

}  // namespace

void forward_cpu(const ForwardParams& params, Float32 float32, const Parallel& parallel, Isa isa) {
  const int64_t size = params.kept_as == Kept::affinities ? 2 : accum_size(params.dtype);
  expect_writes(params.kept, params.num_entries * params.num_queries * size);
  expect_writes(params.text_kept, params.num_entries * params.num_queries * size);
  run(params, &Bf16Kernels::forward, &CpuKernels::forward, float32, parallel, isa);
}

void dense_forward_cpu(const DenseForwardParams& params, Float32 float32, const Parallel& parallel, Isa isa) {
  run(params, &Bf16Kernels::dense_forward, &CpuKernels::dense_forward, float32, parallel, isa);
}

void backward_cpu(const BackwardParams& params, Float32 float32, const Parallel& parallel, Isa isa) {
  const bool half = params.dtype == Dtype::bf16 || params.dtype == Dtype::f16;
  const int64_t size = half && params.narrow_gradients ? 2 : accum_size(params.dtype);
  expect_writes(params.grad_keys, params.num_keys * params.side.width * size);
  expect_writes(params.grad_values, params.num_keys * params.num_classes * size);
  run(params, &Bf16Kernels::backward, &CpuKernels::backward, float32, parallel, isa);
}

void grid_cpu(const GridParams& params, Float32 float32, const Parallel& parallel, Isa isa) {
  run(params, &Bf16Kernels::grid, &CpuKernels::grid, float32, parallel, isa);
}

int64_t class_order(const int64_t* labels, int64_t num_entries, int64_t num_classes, int64_t* order, int64_t* offsets) {
  std::memset(offsets, 0, static_cast<size_t>(num_classes + 1) * sizeof(int64_t));
  for (int64_t e = 0; e < num_entries; ++e) {
    if (labels[e] < 0 || labels[e] >= num_classes) return e;
    ++offsets[labels[e] + 1];
  }
  for (int64_t c = 0; c < num_classes; ++c) offsets[c + 1] += offsets[c];
  // offsets[c] serves as the next free slot of class c while placing, then every start is shifted back.
  for (int64_t e = 0; e < num_entries; ++e) order[offsets[labels[e]]++] = e;
  for (int64_t c = num_classes; c > 0; --c) offsets[c] = offsets[c - 1];
  offsets[0] = 0;
  return -1;
}

}  // namespace vlmadapt::cache_retrieval
