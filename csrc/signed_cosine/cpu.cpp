// Selection by a rising threshold: once k candidates are there, only what beats the weakest of them is looked at.
// Blocks of entries are first compared as a whole, which the compiler vectorises, and nearly all of them are passed
// over; a row costs about one read of it. Selecting with nth_element alone moves every entry of the row several times.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "signed_cosine/kernel.h"

namespace vlmadapt::signed_cosine {

namespace {

constexpr int64_t block = 64;

template <class T>
struct Candidate {
  T magnitude;  // infinity for NaN
  int64_t column;
};

template <class T>
bool stronger(const Candidate<T>& a, const Candidate<T>& b) {
  return a.magnitude != b.magnitude ? a.magnitude > b.magnitude : a.column < b.column;
}

template <class T>
void top_k_of_row(const TopKParams<T>& params, int64_t r, std::vector<Candidate<T>>& kept) {
  const T* row = params.tile + r * params.num_columns;
  const int64_t skipped = params.skip_diagonal ? params.first_row + r : -1;
  const auto capacity = static_cast<size_t>(4 * params.k + block);
  T threshold = -1;  // the weakest of k candidates; a later column has to beat it
  kept.clear();
  auto prune = [&] {
    std::nth_element(kept.begin(), kept.begin() + (params.k - 1), kept.end(), stronger<T>);
    threshold = kept[static_cast<size_t>(params.k - 1)].magnitude;
    kept.resize(static_cast<size_t>(params.k));
  };
  for (int64_t first = 0; first < params.num_columns; first += block) {
    const int64_t end = std::min(first + block, params.num_columns);
    int candidates = 0;
    for (int64_t j = first; j < end; ++j) candidates |= !(std::abs(row[j]) <= threshold);
    if (!candidates) continue;
    for (int64_t j = first; j < end; ++j) {
      const T magnitude = std::isnan(row[j]) ? std::numeric_limits<T>::infinity() : std::abs(row[j]);
      if (magnitude > threshold && j != skipped) kept.push_back({magnitude, j});
    }
    if (kept.size() + block > capacity) prune();
  }
  if (kept.size() > static_cast<size_t>(params.k)) prune();
  std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.column < b.column; });
  for (size_t n = 0; n < kept.size(); ++n) {
    params.columns[r * params.k + static_cast<int64_t>(n)] = kept[n].column;
    params.values[r * params.k + static_cast<int64_t>(n)] = row[kept[n].column];
  }
}

template <class T>
void top_k(const TopKParams<T>& params, const Parallel& parallel) {
  if (params.k == 0) return;
  auto body = [&](int64_t begin, int64_t end) {
    std::vector<Candidate<T>> kept;
    kept.reserve(static_cast<size_t>(4 * params.k + 2 * block));
    for (int64_t r = begin; r < end; ++r) top_k_of_row(params, r, kept);
  };
  parallel_ranges(parallel, params.num_rows, body);
}

}  // namespace

void top_k_cpu(const TopKParams<float>& params, const Parallel& parallel) { top_k(params, parallel); }
void top_k_cpu(const TopKParams<double>& params, const Parallel& parallel) { top_k(params, parallel); }

}  // namespace vlmadapt::signed_cosine
