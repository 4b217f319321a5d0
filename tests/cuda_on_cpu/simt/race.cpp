// The race build: our own __tsan_* functions, called by code compiled with -fsanitize=thread, keep for each pair of
// bytes its last writer and two readers, and report accesses that no barrier or __syncwarp orders, and reads of
// shared memory that this block has not written. Outside this build the note_* functions are empty.
#include "runtime.h"

#ifndef SIMT_RACE
namespace simt {
void note_issue(void*, size_t) {}
void note_atomic(void*, size_t) {}
void note_write(void*, size_t) {}
void note_read(const void*, size_t) {}
}  // namespace simt
#else
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];  // static shared memory lives here

namespace simt {
namespace {

constexpr uint32_t kAtomicBit = 0x80000000u;
struct Access {
  uint32_t epoch, warp_epoch, thread, pc;  // thread: linear index, plus kAtomicBit
};
struct Cell {
  Access write, read1, read2;
};

constexpr uintptr_t kGranule = 2, kPageBytes = 4096;
std::map<uintptr_t, Cell*> pages;
uintptr_t last_page = ~0ull;
Cell* last_cells = nullptr;
std::set<uint64_t> told;

Dl_info this_library() {
  Dl_info info;
  dladdr(reinterpret_cast<void*>(&launch_raw), &info);
  return info;
}
const uintptr_t library_base = reinterpret_cast<uintptr_t>(this_library().dli_fbase);

std::string where(uint32_t pc) {
  char command[600];
  snprintf(command, sizeof command, "addr2line -Cse '%s' %x", this_library().dli_fname, pc - 1);
  std::string out;
  if (FILE* pipe = popen(command, "r")) {
    char buffer[256];
    while (fgets(buffer, sizeof buffer, pipe)) out += buffer;
    pclose(pipe);
  }
  while (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

Cell* cell(uintptr_t address) {
  const uintptr_t page = address / kPageBytes;
  if (page != last_page) {
    Cell*& cells = pages[page];
    if (!cells) cells = static_cast<Cell*>(calloc(kPageBytes / kGranule, sizeof(Cell)));
    last_page = page;
    last_cells = cells;
  }
  return last_cells + address % kPageBytes / kGranule;
}

// True when nothing orders `past` before the running thread's access of now.
bool unordered(const Access& past, const Fiber* me, bool shared) {
  const uint32_t thread = past.thread & ~kAtomicBit;
  if (past.epoch < machine.launch_epoch) return false;
  if (past.epoch < machine.block_epoch) return !shared;  // another block of this launch
  if (thread == me->linear || past.epoch < machine.epoch) return false;
  return !(thread / 32 == me->warp && past.warp_epoch < machine.warps[me->warp].epoch);
}

// Each pair of places is told once a process; a launch that meets it again ends there.
bool first_time(uint64_t key) {
  if (told.insert(key).second) return true;
  if (machine.fault.empty()) machine.fault = "a race or uninitialised read that an earlier launch reported";
  machine.failed = true;
  return false;
}

void race(const char* kind, uintptr_t address, const Access& past, const Access& now, bool shared) {
  if (!first_time(static_cast<uint64_t>(past.pc) << 32 | now.pc)) return;
  report("%s race on %s memory %p: this access at %s; thread %u of %s block at %s", kind, shared ? "shared" : "global",
         reinterpret_cast<void*>(address), where(now.pc).c_str(), past.thread & ~kAtomicBit,
         past.epoch < machine.block_epoch ? "another" : "this", where(past.pc).c_str());
}

void access(uintptr_t address, size_t bytes, bool write, bool atomic, void* pc, bool check_only = false) {
  Fiber* me = self();
  if (!me || in_fiber_memory(address)) return;
  if (address - reinterpret_cast<uintptr_t>(&g) < sizeof g || address - reinterpret_cast<uintptr_t>(me) < sizeof(Lane))
    return;
  const bool dynamic = address - reinterpret_cast<uintptr_t>(g.dynamic_shared) < g.dynamic_bytes;
  const bool fixed = address >= reinterpret_cast<uintptr_t>(__bss_start) && address < reinterpret_cast<uintptr_t>(_end);
  const bool shared = dynamic || fixed;
  const Access now{machine.epoch, machine.warps[me->warp].epoch, me->linear | (atomic ? kAtomicBit : 0),
                   static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pc) - library_base)};
  const uintptr_t end = address + bytes;
  for (uintptr_t a = address - address % kGranule; a < end; a += kGranule) {
    Cell* c = cell(a);
    if (!write) {
      if (shared && c->write.epoch < machine.block_epoch && first_time(1ull << 63 | now.pc))
        report("read of uninitialised shared memory %p at %s", reinterpret_cast<void*>(a), where(now.pc).c_str());
      if (unordered(c->write, me, shared)) race("read-after-write", a, c->write, now, shared);
      (unordered(c->read1, me, shared) ? c->read2 : c->read1) = now;
      continue;
    }
    const bool both_atomic = atomic && (c->write.thread & kAtomicBit);
    if (!both_atomic && unordered(c->write, me, shared)) race("write-after-write", a, c->write, now, shared);
    if (unordered(c->read1, me, shared)) race("write-after-read", a, c->read1, now, shared);
    if (unordered(c->read2, me, shared)) race("write-after-read", a, c->read2, now, shared);
    if (!check_only) {
      c->write = now;
      c->read1 = c->read2 = Access{};
    }
  }
}
}  // namespace

#define SIMT_CALLER __builtin_return_address(0)
void note_issue(void* p, size_t n) { access(reinterpret_cast<uintptr_t>(p), n, true, false, SIMT_CALLER, true); }
void note_atomic(void* p, size_t n) { access(reinterpret_cast<uintptr_t>(p), n, true, true, SIMT_CALLER); }
void note_write(void* p, size_t n) { access(reinterpret_cast<uintptr_t>(p), n, true, false, SIMT_CALLER); }
void note_read(const void* p, size_t n) { access(reinterpret_cast<uintptr_t>(p), n, false, false, SIMT_CALLER); }

}  // namespace simt

#define SIMT_TSAN(name, bytes, write) \
  void name(void* p) { simt::access(reinterpret_cast<uintptr_t>(p), bytes, write, false, __builtin_return_address(0)); }
#define SIMT_TSAN_SIZE(bytes)                           \
  SIMT_TSAN(__tsan_read##bytes, bytes, false)           \
  SIMT_TSAN(__tsan_write##bytes, bytes, true)           \
  SIMT_TSAN(__tsan_unaligned_read##bytes, bytes, false) \
  SIMT_TSAN(__tsan_unaligned_write##bytes, bytes, true)
extern "C" {
SIMT_TSAN_SIZE(1)
SIMT_TSAN_SIZE(2)
SIMT_TSAN_SIZE(4)
SIMT_TSAN_SIZE(8)
SIMT_TSAN_SIZE(16)
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_read_range(void* p, size_t n) {
  simt::access(reinterpret_cast<uintptr_t>(p), n, false, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t n) {
  simt::access(reinterpret_cast<uintptr_t>(p), n, true, false, __builtin_return_address(0));
}
}
#endif
