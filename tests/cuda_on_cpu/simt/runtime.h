// Inside of the runtime: fibers, warps and the state shared by scheduler.cpp, fibers.cpp, copies.cpp and race.cpp.
#pragma once
#include <cuda_runtime.h>
#include <ucontext.h>

#include <string>
#include <vector>

#include "core.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#endif
#if !defined(__x86_64__)
#define SIMT_UCONTEXT 1  // portable, and about five times slower than the switch written for x86-64
#endif

namespace simt {

enum class State : uint8_t { kReady, kRunning, kBarrier, kCollective, kDone };

struct Copy {
  void* destination;
  const void* source;
  size_t bytes, source_bytes;
};

struct Fiber : Lane {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  State state = State::kReady;
  Site site{};
  void* payload = nullptr;
  std::vector<Copy> open_copies;               // issued, not yet committed
  std::vector<std::vector<Copy>> copy_groups;  // committed, not yet waited for
  ucontext_t* context = nullptr;
};

struct Collective {
  unsigned mask, arrived;
  int op;
  Finish finish;
  Site site;
  bool used;
};

struct Warp {
  Collective slots[4];
  unsigned live;
  uint32_t epoch;  // counts the memory-ordering collectives of this warp
};

struct Machine {
  std::vector<Fiber*> fibers, ready;
  std::vector<Warp> warps;
  int threads = 0, live = 0;
  bool failed = false;
  std::string fault;
  int reports = 0;
  const char* kernel_name = nullptr;
  std::string launches;  // names since simt_configure, a line each
  void (*body)(void*) = nullptr;
  void* body_context = nullptr;
  // Epochs count block barriers; what happened in an earlier one is ordered before now.
  uint32_t epoch = 1, launch_epoch = 1, block_epoch = 1;
};
extern Machine machine;

inline Fiber* self() { return static_cast<Fiber*>(g.current); }

// fibers.cpp
void reserve_fibers(int threads);
void arm(Fiber*);                                            // next switch to it starts the kernel's body
void switch_to(Fiber* from, Fiber* to, bool dying = false);  // null: the scheduler's own stack
bool in_fiber_memory(uintptr_t address);
void finish_fiber();  // scheduler.cpp: what a thread does when its body has returned

}  // namespace simt
