// Mutants that are chosen when a kernel runs, not when it is compiled: mutate.py writes these into a copy of a kernel.
//
//   a < b          becomes   a < simt::switched<7> < b           and compares with <= where mutant 7 is chosen
//   if (a)         becomes   if (simt::chosen<8>() || a)
//   __syncwarp();  becomes   (simt::chosen<9>() ? void() : __syncwarp());
//
// Precedence and types stay what they are, for the operator stands on either side of the switch. A mutant that changes
// nothing in a run is not met there: then that run need not be repeated with it.
#pragma once

namespace simt {

constexpr int kMostMutants = 4096;

}  // namespace simt

extern "C" {
inline int simt_mutant = -1;
inline unsigned char simt_met[simt::kMostMutants];
}

namespace simt {

// Not seen by the race checker: all threads of a block write the same number.
template <int id>
__attribute__((no_sanitize("thread"), no_sanitize("address"))) bool chosen(bool met = true) {
  static_assert(id < kMostMutants, "more mutants than this");
  if (met) simt_met[id] = 1;
  return id == simt_mutant;
}

template <int id>
struct Switch {};
template <int id>
inline constexpr Switch<id> switched{};

template <class A, int id>
struct Left {
  A a;
};

#define SIMT_COMPARISON(kept, changed)                           \
  template <class A, int id>                                     \
  Left<A, id> operator kept(A a, Switch<id>) {                   \
    return {a};                                                  \
  }                                                              \
  template <class A, int id, class B>                            \
  bool operator kept(Left<A, id> left, B b) {                    \
    const bool before = left.a kept b, after = left.a changed b; \
    return chosen<id>(before != after) ? after : before;         \
  }
SIMT_COMPARISON(<, <=)
SIMT_COMPARISON(<=, <)
SIMT_COMPARISON(>, <)
SIMT_COMPARISON(>=, >)
SIMT_COMPARISON(==, !=)
#undef SIMT_COMPARISON

#define SIMT_SUM(kept, changed)                                        \
  template <class A, int id>                                           \
  Left<A, id> operator kept(A a, Switch<id>) {                         \
    return {a};                                                        \
  }                                                                    \
  template <class A, int id, class B>                                  \
  auto operator kept(Left<A, id> left, B b)->decltype(left.a kept b) { \
    if (chosen<id>()) return left.a changed b;                         \
    return left.a kept b;                                              \
  }
SIMT_SUM(+, -)
SIMT_SUM(-, +)
#undef SIMT_SUM

template <class B, int id>
struct Right {
  B b;
};
template <int id, class B>
Right<B, id> operator+=(Switch<id>, B b) {
  return {b};
}
template <class A, class B, int id>
A& operator+=(A& a, Right<B, id> right) {
  if (chosen<id>()) return a = right.b;
  return a += right.b;
}

}  // namespace simt
