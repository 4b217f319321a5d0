// Writes the relations' descriptions to the device, chooses the instantiation for aggregate.cuh and launches it.
#include "hetero_aggregate/aggregate.cuh"
#include "hetero_aggregate/cuda.h"

namespace vlmadapt::hetero_aggregate {
namespace {

constexpr int64_t kLargestGridY = 65535;

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

// How many segments the rows of a relation may be cut into beyond their first ones.
int64_t segments_of(const AggregateParams& params, const Relation& relation) {
  const bool cut = params.width > 0 && relation.num_edges > 0 && params.matrices[relation.matrix].rows > kSegment;
  return cut ? (relation.num_edges - 1) / kSegment : 0;
}

int64_t all_segments(const AggregateParams& params) {
  int64_t count = 0;
  for (int64_t r = 0; r < params.num_relations; ++r) count += segments_of(params, params.relations[r]);
  return count;
}

// Columns of a row that one warp keeps.
int64_t warp_columns(Dtype dtype) { return dtype == Dtype::f64 ? 128 : 256; }

int64_t segment_bytes(const AggregateParams& params) {
  const int64_t columns = warp_columns(params.dtype);
  return (params.width + columns - 1) / columns * columns * accum_bytes(params.dtype);
}

// Device memory: what a launch writes and reads besides its parameters.
struct Workspace {
  Description* descriptions;
  char* partials;
  char* row_dots;
  int64_t bytes;

  Workspace(const AggregateParams& params, void* memory) {
    const int64_t described = description_bytes(params), parts = all_segments(params) * segment_bytes(params);
    descriptions = static_cast<Description*>(memory);
    partials = static_cast<char*>(memory) + described;
    row_dots = partials + parts;
    bytes = described + parts;
    if (needs_own(params)) bytes += params.num_relations * params.num_rows * accum_bytes(params.dtype);
  }
};

cudaError_t describe(const AggregateParams& params, const Workspace& memory, cudaStream_t stream) {
  char* partials = memory.partials;
  for (int64_t first = 0; first < params.num_relations; first += kDescribed) {
    Descriptions given{};
    int count = 0;
    for (int64_t r = first; r < params.num_relations && count < kDescribed; ++r, ++count) {
      const Relation& relation = params.relations[r];
      const int64_t segments = segments_of(params, relation);
      given.at[count] = {
          relation.offsets,
          relation.columns,
          relation.edges,
          relation.weights,
          relation.grad_weights,
          relation.coefficient,
          params.matrices[relation.matrix].data,
          relation.grad_coefficient ? memory.row_dots + r * params.num_rows * accum_bytes(params.dtype) : nullptr,
          segments > 0 ? partials : nullptr,
          segments};
      partials += segments * segment_bytes(params);
    }
    CUDA_LAUNCH(describe_kernel, dim3(1), dim3(kDescribed), 0, stream, given, memory.descriptions + first, count);
    if (cudaError_t e = cudaGetLastError()) return e;
  }
  return cudaSuccess;
}

template <class E, class I, bool wide, bool with_own>
cudaError_t launch(const RowJob& job, int64_t segments, cudaStream_t stream) {
  // The dots of an edge are added up by one warp, one part of the width after the other.
  const int64_t parts = with_own || job.width == 0 ? 1 : Share<E, wide>::stored(job.width) / Share<E, wide>::columns;
  const int64_t y = parts < kLargestGridY ? parts : kLargestGridY;
  if (segments > 0) {
    CUDA_LAUNCH((segment_kernel<E, I, wide, with_own>), grid_of((segments + kWarps - 1) / kWarps, y), dim3(kThreads), 0,
                stream, job);
    if (cudaError_t e = cudaGetLastError()) return e;
  }
  CUDA_LAUNCH((aggregate_kernel<E, I, wide, with_own>), grid_of((job.num_rows + kWarps - 1) / kWarps, y),
              dim3(kThreads), 0, stream, job);
  return cudaGetLastError();
}

template <class E, class I>
cudaError_t launch(const RowJob& job, int64_t segments, bool wide, bool with_own, cudaStream_t stream) {
  if (wide)
    return with_own ? launch<E, I, true, true>(job, segments, stream)
                    : launch<E, I, true, false>(job, segments, stream);
  return with_own ? launch<E, I, false, true>(job, segments, stream)
                  : launch<E, I, false, false>(job, segments, stream);
}

template <class E>
cudaError_t launch(const RowJob& job, Index index, int64_t segments, bool wide, bool with_own, cudaStream_t stream) {
  return index == Index::i32 ? launch<E, int32_t>(job, segments, wide, with_own, stream)
                             : launch<E, int64_t>(job, segments, wide, with_own, stream);
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

int64_t aggregate_workspace(const AggregateParams& params) { return Workspace(params, nullptr).bytes; }

cudaError_t aggregate_cuda(const AggregateParams& params, void* workspace, cudaStream_t stream) {
  const Workspace memory(params, workspace);
  const bool own = needs_own(params), wide = aligned(params);
  const int64_t segments = all_segments(params);
  if (params.num_rows > 0) {
    if (cudaError_t e = describe(params, memory, stream)) return e;
    const RowJob rows{memory.descriptions, params.num_relations, params.num_rows, params.width,
                      params.stacked,      params.out,           params.own};
    cudaError_t error = cudaErrorInvalidValue;
    switch (params.dtype) {
      case Dtype::f32:
        error = launch<float>(rows, params.index, segments, wide, own, stream);
        break;
      case Dtype::f64:
        error = launch<double>(rows, params.index, segments, wide, own, stream);
        break;
      case Dtype::bf16:
        error = launch<__nv_bfloat16>(rows, params.index, segments, wide, own, stream);
        break;
      case Dtype::f16:
        error = launch<__half>(rows, params.index, segments, wide, own, stream);
        break;
    }
    if (error != cudaSuccess) return error;
  }
  if (!own) return cudaSuccess;
  return params.dtype == Dtype::f64 ? sum_rows<double>(params, memory.row_dots, stream)
                                    : sum_rows<float>(params, memory.row_dots, stream);
}

}  // namespace vlmadapt::hetero_aggregate
