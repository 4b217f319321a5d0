// The packed, register-tiled product against a plain triple loop, for depths around the staging block.
#define VLMADAPT_ISA baseline
#include <gtest/gtest.h>

#include <vector>

#include "common/product.h"

namespace product = vlmadapt::baseline;

template <class T>
void compare(int64_t rows, int64_t columns, int64_t width) {
  std::vector<T> a(rows * width), b(columns * width);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<T>((i * 37 % 101) / 50.0 - 1);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<T>((i * 53 % 97) / 48.0 - 1);
  const product::Panels<T> panels{columns};
  std::vector<T> packed(panels.count() * product::Simd<T>::panel * width), staged(product::staged_size(width));
  for (int64_t p = 0; p < panels.count(); ++p)
    product::pack_panel_transposed(b.data(), p * product::Simd<T>::panel,
                                   product::min_of(product::Simd<T>::panel, columns - p * product::Simd<T>::panel),
                                   width, panels.vectors(p) * product::Simd<T>::lanes,
                                   packed.data() + p * product::Simd<T>::panel * width);
  product::stage_rows<T>([&](int64_t r) { return a.data() + r * width; }, rows, width, staged.data());
  std::vector<T> tile(product::tile_rows * panels.padded(), T(-99));
  product::staged_product<T>(staged.data(), packed.data(), width, panels, tile.data(), panels.padded());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      double expected = 0;
      for (int64_t k = 0; k < width; ++k) expected += double(a[r * width + k]) * b[c * width + k];
      ASSERT_NEAR(tile[r * panels.padded() + c], expected, 1e-4) << rows << " " << columns << " " << width;
    }
}

TEST(StagedProduct, EqualsTripleLoop) {
  for (int64_t rows : {1, 5, 6})
    for (int64_t columns : {1, 3, 4, 8, 9, 17})
      for (int64_t width : {0, 1, 31, 255, 256, 257, 700}) {
        compare<float>(rows, columns, width);
        compare<double>(rows, columns, width);
      }
}
