// How the chunked route cuts its work: so many queries and so many keys at a time that the products of a chunk, written
// by one kernel and read by the next, take so many bytes. See cuda.h for their number.
#pragma once

#include "cache_retrieval/launch.h"
#include "cache_retrieval_chunked/cuda.h"

namespace vlmadapt::cache_retrieval {

constexpr int64_t kKeysOfABlock = 128;  // of the kernel that makes gradients; a chunk has whole blocks

struct Chunks {
  int64_t queries, keys;  // at once
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// A pair of a query and a key takes `pair_bytes`, and each query besides them `query_bytes`, in a matrix of its own.
inline Chunks chunks_of(int64_t num_queries, int64_t num_keys, int64_t pair_bytes, int64_t query_bytes,
                        const Limits& limits) {
  constexpr int64_t warp = 32;
  int64_t queries = limits.queries;
  if (query_bytes > 0) queries = smaller(queries, limits.bytes / query_bytes / warp * warp);
  queries = smaller(queries < warp ? warp : queries, num_queries < 1 ? 1 : num_queries);
  int64_t most = limits.bytes / (queries * pair_bytes) / kKeysOfABlock * kKeysOfABlock;
  if (most < kKeysOfABlock) most = kKeysOfABlock;
  const int64_t even = divide_up(num_keys, divide_up(num_keys < 1 ? 1 : num_keys, most));
  return {queries, smaller(divide_up(even, kKeysOfABlock) * kKeysOfABlock, num_keys)};
}

// Matrices one behind the other in scratch memory, each on a boundary that any load may use.
class Layout {
 public:
  // Where a matrix of so many bytes begins.
  int64_t add(int64_t bytes) {
    const int64_t start = bytes_;
    bytes_ += divide_up(bytes, 256) * 256;
    return start;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

inline void* moved(void* data, int64_t bytes) { return static_cast<char*>(data) + bytes; }
inline const void* moved(const void* data, int64_t bytes) { return static_cast<const char*>(data) + bytes; }

}  // namespace vlmadapt::cache_retrieval
