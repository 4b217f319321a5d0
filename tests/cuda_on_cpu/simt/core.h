// What one emulated CUDA thread can see, and the services of the runtime behind it.
//
// Every CUDA thread of a block is a fiber. Fibers switch at barriers and warp collectives only; one block runs at a
// time, on one operating-system thread. The runtime is scheduler.cpp (+ race.cpp in the race build); it is compiled
// without instrumentation, the kernels with whatever the build asks for.
#pragma once
#include <cstddef>
#include <cstdint>

namespace simt {

struct Lane {
  uint3 tid;
  unsigned linear, lane, warp;
};

struct Globals {  // the running block
  Lane* current;
  uint3 block;
  dim3 block_dim, grid_dim;
  void* dynamic_shared;
  size_t dynamic_bytes;
};
extern Globals g;

// Where in the kernel's source a service was asked for: taken from the caller by default arguments.
struct Site {
  const char* file;
  int line;
};
#define SIMT_SITE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define SIMT_HERE \
  simt::Site { file_, line_ }

enum Order { kSequential = 0, kReverse = 1, kRandom = 2 };

struct Config {
  int order = kSequential;
  uint64_t seed = 1;
  bool eager_copies = false;       // true: cp.async lands at once, false: only at the wait; hardware may do either
  size_t stack_bytes = 256 << 10;  // unoptimised translated kernels keep every PTX register there
  int max_reports = 20;
};
extern Config config;

// ---- faults ----
void report(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void trap(const char* what, Site);

// ---- barriers and collectives ----
enum BarrierOp { kPlain = 0, kCount = 1, kAnd = 2, kOr = 3 };
int sync_threads(int op, int predicate, Site);

// Runs `finish` once, when every lane of `mask` has arrived, with the lanes' payloads; then lets them go on.
// `fence`: orders memory among the lanes (__syncwarp does, shuffles do not).
using Finish = void (*)(void** payload, unsigned mask, const void* argument);
enum CollectiveOp { kSyncWarp = 1, kShuffle, kVote, kReduce, kMma, kLdmatrix };
void warp_collective(unsigned mask, int op, Finish, void* payload, const void* argument, bool fence, Site);

// ---- asynchronous copies ----
void cp_async(void* destination, const void* source, size_t bytes, size_t source_bytes);
void cp_commit();
void cp_wait(int groups_left);

// ---- the race checker's ears; empty outside the race build ----
void note_issue(void*, size_t);
void note_atomic(void*, size_t);
void note_write(void*, size_t);
void note_read(const void*, size_t);
void runtime_copy(void* destination, const void* source, size_t);  // never instrumented

// ---- launching ----
// Runs the grid; a fault leaves its text in simt_fault() and makes cudaGetLastError() an error. The shared memory is
// `static_bytes` (route B lays static arrays out itself) followed by `shared_bytes` of dynamic memory.
void launch_raw(dim3 grid, dim3 block, size_t shared_bytes, const void* kernel, void (*body)(void*), void* context,
                const char* name, size_t static_bytes = 0);

template <class Kernel, class... Args>
void launch(Kernel kernel, const char* name, dim3 grid, dim3 block, size_t shared_bytes, Args... args) {
  auto body = [&] { kernel(args...); };
  using Body = decltype(body);
  launch_raw(
      grid, block, shared_bytes, reinterpret_cast<const void*>(kernel),
      [](void* context) { (*static_cast<Body*>(context))(); }, &body, name);
}

inline int lane() { return static_cast<int>(g.current->lane); }

}  // namespace simt
