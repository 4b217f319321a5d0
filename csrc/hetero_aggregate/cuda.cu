// Writes the relations' descriptions to the device, chooses the instantiation for aggregate.cuh and launches it.
#include "hetero_aggregate/aggregate.cuh"
#include "hetero_aggregate/cuda.h"

namespace vlmadapt::hetero_aggregate {
namespace {

int64_t description_bytes(const Job& job) { return job.num_relations * static_cast<int64_t>(sizeof(Description)); }

bool needs_own(const Job& job) {
  for (int64_t r = 0; r < job.num_relations; ++r)
    if (job.relations[r].grad_weights || job.relations[r].grad_coefficient) return true;
  return false;
}

// Whether every row that is read or written starts at a multiple of 16 bytes.
bool aligned(const Job& job) {
  auto address = [](const void* p) { return reinterpret_cast<uintptr_t>(p); };
  uintptr_t all = address(job.out) | address(job.own);
  for (int64_t m = 0; m < job.num_matrices; ++m) all |= address(job.matrices[m].data);
  return all % 16 == 0 && job.width * element_bytes(job.dtype) % 16 == 0;
}

cudaError_t describe(const Job& job, Description* out, char* row_dots, cudaStream_t stream) {
  for (int64_t first = 0; first < job.num_relations; first += kDescribed) {
    Descriptions given{};
    int count = 0;
    for (int64_t r = first; r < job.num_relations && count < kDescribed; ++r, ++count) {
      const Relation& relation = job.relations[r];
      given.at[count] = {relation.offsets,
                         relation.columns,
                         relation.edges,
                         relation.weights,
                         relation.grad_weights,
                         relation.coefficient,
                         job.matrices[relation.matrix].data,
                         relation.grad_coefficient ? row_dots + r * job.num_rows * accum_bytes(job.dtype) : nullptr};
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
cudaError_t sum_rows(const Job& job, const char* row_dots, cudaStream_t stream) {
  for (int64_t r = 0; r < job.num_relations; ++r) {
    if (!job.relations[r].grad_coefficient) continue;
    CUDA_LAUNCH(row_sum_kernel<T>, dim3(1), dim3(kThreads), 0, stream,
                reinterpret_cast<const T*>(row_dots) + r * job.num_rows, job.num_rows,
                static_cast<T*>(job.relations[r].grad_coefficient));
    if (cudaError_t e = cudaGetLastError()) return e;
  }
  return cudaSuccess;
}

}  // namespace

int64_t aggregate_workspace(const Job& job) {
  const int64_t dots = needs_own(job) ? job.num_relations * job.num_rows * accum_bytes(job.dtype) : 0;
  return description_bytes(job) + dots;
}

cudaError_t aggregate_cuda(const Job& job, void* workspace, cudaStream_t stream) {
  auto* descriptions = static_cast<Description*>(workspace);
  char* row_dots = static_cast<char*>(workspace) + description_bytes(job);
  const bool own = needs_own(job), wide = aligned(job);
  if (job.num_rows > 0) {
    if (cudaError_t e = describe(job, descriptions, row_dots, stream)) return e;
    const RowJob rows{descriptions, job.num_relations, job.num_rows, job.width, job.stacked, job.out, job.own};
    cudaError_t error = cudaErrorInvalidValue;
    switch (job.dtype) {
      case Dtype::f32:
        error = launch<float>(rows, job.index, wide, own, stream);
        break;
      case Dtype::f64:
        error = launch<double>(rows, job.index, wide, own, stream);
        break;
      case Dtype::bf16:
        error = launch<__nv_bfloat16>(rows, job.index, wide, own, stream);
        break;
      case Dtype::f16:
        error = launch<__half>(rows, job.index, wide, own, stream);
        break;
    }
    if (error != cudaSuccess) return error;
  }
  if (!own) return cudaSuccess;
  return job.dtype == Dtype::f64 ? sum_rows<double>(job, row_dots, stream) : sum_rows<float>(job, row_dots, stream);
}

}  // namespace vlmadapt::hetero_aggregate
