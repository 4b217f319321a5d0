// Runs a grid: blocks one after another, the threads of a block as fibers, in the order the configuration asks for.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>

#include "runtime.h"
#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

Globals g;
Config config;
Machine machine;

namespace {

// The one block barrier: who waits, and what they voted.
struct BlockBarrier {
  int arrived = 0, op = kPlain, result = 0;
  int all = 1, any = 0, count = 0;
  Site site{};
} barrier;

uint64_t random_state;
uint64_t next_random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0); }

Fiber* next_ready() {
  auto& ready = machine.ready;
  if (ready.empty()) return nullptr;
  if (config.order == kRandom) std::swap(ready[next_random() % ready.size()], ready.back());
  Fiber* f = ready.back();
  ready.pop_back();
  return f;
}

void wake(Fiber* f) {
  f->state = State::kReady;
  machine.ready.push_back(f);
}

// Wakes fibers first .. first + count - 1 that `waits` accepts; the ready list is taken from its end.
template <class Waits>
void wake_in_order(int first, int count, Waits waits) {
  for (int k = 0; k < count; ++k) {
    int i = config.order == kReverse ? k : count - 1 - k;
    Fiber* f = machine.fibers[first + i];
    if (waits(i, f)) wake(f);
  }
}

void wait_here(State s) {
  Fiber* me = self();
  if (me->state != State::kReady) me->state = s;  // kReady: woken by its own arrival
  Fiber* next = next_ready();
  if (next == me) {
    me->state = State::kRunning;
    return;
  }
  switch_to(me, next);
  if (machine.failed) throw 1;
}

void release_barrier() {
  ++machine.epoch;
  barrier.result = barrier.op == kCount ? barrier.count : barrier.op == kAnd ? barrier.all : barrier.any;
  barrier.arrived = barrier.count = barrier.any = 0;
  barrier.all = 1;
  wake_in_order(0, machine.threads, [](int, Fiber* f) { return f->state == State::kBarrier; });
}

void report_stuck() {
  std::map<std::string, int> places;
  for (int i = 0; i < machine.threads; ++i) {
    Fiber* f = machine.fibers[i];
    if (f->state == State::kDone) {
      ++places["exited"];
      continue;
    }
    const char* what = f->state == State::kBarrier ? "__syncthreads" : "a warp collective";
    ++places[std::string(what) + " at " + (f->site.file ? f->site.file : "?") + ":" + std::to_string(f->site.line)];
  }
  std::string text = "deadlock:";
  for (auto& [place, count] : places) text += " " + std::to_string(count) + " threads: " + place + ";";
  report("%s", text.c_str());
}

void start_block(uint64_t index, dim3 grid, dim3 block) {
  g.block = {unsigned(index % grid.x), unsigned(index / grid.x % grid.y), unsigned(index / grid.x / grid.y)};
  ++machine.epoch;
  machine.block_epoch = machine.epoch;
  memset(g.dynamic_shared, 0xff, g.dynamic_bytes);  // NaN in every floating type
  machine.ready.clear();
  machine.live = machine.threads;
  barrier = BlockBarrier{};
  for (size_t w = 0; w < machine.warps.size(); ++w) {
    int lanes = machine.threads - static_cast<int>(w) * 32;
    machine.warps[w] = Warp{};
    machine.warps[w].live = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    machine.warps[w].epoch = 1;
  }
  for (int i = 0; i < machine.threads; ++i) {
    Fiber* f = machine.fibers[i];
    f->linear = i;
    f->lane = i & 31;
    f->warp = i >> 5;
    f->tid = {unsigned(i % block.x), unsigned(i / block.x % block.y), unsigned(i / block.x / block.y)};
    f->open_copies.clear();
    f->copy_groups.clear();
    arm(f);
  }
  wake_in_order(0, machine.threads, [](int, Fiber*) { return true; });
}

// Block q of the schedule: identity, reversed, or an affine permutation of the grid.
struct BlockOrder {
  uint64_t count, step = 1, offset = 0;
  explicit BlockOrder(uint64_t blocks) : count(blocks) {
    if (config.order != kRandom || blocks <= 2) return;
    do step = next_random() % blocks | 1;
    while (std::gcd(step, blocks) != 1);
    offset = next_random() % blocks;
  }
  uint64_t operator()(uint64_t q) const {
    return config.order == kReverse ? count - 1 - q : (q * step + offset) % count;
  }
};

}  // namespace

void report(const char* format, ...) {
  char text[600];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (machine.fault.empty()) {
    char where[160];
    snprintf(where, sizeof where, ": block (%u,%u,%u) thread %u: ", g.block.x, g.block.y, g.block.z,
             g.current ? g.current->linear : 0);
    machine.fault = std::string(machine.kernel_name ? machine.kernel_name : "?") + where + text;
  }
  if (++machine.reports > config.max_reports) return;
  fprintf(stderr, "[simt] %s: block (%u,%u,%u) thread %u: %s\n", machine.kernel_name ? machine.kernel_name : "?",
          g.block.x, g.block.y, g.block.z, g.current ? g.current->linear : 0, text);
}

void trap(const char* what, Site s) {
  report("%s at %s:%d", what, s.file, s.line);
  machine.failed = true;
  throw 1;
}

int sync_threads(int op, int predicate, Site s) {
  Fiber* me = self();
  me->site = s;
  if (barrier.arrived == 0) {
    barrier.site = s;
    barrier.op = op;
  } else if (!same(barrier.site, s) || barrier.op != op) {
    report("barrier divergence: this thread is at %s:%d, others wait at %s:%d", s.file, s.line, barrier.site.file,
           barrier.site.line);
  }
  ++barrier.arrived;
  barrier.count += predicate != 0;
  barrier.all &= predicate != 0;
  barrier.any |= predicate != 0;
  me->state = State::kBarrier;
  if (barrier.arrived == machine.live) release_barrier();
  wait_here(State::kBarrier);
  return barrier.result;
}

void warp_collective(unsigned mask, int op, Finish finish, void* payload, const void* argument, bool fence, Site s) {
  Fiber* me = self();
  Warp& warp = machine.warps[me->warp];
  me->site = s;
  me->payload = payload;
  if (!(mask >> me->lane & 1)) report("%s:%d: lane %u is not in its own mask %08x", s.file, s.line, me->lane, mask);
  if (mask & ~warp.live)
    report("%s:%d: mask %08x names lanes that have exited or do not exist (live %08x)", s.file, s.line, mask,
           warp.live);
  mask &= warp.live;
  Collective* c = nullptr;
  for (auto& slot : warp.slots)
    if (slot.used && (slot.mask & mask)) {
      c = &slot;
      break;
    }
  if (c && (c->mask != mask || c->op != op || c->finish != finish))
    report("warp divergence: lane %u is at %s:%d (mask %08x), others wait at %s:%d (mask %08x)", me->lane, s.file,
           s.line, mask, c->site.file, c->site.line, c->mask);
  if (!c) {
    for (auto& slot : warp.slots)
      if (!slot.used) {
        c = &slot;
        break;
      }
    if (!c) trap("too many concurrent collectives of one warp", s);
    *c = Collective{mask, 0, op, finish, s, true};
  }
  c->arrived |= 1u << me->lane;
  me->state = State::kCollective;
  if (c->arrived == c->mask) {
    c->used = false;
    const int base = me->warp * 32;
    const unsigned members = c->mask;
    if (finish) {
      void* payloads[32];
      for (int i = 0; i < 32; ++i) payloads[i] = (members >> i & 1) ? machine.fibers[base + i]->payload : nullptr;
      finish(payloads, members, argument);
    }
    if (fence && members == warp.live) ++warp.epoch;
    wake_in_order(base, std::min(32, machine.threads - base), [&](int i, Fiber*) { return members >> i & 1; });
  }
  wait_here(State::kCollective);
}

void finish_fiber() {
  Fiber* me = self();
  Warp& warp = machine.warps[me->warp];
  warp.live &= ~(1u << me->lane);
  --machine.live;
  if (!machine.failed) {
    for (auto& c : warp.slots)
      if (c.used && (c.mask >> me->lane & 1))
        report("thread exits, but lanes %08x of its warp wait for it at %s:%d", c.arrived, c.site.file, c.site.line);
    bool pending = !me->open_copies.empty();
    for (auto& group : me->copy_groups) pending |= !group.empty();
    if (pending) report("thread exits with cp.async copies never waited for");
    if (barrier.arrived)
      report("thread exits while %d threads wait at __syncthreads %s:%d", barrier.arrived, barrier.site.file,
             barrier.site.line);
    if (barrier.arrived && barrier.arrived == machine.live) release_barrier();
  }
  me->state = State::kDone;
  switch_to(me, machine.failed ? nullptr : next_ready(), true);
}

const char* check_launch(dim3 grid, dim3 block, size_t shared_bytes, const void* kernel);  // cudart.cpp
void record_launch_error();                                                                // cudart.cpp

void launch_raw(dim3 grid, dim3 block, size_t shared_bytes, const void* kernel, void (*body)(void*), void* context,
                const char* name, size_t static_bytes) {
  machine.kernel_name = name;
  machine.launches.append(name).append("\n");
  machine.failed = false;
  const int reports_before = machine.reports;
  if (const char* why = check_launch(grid, block, shared_bytes, kernel)) {
    report("invalid launch: %s", why);
    record_launch_error();
    return;
  }
  machine.threads = block.x * block.y * block.z;
  machine.body = body;
  machine.body_context = context;
  reserve_fibers(machine.threads);
  g.block_dim = block;
  g.grid_dim = grid;
  shared_bytes += static_bytes;
  const size_t reserved = (shared_bytes + 127) / 128 * 128 + 128;
  char* shared = static_cast<char*>(aligned_alloc(128, reserved));
  g.dynamic_shared = shared;
  g.dynamic_bytes = shared_bytes;
#ifdef SIMT_ASAN
  __asan_poison_memory_region(shared + shared_bytes, reserved - shared_bytes);
#endif
  random_state = config.seed * 0x9E3779B97F4A7C15ull + 1;
  machine.launch_epoch = ++machine.epoch;
  machine.warps.assign((machine.threads + 31) / 32, Warp{});
  const BlockOrder order(static_cast<uint64_t>(grid.x) * grid.y * grid.z);
  for (uint64_t q = 0; q < order.count && !machine.failed; ++q) {
    start_block(order(q), grid, block);
    while (Fiber* f = next_ready()) {
      switch_to(nullptr, f);
      if (machine.failed) break;
    }
    if (!machine.failed && machine.live) {
      report_stuck();
      machine.failed = true;
    }
  }
#ifdef SIMT_ASAN
  __asan_unpoison_memory_region(shared, reserved);
#endif
  free(shared);
  g.current = nullptr;
  machine.launch_epoch = ++machine.epoch;
  if (machine.failed || machine.reports != reports_before) record_launch_error();
}

}  // namespace simt

// ---- what the Python side sets and reads ----
extern "C" void simt_configure(int order, uint64_t seed, int eager_copies) {
  simt::config.order = order;
  simt::config.seed = seed;
  simt::config.eager_copies = eager_copies != 0;
  simt::machine.fault.clear();
  simt::machine.launches.clear();
  simt::machine.reports = 0;
}
extern "C" const char* simt_fault() { return simt::machine.fault.c_str(); }
extern "C" const char* simt_launches() { return simt::machine.launches.c_str(); }
