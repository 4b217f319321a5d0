// Which problems the kernels that keep tiles in registers take (flash_tile.cuh); the others have no such limits.
#pragma once

#include <cstdint>

#include "p_laplacian/kernel.h"

namespace vlmadapt::p_laplacian {

constexpr int64_t flash_columns = 128;

// Whether rows of a matrix are of whole 16 bytes, and no more than fit.
inline bool flash_rows(const void* data, int64_t width, int64_t least) {
  return width >= least && width <= flash_columns && width % 8 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// Of 16-bit types.
inline bool takes_flash(const Problem& p) {
  if (p.released || !flash_rows(p.x_query, p.features, 8) || !flash_rows(p.x_value, p.features, 8)) return false;
  if (!p.from_scores) return true;
  return flash_rows(p.query, p.width, 8) && flash_rows(p.key, p.width, 8) &&
         (!p.has_value || flash_rows(p.value, p.value_width, 0));
}

}  // namespace vlmadapt::p_laplacian
