// Atomics: one operating-system thread runs everything, so a plain read-modify-write is one.
#pragma once

namespace simt {
template <class T, class F>
T read_modify_write(T* p, F f) {
  note_atomic(p, sizeof(T));
  T old, fresh;
  runtime_copy(&old, p, sizeof(T));
  fresh = f(old);
  runtime_copy(p, &fresh, sizeof(T));
  return old;
}
}  // namespace simt

template <class T>
T atomicAdd(T* p, std::common_type_t<T> v) {
  return simt::read_modify_write(p, [&](T old) { return T(old + v); });
}
template <class T>
T atomicMax(T* p, std::common_type_t<T> v) {
  return simt::read_modify_write(p, [&](T old) { return old > v ? old : v; });
}
template <class T>
T atomicMin(T* p, std::common_type_t<T> v) {
  return simt::read_modify_write(p, [&](T old) { return old < v ? old : v; });
}
template <class T>
T atomicExch(T* p, std::common_type_t<T> v) {
  return simt::read_modify_write(p, [&](T) { return v; });
}
template <class T>
T atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> v) {
  return simt::read_modify_write(p, [&](T old) { return old == expected ? v : old; });
}
