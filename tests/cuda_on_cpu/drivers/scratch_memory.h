// Scratch memory of a launcher, poisoned and of the exact size: on the heap for the emulation, where ASan watches
// over it; on the device, between guards, in the library of the route "gpu".
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifdef GPU_ROUTE
#include "gpu/route.h"
#endif

class ScratchMemory {
 public:
  explicit ScratchMemory(int64_t size) : size_(size > 0 ? size : 1) {
#ifdef GPU_ROUTE
    bytes = gpu_route::allocate_guarded(size_);
#else
    bytes = malloc(size_);
    memset(bytes, 0xff, size_);
#endif
  }
  ScratchMemory(const ScratchMemory&) = delete;
  ScratchMemory& operator=(const ScratchMemory&) = delete;
  ~ScratchMemory() {
#ifdef GPU_ROUTE
    gpu_route::free_guarded(bytes, size_);
#else
    free(bytes);
#endif
  }

  void* bytes;

 private:
  int64_t size_;
};
