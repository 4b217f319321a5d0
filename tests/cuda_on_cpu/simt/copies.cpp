// cp.async. Hardware may write any time between issue and wait: eager copies land at once, lazy ones at the wait.
#include <cstring>

#include "runtime.h"

namespace simt {

__attribute__((noinline)) void runtime_copy(void* destination, const void* source, size_t bytes) {
  memcpy(destination, source, bytes);
}

static void perform(const Copy& c) {
  memcpy(c.destination, c.source, c.source_bytes);
  memset(static_cast<char*>(c.destination) + c.source_bytes, 0, c.bytes - c.source_bytes);
}

void cp_async(void* destination, const void* source, size_t bytes, size_t source_bytes) {
  if ((reinterpret_cast<uintptr_t>(destination) | reinterpret_cast<uintptr_t>(source)) & (bytes - 1))
    report("cp.async of %zu bytes: misaligned address", bytes);
  note_issue(destination, bytes);
  const Copy copy{destination, source, bytes, source_bytes};
  if (config.eager_copies) perform(copy);
  self()->open_copies.push_back(copy);
}

void cp_commit() {
  self()->copy_groups.push_back(std::move(self()->open_copies));
  self()->open_copies.clear();
}

void cp_wait(int groups_left) {
  auto& groups = self()->copy_groups;
  while (static_cast<int>(groups.size()) > groups_left) {
    for (auto& copy : groups.front()) {
      note_read(copy.source, copy.source_bytes);
      note_write(copy.destination, copy.bytes);
      if (!config.eager_copies) perform(copy);
    }
    groups.erase(groups.begin());
  }
}

}  // namespace simt
