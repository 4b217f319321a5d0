// Chooses instantiations for the kernels of forward.cuh, flash_forward.cuh and backward.cuh, and launches them.
#include "common/multiprocessors.h"
#include "p_laplacian/backward.cuh"
#include "p_laplacian/cuda.h"
#include "p_laplacian/flash_forward.cuh"
#include "p_laplacian/flash_route.h"

namespace vlmadapt::p_laplacian {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t owned_rows(Dtype dtype) { return dtype == Dtype::f64 ? kOwned<double> : kOwned<float>; }
int64_t accumulator_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }

// How a pass is cut: tiles of owned rows, and the parts of the other side, of `share` rows each.
struct Cut {
  int64_t tiles, parts, share;

  // Two blocks a multiprocessor, of which one computes while the other waits, or fewer where the owners alone are as
  // many, or the tiles of the other side too few. Depends on the device, not on its load.
  Cut(const Problem& p, int64_t owners, int64_t others, int64_t processors = multiprocessors())
      : tiles(divide_up(owners, owned_rows(p.dtype))) {
    const int64_t blocks = p.batch * p.heads * tiles, most = divide_up(others, kOthers);
    const int64_t wanted = blocks > 0 ? 2 * processors / blocks : 1;
    parts = wanted < most ? wanted : most;
    parts = parts > 1 ? parts : 1;
    share = divide_up(most, parts) * kOthers;
    if (parts > 1) parts = divide_up(others, share);  // no empty last part
  }
  static Cut of_queries(const Problem& p) { return Cut(p, p.num_queries, p.num_keys); }
  static Cut of_keys(const Problem& p) { return Cut(p, p.num_keys, p.num_queries); }
};

template <class E, bool from_scores, int columns>
cudaError_t launch_flash(const ForwardParams& f, const Cut& cut, void* workspace, cudaStream_t stream) {
  constexpr int shared = flash_forward_shared_bytes<E, from_scores, columns>();
  if (cudaError_t e = allow_shared_memory(flash_forward_kernel<E, from_scores, columns>, shared)) return e;
  CUDA_LAUNCH((flash_forward_kernel<E, from_scores, columns>),
              grid_of(f.problem.batch * f.problem.heads * cut.tiles, cut.parts), dim3(kThreads), shared, stream, f,
              cut.tiles, cut.share, workspace);
  return cudaGetLastError();
}

// All of the forward but the merging of parts; without a workspace there is one.
template <class E, bool from_scores>
cudaError_t launch_walk(const ForwardParams& f, const Cut& cut, void* workspace, cudaStream_t stream) {
  const Problem& p = f.problem;
  if constexpr (sizeof(E) == 2) {
    if (takes_flash(p)) {
      const bool narrow =
          p.features <= 64 && (!from_scores || (p.width <= 64 && (!p.has_value || p.value_width <= 64)));
      return narrow ? launch_flash<E, from_scores, 64>(f, cut, workspace, stream)
                    : launch_flash<E, from_scores, 128>(f, cut, workspace, stream);
    }
  }
  const int shared = forward_shared_bytes<Accumulator<E>>(from_scores && p.has_value);
  if (cudaError_t e = allow_shared_memory(forward_kernel<E, from_scores>, shared)) return e;
  CUDA_LAUNCH((forward_kernel<E, from_scores>), grid_of(p.batch * p.heads * cut.tiles, cut.parts), dim3(kThreads),
              shared, stream, f, cut.tiles, cut.share, workspace);
  return cudaGetLastError();
}

template <class E, bool from_scores>
cudaError_t launch_forward(const ForwardParams& f, void* workspace, cudaStream_t stream) {
  const Problem& p = f.problem;
  const Cut cut = Cut::of_queries(p);
  const int64_t heads = p.batch * p.heads;
  if (cudaError_t e = launch_walk<E, from_scores>(f, cut, cut.parts > 1 ? workspace : nullptr, stream)) return e;
  if (cut.parts == 1) return cudaSuccess;
  CUDA_LAUNCH((merge_kernel<E, from_scores>), grid_of(divide_up(heads * p.num_queries, kGroups)), dim3(kThreads), 0,
              stream, f, cut.share, workspace, cut.parts);
  return cudaGetLastError();
}

// The parts of the results of a pass, in scratch memory one after another.
class Partial {
 public:
  Partial(const BackwardParams& b, const Cut& cut, void* memory)
      : parts_(cut.parts), bytes_(accumulator_bytes(b.problem.dtype)), next_(static_cast<char*>(memory)) {}

  // `result` itself, or the place of its parts; `count` is of its elements.
  void* of(void* result, int64_t count) {
    if (!result || parts_ == 1) return result;
    void* place = next_;
    results_[number_++] = {place, result, count};
    most_ = count > most_ ? count : most_;
    next_ += parts_ * count * bytes_;
    return place;
  }

  template <class T>
  cudaError_t sum(cudaStream_t stream) const {
    if (number_ == 0) return cudaSuccess;
    const int64_t blocks = divide_up(most_, 256);
    CUDA_LAUNCH(sum_kernel<T>, grid_of(blocks < 4096 ? blocks : 4096, number_), dim3(256), 0, stream, results_[0],
                results_[1], results_[2], parts_);
    return cudaGetLastError();
  }

 private:
  PartialResult results_[3]{};
  int number_ = 0;
  int64_t parts_, bytes_, most_ = 1;
  char* next_;
};

// Elements that the parts of a pass take.
int64_t partial_elements(const BackwardParams& b, bool queries_own) {
  const Problem& p = b.problem;
  const Cut cut = queries_own ? Cut::of_queries(p) : Cut::of_keys(p);
  if (cut.parts == 1) return 0;
  const int64_t rows = p.batch * p.heads * (queries_own ? p.num_queries : p.num_keys);
  int64_t columns = p.features;
  if (queries_own ? b.grad_query : b.grad_key) columns += p.width;
  if (!queries_own && b.grad_value) columns += p.value_width;
  return cut.parts * rows * columns;
}

int64_t most_partial_elements(const BackwardParams& b) {
  const int64_t of_queries = partial_elements(b, true), of_keys = partial_elements(b, false);
  return of_queries > of_keys ? of_queries : of_keys;
}

// The workspace: the parts, which are aligned there, and what belongs to queries.
void* scratch_of(const BackwardParams& b, void* workspace) {
  return static_cast<char*>(workspace) + most_partial_elements(b) * accumulator_bytes(b.problem.dtype);
}

template <class E, bool from_scores, bool queries_own>
cudaError_t launch_backward(const BackwardParams& b, void* parts, void* scratch, cudaStream_t stream) {
  using T = Accumulator<E>;
  constexpr int shared = backward_shared_bytes<T>();
  if (cudaError_t e = allow_shared_memory(backward_kernel<E, from_scores, queries_own>, shared)) return e;
  const Problem& p = b.problem;
  const Cut cut = queries_own ? Cut::of_queries(p) : Cut::of_keys(p);
  if (cut.tiles == 0) return cudaSuccess;
  const int64_t heads = p.batch * p.heads, rows = heads * (queries_own ? p.num_queries : p.num_keys);
  BackwardParams part = b;
  Partial partial(b, cut, parts);
  if (queries_own) {
    part.grad_x_query = partial.of(b.grad_x_query, rows * p.features);
    part.grad_query = partial.of(b.grad_query, rows * p.width);
  } else {
    part.grad_x_value = partial.of(b.grad_x_value, rows * p.features);
    part.grad_key = partial.of(b.grad_key, rows * p.width);
    part.grad_value = partial.of(b.grad_value, rows * p.value_width);
  }
  CUDA_LAUNCH((backward_kernel<E, from_scores, queries_own>), grid_of(heads * cut.tiles, cut.parts), dim3(kThreads),
              shared, stream, part, scratch, cut.tiles, cut.share);
  if (cudaError_t e = cudaGetLastError()) return e;
  return partial.sum<T>(stream);
}

template <class E, bool from_scores>
cudaError_t backward(const BackwardParams& b, void* workspace, cudaStream_t stream) {
  using T = Accumulator<E>;
  const Problem& p = b.problem;
  void* scratch = scratch_of(b, workspace);
  const int64_t rows = p.batch * p.heads * p.num_queries;
  if (rows > 0) {
    CUDA_LAUNCH(prepare_kernel<E>, grid_of(divide_up(rows, 256)), dim3(256), 0, stream, b, scratch);
    if (cudaError_t e = cudaGetLastError()) return e;
    if (cudaError_t e = launch_backward<E, from_scores, true>(b, workspace, scratch, stream)) return e;
  }
  if (p.batch * p.heads > 0)
    if (cudaError_t e = launch_backward<E, from_scores, false>(b, workspace, scratch, stream)) return e;
  if (p.heads == 0) return cudaSuccess;
  const Cut cut = Cut::of_queries(p);
  CUDA_LAUNCH(reduce_kernel<T>, grid_of(p.heads), dim3(kThreads), kThreads * static_cast<int>(sizeof(T)), stream, b,
              scratch, cut.tiles * cut.parts);
  return cudaGetLastError();
}

template <bool from_scores>
cudaError_t forward_of(const ForwardParams& f, void* workspace, cudaStream_t stream) {
  switch (f.problem.dtype) {
    case Dtype::bf16:
      return launch_forward<__nv_bfloat16, from_scores>(f, workspace, stream);
    case Dtype::f16:
      return launch_forward<__half, from_scores>(f, workspace, stream);
    case Dtype::f64:
      return launch_forward<double, from_scores>(f, workspace, stream);
    case Dtype::f32:
      return launch_forward<float, from_scores>(f, workspace, stream);
  }
  return cudaErrorInvalidValue;
}

template <bool from_scores>
cudaError_t backward_of(const BackwardParams& b, void* workspace, cudaStream_t stream) {
  switch (b.problem.dtype) {
    case Dtype::bf16:
      return backward<__nv_bfloat16, from_scores>(b, workspace, stream);
    case Dtype::f16:
      return backward<__half, from_scores>(b, workspace, stream);
    case Dtype::f64:
      return backward<double, from_scores>(b, workspace, stream);
    case Dtype::f32:
      return backward<float, from_scores>(b, workspace, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int64_t forward_workspace(const ForwardParams& f) {
  const Problem& p = f.problem;
  const Cut cut = Cut::of_queries(p);
  if (cut.parts == 1) return 0;
  const int64_t columns = 3 + p.features + (p.has_value ? p.value_width : 0);
  return cut.parts * p.batch * p.heads * p.num_queries * columns * accumulator_bytes(p.dtype);
}

int64_t backward_workspace(const BackwardParams& b) {
  const Problem& p = b.problem;
  const int64_t heads = p.batch * p.heads;
  const Cut cut = Cut::of_queries(p);
  return (most_partial_elements(b) + heads * (p.num_queries * 5 + cut.tiles * cut.parts)) * accumulator_bytes(p.dtype);
}

cudaError_t forward_cuda(const ForwardParams& f, void* workspace, cudaStream_t stream) {
  const Problem& p = f.problem;
  if (p.batch * p.heads * p.num_queries == 0) return cudaSuccess;
  return p.from_scores ? forward_of<true>(f, workspace, stream) : forward_of<false>(f, workspace, stream);
}

cudaError_t backward_cuda(const BackwardParams& b, void* workspace, cudaStream_t stream) {
  return b.problem.from_scores ? backward_of<true>(b, workspace, stream) : backward_of<false>(b, workspace, stream);
}

}  // namespace vlmadapt::p_laplacian
