// Forward on the CPU, compiled once per instruction set.
//
// Vector lanes run over queries and tile rows over entries. The class sum is then a plain vertical addition, whatever
// the classes' sizes, and masks, ratios and the disagreement are vertical too. Entries are cut into chunks of fixed
// size; a task is (chunk of entries) x (block of queries whose packed panels stay in L2). A class cut by a chunk's
// border leaves partial sums that are added afterwards in chunk order, so a few large classes still parallelise.
//
// Tried before: lanes over entries (a horizontal sum a class and query); BLAS into a tile buffer (an extra pass over
// the tile and one fork a tile).
#pragma once

#include "cache_retrieval/cpu_side.h"

namespace vlmadapt {
namespace VLMADAPT_ISA {
namespace cache_retrieval {

using vlmadapt::cache_retrieval::ForwardParams;
using vlmadapt::cache_retrieval::Kept;

constexpr int64_t serial_numbers = 1 << 15;  // up to so many are cleared or added up sooner than threads are woken
constexpr int64_t super_block = 4096;        // queries packed at a time: bounds the extra memory

// About 18 tiles at least and 256 chunks at most, all of about one size: few chunks are divided among few threads.
inline int64_t chunk_entries(int64_t num_entries, int64_t rows_of_tile) {
  const int64_t chunks = max_of(min_of(num_entries / (18 * tile_rows), 256), 1);
  return max_of(round_up((num_entries + chunks - 1) / chunks, rows_of_tile), rows_of_tile);
}

// Sums of a class that a chunk's border cuts: side 0 began before the chunk, side 1 goes on after it.
template <class A>
struct Partials {
  A* sums;  // [chunks, 2, queries]
  int64_t num_queries;
  A* at(int64_t chunk, int side) const { return sums + (chunk * 2 + side) * num_queries; }
};

// Everything a task needs for one block of queries; walks any number of chunks.
template <class Products>
class ForwardBlock {
  using T = typename Products::Input;
  using A = Accum<T>;
  using Packed = typename Products::Packed;
  using Tiles = typename Products::template Tiles<>;
  using S = Simd<A>;
  using Mask = typename S::Mask;

 public:
  ForwardBlock(const ForwardParams& p, int64_t first, int64_t count, const Packed* packed, const Packed* packed_text)
      : p_(p),
        first_(first),
        count_(count),
        columns_{count},
        padded_(columns_.padded()),
        image_(p.image, packed, first, columns_),
        text_(p.text, packed_text, first, columns_),
        image_scale_(p.image.scale, first, count, padded_),
        image_center_(p.image.center, first, count, padded_),
        text_scale_(p.text.scale, first, count, padded_),
        text_center_(p.text.center, first, count, padded_),
        ratio_(p.ratio, first, count, padded_),
        image_tile_(Products::rows * padded_),
        text_tile_(Products::rows * padded_),
        class_sums_(padded_),
        gaps_(padded_),
        own_row_(padded_) {}

  bool undefined() const { return image_.undefined() || text_.undefined(); }

  // positions: for each query the place of its own entry in `order`, or -1; nullptr when there are none.
  void run_chunk(int64_t chunk, int64_t begin, int64_t end, const Partials<A>& partials, const int64_t* positions,
                 A* gap_sums) {
    const int64_t* order = p_.order + begin;
    const int64_t* offsets = p_.offsets;
    int64_t current = class_of(begin);
    text_first_ = text_end_ = 0;
    for (int64_t q = 0; q < padded_; ++q) {
      class_sums_[q] = gaps_[q] = 0;
      const int64_t row = positions != nullptr && q < count_ ? positions[first_ + q] - begin : -1;
      own_row_[q] = row >= 0 && row < end - begin ? static_cast<Mask>(row) : Mask(-1);
    }
    for (int64_t row0 = 0; row0 < end - begin; row0 += Products::rows) {
      const int64_t rows = min_of(Products::rows, end - begin - row0);
      image_.product([&](int64_t r) { return order[row0 + r]; }, rows, image_tile_.data(), padded_,
                     min_of(Products::rows, end - begin - row0 - rows));
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t entry = begin + row0 + r;
        if (p_.kept_as == Kept::similarities) keep(p_.kept, order[row0 + r], image_tile_.data() + r * padded_);
        while (entry >= offsets[current + 1]) {
          flush(current, chunk, begin, end, partials);
          ++current;
        }
        const A* text_row = nullptr;
        if (p_.text.queries != nullptr)
          text_row = p_.text_per_class ? text_affinity(
                                             current, [](int64_t c) { return c; }, p_.num_classes)
                                       : text_affinity(row0 + r, [&](int64_t e) { return order[e]; }, end - begin);
        accumulate(image_tile_.data() + r * padded_, text_row, static_cast<Mask>(row0 + r), positions != nullptr);
        if (p_.kept_as == Kept::affinities) keep(p_.kept, order[row0 + r], image_tile_.data() + r * padded_);
      }
    }
    flush(current, chunk, begin, end, partials);
    if (gap_sums != nullptr)
      for (int64_t q = 0; q < count_; ++q) gap_sums[first_ + q] = gaps_[q];
  }

 private:
  int64_t class_of(int64_t entry) const {
    int64_t low = 0, high = p_.num_classes;  // the last class that begins at or before the entry
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (p_.offsets[middle] <= entry ? low : high) = middle;
    }
    return low;
  }

  // exp'd text similarities of row `row` (a class or an entry of the chunk), from a window of Products::rows rows.
  template <class RowKey>
  const A* text_affinity(int64_t row, RowKey row_key, int64_t num_rows) {
    if (row < text_first_ || row >= text_end_) {
      text_first_ = row;
      text_end_ = min_of(row + Products::rows, num_rows);
      A* tile = text_tile_.data();
      text_.product([&](int64_t r) { return row_key(text_first_ + r); }, text_end_ - text_first_, tile, padded_);
      for (int64_t r = 0; r < text_end_ - text_first_; ++r) {
        if (p_.kept_as == Kept::similarities) keep(p_.text_kept, row_key(text_first_ + r), tile + r * padded_);
        for (int64_t q = 0; q < padded_; q += S::lanes) {
          A* x = tile + r * padded_ + q;
          S::store(x, exp(text_scale_[q] * (S::load(x) - text_center_[q])));
        }
        if (p_.kept_as == Kept::affinities) keep(p_.text_kept, row_key(text_first_ + r), tile + r * padded_);
      }
    }
    return text_tile_.data() + (row - text_first_) * padded_;
  }

  void keep(void* kept, int64_t entry, const A* row) {
    if (kept == nullptr) return;
    const int64_t at = entry * p_.num_queries + first_;
    if (p_.kept_as == Kept::similarities) std::memcpy(static_cast<A*>(kept) + at, row, count_ * sizeof(A));
    if constexpr (std::is_same_v<T, bf16>)
      if (p_.kept_as == Kept::affinities) keep_affinities(row, count_, static_cast<uint16_t*>(kept) + at);
  }

  // Leaves affinities in place of similarities if they are to be kept.
  void accumulate(A* similarity, const A* text, Mask row, bool any_own) {
    for (int64_t q = 0; q < padded_; q += S::lanes) {
      typename S::V affinity = exp(image_scale_[q] * (S::load(similarity + q) - image_center_[q]));
      if (p_.kept_as == Kept::affinities) S::store(similarity + q, affinity);
      typename S::V gap{};
      if (text != nullptr) {
        const typename S::V other = S::load(text + q);
        const typename S::V difference = affinity - other;
        gap = difference < 0 ? -difference : difference;
        affinity = other + ratio_[q] * difference;
      }
      if (any_own) {
        const typename S::I own = S::load_mask(own_row_.data() + q) == row;
        gap = own ? typename S::V{} : gap;
        if (p_.mask_own_scores) affinity = own ? typename S::V{} : affinity;
      }
      S::store(class_sums_.data() + q, S::load(class_sums_.data() + q) + affinity);
      if (text != nullptr) S::store(gaps_.data() + q, S::load(gaps_.data() + q) + gap);
    }
  }

  // Writes the sums of class c gathered in this chunk and clears them. Classes without entries here are left alone.
  void flush(int64_t c, int64_t chunk, int64_t begin, int64_t end, const Partials<A>& partials) {
    const int64_t from = p_.offsets[c], to = p_.offsets[c + 1];
    if (from == to) return;
    if (from >= begin && to <= end) {
      A* scores = static_cast<A*>(p_.scores) + first_ * p_.num_classes + c;
      for (int64_t q = 0; q < count_; ++q) scores[q * p_.num_classes] = class_sums_[q];
    } else {
      A* sums = partials.at(chunk, from < begin ? 0 : 1) + first_;
      for (int64_t q = 0; q < count_; ++q) sums[q] = class_sums_[q];
    }
    for (int64_t q = 0; q < padded_; ++q) class_sums_[q] = 0;
  }

  const ForwardParams& p_;
  int64_t first_, count_;
  Panels<A> columns_;
  int64_t padded_;
  Tiles image_, text_;
  QueryValues<A> image_scale_, image_center_, text_scale_, text_center_, ratio_;
  Buffer<A> image_tile_, text_tile_, class_sums_, gaps_;
  Buffer<Mask> own_row_;
  int64_t text_first_ = 0, text_end_ = 0;
};

// Adds the partial sums of cut classes, and the disagreement, in chunk order.
template <class A>
inline void combine_chunks(const ForwardParams& p, int64_t chunk_size, int64_t chunks, const Partials<A>& partials,
                           const A* gap_sums, const Parallel& parallel) {
  auto body = [&](int64_t begin, int64_t end) {
    A* scores = static_cast<A*>(p.scores);
    int64_t c = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t from = chunk * chunk_size, to = min_of(from + chunk_size, p.num_entries);
      while (p.offsets[c + 1] <= from) ++c;
      if (p.offsets[c] < from)
        for (int64_t q = begin; q < end; ++q) scores[q * p.num_classes + c] += partials.at(chunk, 0)[q];
      while (p.offsets[c + 1] < to) ++c;
      if (p.offsets[c + 1] > to && p.offsets[c] >= from)
        for (int64_t q = begin; q < end; ++q) scores[q * p.num_classes + c] = partials.at(chunk, 1)[q];
    }
    if (p.disagreement == nullptr) return;
    A* disagreement = static_cast<A*>(p.disagreement);
    for (int64_t q = begin; q < end; ++q) {
      A total = 0;
      if (gap_sums != nullptr)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) total += gap_sums[chunk * p.num_queries + q];
      const bool own = p.own_entry != nullptr && p.own_entry[q] >= 0;
      disagreement[q] = total / static_cast<A>(max_of(p.num_entries - (own ? 1 : 0), 1));
    }
  };
  if (p.num_queries * chunks > serial_numbers)
    parallel_ranges(parallel, p.num_queries, body);
  else
    body(0, p.num_queries);
}

// False where the products gave NaN and those of another kind might not (cpu_pairs_side.h).
template <class Products>
inline bool forward(const ForwardParams& p, const Parallel& parallel) {
  using T = typename Products::Input;
  using A = Accum<T>;
  using Packed = typename Products::Packed;
  bool undefined = false;
  const bool two = p.text.queries != nullptr;
  const int64_t chunk_size = chunk_entries(p.num_entries, Products::rows);
  const int64_t chunks = (p.num_entries + chunk_size - 1) / chunk_size;
  Buffer<A> partial_sums(chunks * 2 * p.num_queries);
  const Partials<A> partials{partial_sums.data(), p.num_queries};
  Buffer<A> gap_sums(two && p.disagreement != nullptr ? chunks * p.num_queries : 0);
  A* gaps = two && p.disagreement != nullptr ? gap_sums.data() : nullptr;

  Buffer<int64_t> positions(p.own_entry != nullptr ? p.num_queries : 0);
  if (p.own_entry != nullptr) {
    Buffer<int64_t> position_of(p.num_entries);
    for (int64_t e = 0; e < p.num_entries; ++e) position_of[p.order[e]] = e;
    for (int64_t q = 0; q < p.num_queries; ++q) {
      const int64_t own = p.own_entry[q];  // unchecked where Python may not look at values: torch.compile
      positions[q] = own < 0 || own >= p.num_entries ? -1 : position_of[own];
    }
  }

  auto clear = [&](int64_t begin, int64_t end) {
    std::memset(static_cast<A*>(p.scores) + begin * p.num_classes, 0,
                static_cast<size_t>((end - begin) * p.num_classes) * sizeof(A));
  };
  if (p.num_queries * p.num_classes > serial_numbers)
    parallel_ranges(parallel, p.num_queries, clear);
  else
    clear(0, p.num_queries);

  const bool dots = p.num_queries <= max_dot_queries;
  const int64_t super = min_of(super_block, p.num_queries);
  const int64_t size = Products::packed_size(p.image.width), text_size = Products::packed_size(p.text.width);
  Buffer<Packed> packed(dots ? 0 : round_up(super, Simd<A>::panel) * size);
  Buffer<Packed> packed_text(dots || !two ? 0 : round_up(super, Simd<A>::panel) * text_size);
  for (int64_t first = 0; first < p.num_queries; first += super_block) {
    const int64_t count = min_of(super_block, p.num_queries - first);
    if (!dots) pack_queries<Products, T>(p.image, first, count, packed.data(), parallel);
    if (!dots && two) pack_queries<Products, T>(p.text, first, count, packed_text.data(), parallel);
    const int64_t block = query_block<Products>(p.image.width + (two ? p.text.width : 0));
    const int64_t blocks = (count + block - 1) / block;
    // Blocks of queries vary fastest: consecutive tasks find their chunk of keys in a shared cache.
    auto tasks = [&](int64_t begin, int64_t end) {
      [[maybe_unused]] typename Products::Scope scope;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t chunk = task / blocks, start = task % blocks * block;
        const int64_t from = chunk * chunk_size;
        ForwardBlock<Products> work(p, first + start, min_of(block, count - start),
                                    dots ? nullptr : packed.data() + start * size,
                                    dots || !two ? nullptr : packed_text.data() + start * text_size);
        work.run_chunk(chunk, from, min_of(from + chunk_size, p.num_entries), partials,
                       p.own_entry != nullptr ? positions.data() : nullptr,
                       gaps != nullptr ? gaps + chunk * p.num_queries : nullptr);
        if (work.undefined()) __atomic_store_n(&undefined, true, __ATOMIC_RELAXED);
      }
    };
    parallel_ranges(parallel, chunks * blocks, tasks);
  }
  combine_chunks(p, chunk_size, chunks, partials, gaps, parallel);
  return !undefined;
}

}  // namespace cache_retrieval
}  // namespace VLMADAPT_ISA
}  // namespace vlmadapt
