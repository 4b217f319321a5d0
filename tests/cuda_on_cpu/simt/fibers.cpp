// Stacks with guard pages, and the switch between them (announced to ASan in that build).
#include <sys/mman.h>

#include <cstring>
#include <exception>
#include <new>

#include "runtime.h"
#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef SIMT_UCONTEXT
extern "C" void simt_switch(void** save, void* to);
asm(R"(.text
.p2align 4
.globl simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
)");
#endif

namespace simt {

namespace {
constexpr size_t kPage = 4096;
char* arena = nullptr;
size_t arena_bytes = 0, stack_bytes = 0;
#ifdef SIMT_UCONTEXT
ucontext_t scheduler_context;
#else
void* scheduler_stack_pointer = nullptr;
#endif
#ifdef SIMT_ASAN
const void* scheduler_bottom = nullptr;
size_t scheduler_size = 0;
bool first_entry = true;
#endif

void entry() {
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, first_entry ? &scheduler_bottom : nullptr,
                                  first_entry ? &scheduler_size : nullptr);
  first_entry = false;
#endif
  try {
    machine.body(machine.body_context);
  } catch (std::exception& e) {
    report("exception: %s", e.what());
    machine.failed = true;
  } catch (int) {  // thrown by trap() and by waits of a launch that has failed
    machine.failed = true;
  }
  finish_fiber();
  __builtin_trap();
}
}  // namespace

void reserve_fibers(int threads) {
  if (threads <= static_cast<int>(machine.fibers.size()) && stack_bytes == config.stack_bytes) return;
  for (auto* f : machine.fibers) {
    delete f->context;
    delete f;
  }
  machine.fibers.clear();
  if (arena) munmap(arena, arena_bytes);
  const int capacity = threads < 1024 ? 1024 : threads;
  stack_bytes = config.stack_bytes;
  arena_bytes = (stack_bytes + kPage) * capacity;
  arena = static_cast<char*>(
      mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (int i = 0; i < capacity; ++i) {
    auto* f = new Fiber{};
    char* guard = arena + (stack_bytes + kPage) * i;
    mprotect(guard, kPage, PROT_NONE);
    f->stack = guard + kPage;
#ifdef SIMT_UCONTEXT
    f->context = new ucontext_t;
#endif
    machine.fibers.push_back(f);
  }
}

bool in_fiber_memory(uintptr_t address) { return address - reinterpret_cast<uintptr_t>(arena) < arena_bytes; }

void arm(Fiber* f) {
#ifdef SIMT_ASAN
  __asan_unpoison_memory_region(f->stack, stack_bytes);
#endif
#ifdef SIMT_UCONTEXT
  getcontext(f->context);
  f->context->uc_stack.ss_sp = f->stack;
  f->context->uc_stack.ss_size = stack_bytes;
  f->context->uc_link = nullptr;
  makecontext(f->context, entry, 0);
#else
  // The offset spreads the hot lines of the stacks over cache sets.
  auto** top = reinterpret_cast<void**>(f->stack + stack_bytes - 64 - (f->linear % 61) * 192);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&entry);
  top -= 6;  // the six registers that simt_switch restores
  memset(top, 0, 6 * sizeof(void*));
  f->stack_pointer = top;
#endif
}

void switch_to(Fiber* from, Fiber* to, bool dying) {
  g.current = to;
  if (to) to->state = State::kRunning;
#ifdef SIMT_ASAN
  void* fake = nullptr;
  if (to)
    __sanitizer_start_switch_fiber(dying ? nullptr : &fake, to->stack, stack_bytes);
  else
    __sanitizer_start_switch_fiber(dying ? nullptr : &fake, scheduler_bottom, scheduler_size);
#else
  (void)dying;
#endif
#ifdef SIMT_UCONTEXT
  swapcontext(from ? from->context : &scheduler_context, to ? to->context : &scheduler_context);
#else
  simt_switch(from ? &from->stack_pointer : &scheduler_stack_pointer, to ? to->stack_pointer : scheduler_stack_pointer);
#endif
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

}  // namespace simt
