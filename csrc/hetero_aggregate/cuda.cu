// Writes the relations' descriptions to the device, chooses the instantiation for aggregate.cuh and launches it.
#include "hetero_aggregate/aggregate.cuh"
#include "hetero_aggregate/cuda.h"

namespace vlmadapt::hetero_aggregate {
namespace {

int64_t description_bytes(const AggregateParams& params) {
  return params.num_relations * static_cast<int64_t>(sizeof(Description));
}

bool needs_own(const AggregateParams& params) {
  for (int64_t r = 0; r < params.num_relations; ++r)
    if (params.relations[r].grad_weights || params.relations[r].grad_coefficient) return true;
  return false;
}

// Whether every row that is read or written starts at a multiple of 16 bytes.
bool aligned(const AggregateParams& params) {
  auto address = [](const void* p) { return reinterpret_cast<uintptr_t>(p); };
  uintptr_t all = address(params.out) | address(params.own);
  for (int64_t m = 0; m < params.num_matrices; ++m) all |= address(params.matrices[m].data);
  return all % 16 == 0 && params.width * element_bytes(params.dtype) % 16 == 0;
}

cudaError_t describe(const AggregateParams& params, Description* out, char* row_dots, cudaStream_t stream) {
  for (int64_t first = 0; first < params.num_relations; first += kDescribed) {
    Descriptions given{};
    int count = 0;
    for (int64_t r = first; r < params.num_relations && count < kDescribed; ++r, ++count) {
      const Relation& relation = params.relations[r];
      given.at[count] = {
          relation.offsets,
          relation.columns,
          relation.edges,
          relation.weights,
          relation.grad_weights,
          relation.coefficient,
          params.matrices[relation.matrix].data,
          relation.grad_coefficient ? row_dots + r * params.num_rows * accum_bytes(params.dtype) : nullptr};
    }
    CUDA_LAUNCH(describe_kernel, dim3(1), dim3(kDescribed), 0, stream, given, out + first, count);
    if (cudaError_t e = cudaGetLastError()) return e;
  }
  return cudaSuccess;
}

template <class E, class I>
cudaError_t launch(const RowJob& job, bool wide, bool with_own, cudaStream_t stream) {
  const dim3 grid = grid_of((job.num_rows + kWarps - 1) / kWarps), block(kThreads);
  if (wide && with_own)
    CUDA_LAUNCH((aggregate_kernel<E, I, true, true>), grid, block, 0, stream, job);
  else if (wide)
    CUDA_LAUNCH((aggregate_kernel<E, I, true, false>), grid, block, 0, stream, job);
  else if (with_own)
    CUDA_LAUNCH((aggregate_kernel<E, I, false, true>), grid, block, 0, stream, job);
  else
    CUDA_LAUNCH((aggregate_kernel<E, I, false, false>), grid, block, 0, stream, job);
  return cudaGetLastError();
}

template <class E>
cudaError_t launch(const RowJob& job, Index index, bool wide, bool with_own, cudaStream_t stream) {
  return index == Index::i32 ? launch<E, int32_t>(job, wide, with_own, stream)
                             : launch<E, int64_t>(job, wide, with_own, stream);
}

template <class T>
cudaError_t sum_rows(const AggregateParams& params, const char* row_dots, cudaStream_t stream) {
  for (int64_t r = 0; r < params.num_relations; ++r) {
    if (!params.relations[r].grad_coefficient) continue;
    CUDA_LAUNCH(row_sum_kernel<T>, dim3(1), dim3(kThreads), 0, stream,
                reinterpret_cast<const T*>(row_dots) + r * params.num_rows, params.num_rows,
                static_cast<T*>(params.relations[r].grad_coefficient));
    if (cudaError_t e = cudaGetLastError()) return e;
  }
  return cudaSuccess;
}

}  // namespace

int64_t aggregate_workspace(const AggregateParams& params) {
  const int64_t dots = needs_own(params) ? params.num_relations * params.num_rows * accum_bytes(params.dtype) : 0;
  return description_bytes(params) + dots;
}

cudaError_t aggregate_cuda(const AggregateParams& params, void* workspace, cudaStream_t stream) {
  auto* descriptions = static_cast<Description*>(workspace);
  char* row_dots = static_cast<char*>(workspace) + description_bytes(params);
  const bool own = needs_own(params), wide = aligned(params);
  if (params.num_rows > 0) {
    if (cudaError_t e = describe(params, descriptions, row_dots, stream)) return e;
    const RowJob rows{descriptions,   params.num_relations, params.num_rows, params.width,
                      params.stacked, params.out,           params.own};
    cudaError_t error = cudaErrorInvalidValue;
    switch (params.dtype) {
      case Dtype::f32:
        error = launch<float>(rows, params.index, wide, own, stream);
        break;
      case Dtype::f64:
        error = launch<double>(rows, params.index, wide, own, stream);
        break;
      case Dtype::bf16:
        error = launch<__nv_bfloat16>(rows, params.index, wide, own, stream);
        break;
      case Dtype::f16:
        error = launch<__half>(rows, params.index, wide, own, stream);
        break;
    }
    if (error != cudaSuccess) return error;
  }
  if (!own) return cudaSuccess;
  return params.dtype == Dtype::f64 ? sum_rows<double>(params, row_dots, stream)
                                    : sum_rows<float>(params, row_dots, stream);
}

}  // namespace vlmadapt::hetero_aggregate
