// Every planted bug runs as one block of 64 threads; pointers: in[64], out[64].
#include "kernels/bugs.cuh"

#define BUG(name, shared_bytes)                                                                  \
  extern "C" int bug_##name(const int64_t*, void* const* p) {                                    \
    CUDA_LAUNCH(bugs::name, dim3(1), dim3(64), shared_bytes, 0, static_cast<const float*>(p[0]), \
                static_cast<float*>(p[1]));                                                      \
    return cudaGetLastError();                                                                   \
  }

BUG(uninitialised_shared, 0)
BUG(static_shared_overrun, 0)
BUG(dynamic_shared_overrun, 256)
BUG(global_overrun, 0)
BUG(global_overread, 0)
BUG(missing_barrier, 0)
BUG(missing_second_barrier, 0)
BUG(divergent_barrier, 0)
BUG(early_return, 0)
BUG(partial_mask, 0)
BUG(shuffle_from_outside, 0)
BUG(copy_without_wait, 256)
BUG(copy_wait_without_barrier, 256)
BUG(copy_into_a_tile_in_use, 256)
BUG(missing_syncwarp, 0)
BUG(unsynchronised_sum, 0)
BUG(misaligned_vector, 0)
BUG(correct_reversal, 256)
BUG(correct_syncwarp, 0)
