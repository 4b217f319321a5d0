// Cache-line aligned scratch memory. The functions live in buffer.cpp, so that files compiled for a newer
// instruction set emit no shared inline code of the standard library.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vlmadapt {

// Throws std::bad_alloc. The memory is not initialised.
void* allocate_aligned(size_t bytes);
void free_aligned(void* memory);

// Says that all of this memory is about to be written: where the system has large pages, and the memory is large, it is
// then given in few faults. A fault a 4 KB page may take longer than all there is to compute.
void expect_writes(void* memory, int64_t bytes);

// Always inlined: the same class is used by files compiled for different instruction sets, which must not share a
// symbol.
#define VLMADAPT_BUFFER_INLINE inline __attribute__((always_inline))

template <class T>
class Buffer {
 public:
  VLMADAPT_BUFFER_INLINE explicit Buffer(int64_t count)
      : data_(static_cast<T*>(allocate_aligned(static_cast<size_t>(count > 0 ? count : 1) * sizeof(T)))) {}
  VLMADAPT_BUFFER_INLINE ~Buffer() { free_aligned(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  VLMADAPT_BUFFER_INLINE T* data() { return data_; }
  VLMADAPT_BUFFER_INLINE T& operator[](int64_t i) { return data_[i]; }

 private:
  T* data_;
};

#undef VLMADAPT_BUFFER_INLINE

}  // namespace vlmadapt
