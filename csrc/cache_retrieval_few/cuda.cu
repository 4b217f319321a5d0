// Chooses shares and instantiations for the kernels of few.cuh, and launches them.
#include "cache_retrieval/launch.h"
#include "cache_retrieval_few/cuda.h"
#include "cache_retrieval_few/few.cuh"

namespace vlmadapt::cache_retrieval {
namespace {

// Of a block, for the queries: what sm_86 allows, the least of all.
constexpr int64_t kMostShared = 96 << 10;
// Two blocks a multiprocessor, of which one loads while the other adds up; each warp's keys are whole rounds.
constexpr int64_t kBlocksAMultiprocessor = 2, kRound = kFewWarps * kKeysAtOnce;

int64_t share_of(const ForwardParams& p) {
  const int64_t even = divide_up(p.num_entries, kBlocksAMultiprocessor * multiprocessors());
  return clamp(divide_up(even, kRound), 1, INT32_MAX) * kRound;
}

// The number of queries that a kernel is made for.
int padded_queries(int64_t queries) { return queries <= 1 ? 1 : queries <= 4 ? 4 : kMostFewQueries; }

template <class E>
int64_t shared_bytes(const ForwardParams& p) {
  return Cut<E>::shared_bytes(p.image.width, padded_queries(p.num_queries));
}

int64_t shared_bytes_of(const ForwardParams& p) {
  switch (p.dtype) {
    case Dtype::f64:
      return shared_bytes<double>(p);
    case Dtype::f32:
      return shared_bytes<float>(p);
    default:
      return shared_bytes<__half>(p);
  }
}

template <class E, int queries>
cudaError_t launch_few(const FewJob& job, cudaStream_t stream) {
  const auto shared = static_cast<int>(Cut<E>::shared_bytes(job.params.image.width, queries));
  if (cudaError_t e = allow_shared_memory(few_kernel<E, queries>, shared)) return e;
  CUDA_LAUNCH((few_kernel<E, queries>), grid_of(divide_up(job.params.num_entries, job.share)), dim3(kFewThreads),
              shared, stream, job);
  return cudaGetLastError();
}

template <class E>
cudaError_t launch(const FewJob& job, cudaStream_t stream) {
  if (job.params.num_entries > 0) {
    const int queries = padded_queries(job.params.num_queries);
    if (cudaError_t e = queries == 1   ? launch_few<E, 1>(job, stream)
                        : queries == 4 ? launch_few<E, 4>(job, stream)
                                       : launch_few<E, kMostFewQueries>(job, stream))
      return e;
  }
  CUDA_LAUNCH(finish_kernel<AccumulatorOf<E>>,
              grid_of(divide_up(job.params.num_queries * job.params.num_classes, kFewThreads)), dim3(kFewThreads), 0,
              stream, job);
  return cudaGetLastError();
}

}  // namespace

bool takes_few(const ForwardParams& p) {
  return p.num_queries >= 1 && p.num_queries <= kMostFewQueries && !p.text.queries && !p.disagreement &&
         aligned(p.image, p.dtype) && shared_bytes_of(p) <= kMostShared;
}

int64_t few_workspace(const ForwardParams& p) {
  return divide_up(p.num_entries, share_of(p)) * 2 * p.num_queries * accumulator_bytes(p.dtype);
}

cudaError_t few_forward(const ForwardParams& p, void* workspace, cudaStream_t stream) {
  const FewJob job{p, workspace, share_of(p)};
  switch (p.dtype) {
    case Dtype::bf16:
      return launch<__nv_bfloat16>(job, stream);
    case Dtype::f16:
      return launch<__half>(job, stream);
    case Dtype::f32:
      return launch<float>(job, stream);
    case Dtype::f64:
      return launch<double>(job, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace vlmadapt::cache_retrieval
