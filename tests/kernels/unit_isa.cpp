#include <gtest/gtest.h>

#include <vector>

#include "cache_retrieval/kernel.h"
#include "common/buffer.h"
#include "common/isa.h"

using namespace vlmadapt;

TEST(Isa, NamesAreThoseOfTheEnvironmentVariable) {
  EXPECT_STREQ(isa_name(Isa::baseline), "baseline");
#define VLMADAPT_LEVEL(level, features) EXPECT_STREQ(isa_name(Isa::level), #level);
  VLMADAPT_NEWER_LEVELS(VLMADAPT_LEVEL, )
#undef VLMADAPT_LEVEL
  EXPECT_LE(static_cast<int>(active_isa()), static_cast<int>(best_isa()));
}

TEST(Buffer, IsAlignedToACacheLine) {
  for (int64_t count : {0, 1, 17, 4097}) {
    Buffer<float> buffer(count);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  }
}

TEST(ClassOrder, SortsStablyAndReportsTheFirstBadLabel) {
  const std::vector<int64_t> labels = {3, 0, 3, 1, 0};
  std::vector<int64_t> order(5), offsets(6);
  EXPECT_EQ(cache_retrieval::class_order(labels.data(), 5, 5, order.data(), offsets.data()), -1);
  EXPECT_EQ(order, (std::vector<int64_t>{1, 4, 3, 0, 2}));
  EXPECT_EQ(offsets, (std::vector<int64_t>{0, 2, 3, 3, 5, 5}));
  EXPECT_EQ(cache_retrieval::class_order(labels.data(), 5, 3, order.data(), offsets.data()), 0);
  EXPECT_EQ(cache_retrieval::class_order(labels.data(), 0, 0, order.data(), offsets.data()), -1);
}
