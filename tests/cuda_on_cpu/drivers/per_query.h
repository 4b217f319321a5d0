// A number a query, as the drivers are told it: its values, one value for all, or a number.
#pragma once

#include <cstring>

#include "cache_retrieval/kernel.h"

// `bits`: of a double, the number where there are no values.
inline vlmadapt::cache_retrieval::PerQuery per_query(const void* values, int64_t bits, bool one_for_all) {
  vlmadapt::cache_retrieval::PerQuery x{values, one_for_all ? 0 : 1};
  memcpy(&x.same, &bits, sizeof bits);
  return x;
}
