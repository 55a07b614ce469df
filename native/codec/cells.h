// The cells of a packet's splats as a set: how many lie in each half, quarter, ... of the grid; docs/format.md,
// section "Packets".
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "context.h"
#include "symbols.h"

namespace splat2d::codec {

struct Region {
  int x, y, columns, rows;

  bool holds(const Cell& c) const { return c.x >= x && c.x < x + columns && c.y >= y && c.y < y + rows; }
  bool is_cell() const { return columns == 1 && rows == 1; }
};

// The two halves, along the longer side; the first gets the smaller part.
inline std::array<Region, 2> halves(const Region& r) {
  std::array<Region, 2> half = {r, r};
  if (r.columns >= r.rows) {
    half[0].columns = r.columns / 2;
    half[1].x += half[0].columns;
    half[1].columns -= half[0].columns;
  } else {
    half[0].rows = r.rows / 2;
    half[1].y += half[0].rows;
    half[1].rows -= half[0].rows;
  }
  return half;
}

// Sorts splats (anything that `cell` gives a cell of) into the order in which their cells are coded.
template <class T, class GetCell>
void sort_by_cell(std::span<T> splats, const Region& grid, GetCell cell) {
  struct Part {
    Region region;
    std::span<T> splats;
  };
  std::vector<Part> waiting = {{grid, splats}};
  while (!waiting.empty()) {
    const Part part = waiting.back();
    waiting.pop_back();
    if (part.splats.size() < 2 || part.region.is_cell()) continue;
    const auto [low, high] = halves(part.region);
    const auto middle = std::stable_partition(part.splats.begin(), part.splats.end(),
                                              [&, low = low](const T& splat) { return low.holds(cell(splat)); });
    const std::size_t first = std::size_t(middle - part.splats.begin());
    waiting.push_back({high, part.splats.subspan(first)});
    waiting.push_back({low, part.splats.first(first)});
  }
}

class CellModel {
 public:
  explicit CellModel(const Region& grid) : grid_(grid), many_(kManyContexts) {}

  // cells: in the encoder sorted as sort_by_cell does; the decoder fills them in.
  template <class Coder> void code(Coder& coder, std::span<Cell> cells) {
    struct Part {
      Region region;
      std::span<Cell> cells, known;
    };
    std::vector<Part> waiting = {{grid_, cells, known_}};
    while (!waiting.empty()) {
      const Part part = waiting.back();
      waiting.pop_back();
      if (part.cells.empty()) continue;
      if (part.region.is_cell()) {
        std::fill(part.cells.begin(), part.cells.end(), Cell{part.region.x, part.region.y});
        continue;
      }
      const auto [low, high] = halves(part.region);
      // All of these cells lie in the region: one side decides.
      const bool wide = high.x != low.x;
      const int border = wide ? high.x : high.y;
      const auto in_low = [=](const Cell& c) { return (wide ? c.x : c.y) < border; };
      const std::size_t known =
          std::size_t(std::partition(part.known.begin(), part.known.end(), in_low) - part.known.begin());
      std::int64_t n = 0;
      if constexpr (!Coder::kDecodes)
        n = std::partition_point(part.cells.begin(), part.cells.end(), in_low) - part.cells.begin();
      n = code_count(coder, n, std::int64_t(part.cells.size()), part.region, low, std::int64_t(known),
                     std::int64_t(part.known.size() - known));
      waiting.push_back({high, part.cells.subspan(std::size_t(n)), part.known.subspan(known)});
      waiting.push_back({low, part.cells.first(std::size_t(n)), part.known.first(known)});
    }
    known_.insert(known_.end(), cells.begin(), cells.end());
  }

 private:
  static constexpr int kTrust = 16;  // in the table, in bits seen
  static constexpr int kEven = 10;   // weight of the assumption that splats lie everywhere alike

  // How many of `total` splats lie in the first half. known: splats of earlier packets in either half.
  template <class Coder>
  std::int64_t code_count(Coder& coder, std::int64_t n, std::int64_t total, const Region& region, const Region& low,
                          std::int64_t known_low, std::int64_t known_high) {
    const bool wide = region.columns >= region.rows;
    const std::int64_t side = wide ? region.columns : region.rows, first = wide ? low.columns : low.rows;
    std::int64_t here = known_low * side + kEven * first, there = known_high * side + kEven * (side - first);
    int shift = std::max(0, log2_floor(here + there) - 23);  // keeps products small
    // The least shift by which the sum stays below 2^24: both may lose a bit that together made one.
    if (shift > 0 && (here >> (shift - 1)) + (there >> (shift - 1)) < 1 << 24) --shift;
    here = std::max<std::int64_t>(here >> shift, 1);
    there = std::max<std::int64_t>(there >> shift, 1);
    if (total >= kFew) {
      const std::int64_t mean = (total * here + (here + there) / 2) / (here + there);
      const int context = std::min(log2_floor(total), kManyContexts - 1);
      n = mean +
          code_integer(coder, n - mean, total, context / 2,
                       [&](Coder& coder, int node, int bit) __attribute__((always_inline)) {
                         return many_.decide(coder, node, bit, logit(kTables.many, context * kNodes + node), context);
                       });
      require(n >= 0 && n <= total, "a packet holds a count beyond the limits");
      return n;
    }
    const int lean = kLogarithms(here) - kLogarithms(there);
    const int by_lean = std::clamp((lean + 64 + 128 * (kLeans / 2)) >> 7, 0, kLeans - 1);
    // One decision after another: are there more than i?
    int i = 0;
    for (; i < total; ++i) {
      const int rank = int(total) * kFew + i;
      const int prior = total == 1 ? std::clamp(lean * 177 >> 8, -kMostLogit, kMostLogit)
                                   : logit(kTables.few, by_lean * kFew * kFew + rank);
      if (!code_bit(coder, n > i, prior, few_[std::size_t(by_lean)][std::size_t(rank)], kTrust)) break;
    }
    return i;
  }

  Region grid_;
  std::vector<Cell> known_;  // of earlier packets
  std::array<std::array<Counter, kFew * kFew>, kLeans> few_{};
  IntegerModel many_;
};

}  // namespace splat2d::codec
