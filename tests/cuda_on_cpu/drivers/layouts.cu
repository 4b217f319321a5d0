// One warp each. mma pointers: a[32][4], b[32][2], c[32][4], d[32][4]; ldmatrix and tf32 pointers: in, out.
#include "kernels/layouts.cuh"

template <class T>
static int run_mma(void* const* p) {
  CUDA_LAUNCH((layouts::mma_kernel<T>), dim3(1), dim3(32), 0, 0, static_cast<const uint32_t*>(p[0]),
              static_cast<const uint32_t*>(p[1]), static_cast<const float*>(p[2]), static_cast<float*>(p[3]));
  return cudaGetLastError();
}

template <bool transposed>
static int run_ldmatrix(void* const* p) {
  CUDA_LAUNCH((layouts::ldmatrix_kernel<transposed>), dim3(1), dim3(32), 0, 0, static_cast<const uint16_t*>(p[0]),
              static_cast<uint32_t*>(p[1]));
  return cudaGetLastError();
}

extern "C" {
int mma_bf16(const int64_t*, void* const* p) { return run_mma<__nv_bfloat16>(p); }
int mma_f16(const int64_t*, void* const* p) { return run_mma<__half>(p); }
int mma_tf32(const int64_t*, void* const* p) { return run_mma<float>(p); }
int ldmatrix(const int64_t*, void* const* p) { return run_ldmatrix<false>(p); }
int ldmatrix_transposed(const int64_t*, void* const* p) { return run_ldmatrix<true>(p); }
int tf32(const int64_t*, void* const* p) {
  CUDA_LAUNCH(layouts::tf32_kernel, dim3(1), dim3(32), 0, 0, static_cast<const float*>(p[0]),
              static_cast<uint32_t*>(p[1]));
  return cudaGetLastError();
}
}
