#include "common/buffer.h"

#include <new>

namespace vlmadapt {

namespace {
constexpr std::align_val_t alignment{64};
}

void* allocate_aligned(size_t bytes) { return ::operator new(bytes, alignment); }

void free_aligned(void* memory) { ::operator delete(memory, alignment); }

}  // namespace vlmadapt
