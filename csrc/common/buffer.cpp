#include "common/buffer.h"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vlmadapt {

namespace {
constexpr std::align_val_t alignment{64};
}

void* allocate_aligned(size_t bytes) { return ::operator new(bytes, alignment); }

void free_aligned(void* memory) { ::operator delete(memory, alignment); }

void expect_writes([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 2u << 20;
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
  // Whole pages alone, so that no memory is taken beyond. Only advice: where it is refused, all is as it was.
  if (memory != nullptr && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace vlmadapt
