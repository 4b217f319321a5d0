// How a kernel asks for threads without knowing whose they are: torch's pool in the bindings, a plain loop or
// std::thread in tests. Kernels split work by problem size only, never by thread count, so that results are
// bit-identical whatever the number of threads.
#pragma once

#include <cstdint>

namespace vlmadapt {

using RangeBody = void (*)(int64_t begin, int64_t end, void* context);

struct Parallel {
  // Calls body on ranges that together cover [0, count) exactly once; returns when all are done.
  void (*run)(int64_t count, RangeBody body, void* context);
};

// Runs callable(begin, end) over [0, count).
template <class Callable>
inline void parallel_ranges(const Parallel& parallel, int64_t count, Callable& callable) {
  if (count <= 0) return;
  parallel.run(
      count, [](int64_t begin, int64_t end, void* context) { (*static_cast<Callable*>(context))(begin, end); },
      &callable);
}

}  // namespace vlmadapt
