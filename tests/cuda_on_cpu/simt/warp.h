// Barriers, shuffles, votes and warp reductions under CUDA's own names.
#pragma once

inline void __syncthreads(SIMT_SITE) { simt::sync_threads(simt::kPlain, 0, SIMT_HERE); }
inline int __syncthreads_count(int p, SIMT_SITE) { return simt::sync_threads(simt::kCount, p, SIMT_HERE); }
inline int __syncthreads_and(int p, SIMT_SITE) { return simt::sync_threads(simt::kAnd, p, SIMT_HERE); }
inline int __syncthreads_or(int p, SIMT_SITE) { return simt::sync_threads(simt::kOr, p, SIMT_HERE); }

inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_SITE) {
  char nothing;
  simt::warp_collective(mask, simt::kSyncWarp, nullptr, &nothing, nullptr, true, SIMT_HERE);
}

namespace simt {

template <class T>
struct ShufflePayload {
  T in, out;
  int source;  // -1: out of the segment, the lane keeps its own value
};

template <class T>
void finish_shuffle(void** payload, unsigned mask, const void*) {
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    auto* mine = static_cast<ShufflePayload<T>*>(payload[i]);
    if (mine->source >= 0 && !(mask >> mine->source & 1)) {
      report("shuffle: lane %d reads lane %d, which is not in mask %08x", i, mine->source, mask);
      memset(static_cast<void*>(&mine->out), 0xff, sizeof(T));
    } else {
      mine->out = static_cast<ShufflePayload<T>*>(payload[mine->source < 0 ? i : mine->source])->in;
    }
  }
}

template <class T>
T shuffle(unsigned mask, T value, int source, Site site) {
  ShufflePayload<T> payload{value, value, source};
  warp_collective(mask, kShuffle, &finish_shuffle<T>, &payload, nullptr, false, site);
  return payload.out;
}

inline int segment_start(int width) { return lane() & ~(width - 1); }

struct VotePayload {
  int predicate;
  unsigned out;
};

inline void finish_vote(void** payload, unsigned mask, const void*) {
  unsigned ballot = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) ballot |= unsigned(static_cast<VotePayload*>(payload[i])->predicate != 0) << i;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) static_cast<VotePayload*>(payload[i])->out = ballot;
}

inline unsigned ballot(unsigned mask, int predicate, Site site) {
  VotePayload payload{predicate, 0};
  warp_collective(mask, kVote, &finish_vote, &payload, nullptr, false, site);
  return payload.out;
}

template <class T>
struct ReducePayload {
  T in, out;
};

template <class T, class F>
T reduce(unsigned mask, T value, F, Site site) {
  ReducePayload<T> payload{value, value};
  warp_collective(
      mask, kReduce,
      [](void** lanes, unsigned members, const void*) {
        bool first = true;
        T total{};
        for (int i = 0; i < 32; ++i) {
          if (!(members >> i & 1)) continue;
          T x = static_cast<ReducePayload<T>*>(lanes[i])->in;
          total = first ? x : F{}(total, x);
          first = false;
        }
        for (int i = 0; i < 32; ++i)
          if (members >> i & 1) static_cast<ReducePayload<T>*>(lanes[i])->out = total;
      },
      &payload, nullptr, false, site);
  return payload.out;
}

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
  return simt::shuffle(mask, value, simt::segment_start(width) | (source & (width - 1)), SIMT_HERE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_SITE) {
  int source = simt::lane() ^ bits;
  return simt::shuffle(mask, value, source >= simt::segment_start(width) + width ? -1 : source, SIMT_HERE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  int source = simt::lane() + static_cast<int>(delta);
  return simt::shuffle(mask, value, source >= simt::segment_start(width) + width ? -1 : source, SIMT_HERE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  int source = simt::lane() - static_cast<int>(delta);
  return simt::shuffle(mask, value, source < simt::segment_start(width) ? -1 : source, SIMT_HERE);
}
inline unsigned __ballot_sync(unsigned mask, int p, SIMT_SITE) { return simt::ballot(mask, p, SIMT_HERE); }
inline int __any_sync(unsigned mask, int p, SIMT_SITE) { return simt::ballot(mask, p, SIMT_HERE) != 0; }
inline int __all_sync(unsigned mask, int p, SIMT_SITE) { return simt::ballot(mask, p, SIMT_HERE) == mask; }
inline int __reduce_add_sync(unsigned mask, int v, SIMT_SITE) { return simt::reduce(mask, v, simt::Add{}, SIMT_HERE); }
inline int __reduce_max_sync(unsigned mask, int v, SIMT_SITE) { return simt::reduce(mask, v, simt::Max{}, SIMT_HERE); }
inline int __reduce_min_sync(unsigned mask, int v, SIMT_SITE) { return simt::reduce(mask, v, simt::Min{}, SIMT_HERE); }
