#include "packets.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "range_coder.h"
#include "steps.h"

namespace splat2d::codec {
namespace {

using Row = const std::int32_t*;

void require(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}

// The probability of bit 1 as learned, fast at first.
struct Counter {
  std::uint16_t p = kHalf;
  std::uint8_t seen = 0;

  static constexpr int kSlowest = 60;

  void update(int bit) {
    const int target = bit ? 65535 : 0;
    p = std::uint16_t(int(p) + (target - int(p)) * 2 / (2 * seen + 3));
    if (seen < kSlowest) ++seen;
  }
};

template <class Coder> int code_bit(Coder& coder, Counter& counter, int bit) {
  const std::uint32_t p = counter.p < 32 ? 32 : (counter.p > 65504 ? 65504 : counter.p);
  bit = coder.code(bit, p);
  counter.update(bit);
  return bit;
}

template <class Coder> std::uint32_t code_raw(Coder& coder, int bits, std::uint32_t value) {
  for (int i = bits - 1; i >= 0; --i) {
    const int bit = coder.code(int(value >> i & 1), kHalf);
    value = (value & ~(1u << i)) | std::uint32_t(bit) << i;
  }
  return value;
}

// A signed integer: zero, sign, then the magnitude as an Exp-Golomb code.
struct SignedModel {
  Counter zero, sign;
  std::array<Counter, 32> exponent;
  std::array<std::array<Counter, 2>, 32> mantissa;  // the bit below the leading one

  template <class Coder> std::int64_t code(Coder& coder, std::int64_t value, std::int64_t most) {
    if (code_bit(coder, zero, value == 0)) return 0;
    const int negative = code_bit(coder, sign, value < 0);
    const std::uint32_t magnitude = std::uint32_t(value < 0 ? -value : value);
    int e = 0;
    while (code_bit(coder, exponent[e], magnitude >> (e + 1) != 0))
      if (++e == 31) break;
    std::uint32_t result = 1;
    for (int i = e - 1; i >= 0; --i) {
      const int bit = int(magnitude >> i & 1);
      const bool first = i == e - 1;
      result = result << 1 | std::uint32_t(first ? code_bit(coder, mantissa[e][0], bit)
                                                 : int(code_raw(coder, 1, std::uint32_t(bit))));
    }
    require(result <= most, "a packet holds an index beyond the limits");
    return negative ? -std::int64_t(result) : std::int64_t(result);
  }
};

struct Region {
  int x, y, columns, rows;
  std::size_t first;
  std::int64_t count;
};

struct Cell {
  int x, y;
};

int log2_floor(std::int64_t x) { return 63 - __builtin_clzll((unsigned long long)x); }

class Models {
 public:
  Models(int channels, const Grid& grid) : channels_(channels), grid_(grid), v_(std::size_t(channels)) {}

  // rows: those of one packet, in any order; when decoding, they are filled in.
  template <class Coder, class Get, class Set>
  void code(Coder& coder, std::vector<Cell>& cells, Get get, Set set, std::array<double, 4>* bits) {
    double at = 0;
    if constexpr (Coder::kDecodes) at = coder.position();
    const auto account = [&](int part) {
      if constexpr (Coder::kDecodes) {
        const double now = coder.position();
        (*bits)[part] += now - at;
        at = now;
      }
    };
    code_cells(coder, cells);
    account(0);
    std::vector<std::int32_t> row(std::size_t(kGeometry + channels_));
    for (std::size_t i = 0; i < cells.size(); ++i) {
      get(i, row.data());
      std::int64_t squares = 0;
      for (int j = 0; j < channels_; ++j) {
        std::int32_t& v = row[std::size_t(kGeometry + j)];
        v = std::int32_t(v_[std::size_t(j)].code(coder, v, kMostV));
        squares += std::int64_t(v) * v;
      }
      account(3);
      const int k = steps_.energy_class(squares);
      const std::int64_t most_log = kMostLog / steps_.log[k], most_shear = kMostShear / steps_.shear[k];
      row[2] = std::int32_t(shape_[0][k].code(coder, row[2], most_log));
      row[3] = std::int32_t(shape_[1][k].code(coder, row[3], most_shear));
      row[4] = std::int32_t(shape_[2][k].code(coder, row[4], most_log));
      account(2);
      const int bits_x = steps_.refinement(row[2] * steps_.log[k], k, grid_.cell_exponent);
      const int bits_y = steps_.refinement(row[4] * steps_.log[k], k, grid_.cell_exponent);
      row[0] = refine(coder, row[0], bits_x, cells[i].x);
      row[1] = refine(coder, row[1], bits_y, cells[i].y);
      account(1);
      set(i, row.data());
    }
  }

 private:
  template <class Coder> std::int32_t refine(Coder& coder, std::int32_t value, int bits, int cell) {
    const std::uint32_t below = code_raw(coder, bits, std::uint32_t(value) & ((1u << bits) - 1));
    return std::int32_t(std::uint32_t(cell) << bits | below);
  }

  // Halves the grid along its longer side again and again; of the cells in a region codes how many lie in the first
  // half. cells: when encoding, in the order in which this visits them.
  template <class Coder> void code_cells(Coder& coder, std::vector<Cell>& cells) {
    std::vector<Region> waiting = {{0, 0, grid_.columns, grid_.rows, 0, std::int64_t(cells.size())}};
    while (!waiting.empty()) {
      const Region r = waiting.back();
      waiting.pop_back();
      if (r.count == 0) continue;
      if (r.columns == 1 && r.rows == 1) {
        for (std::int64_t i = 0; i < r.count; ++i) cells[r.first + std::size_t(i)] = {r.x, r.y};
        continue;
      }
      Region low = r, high = r;
      halve(r, low, high);
      std::int64_t n = 0;
      if constexpr (!Coder::kDecodes)
        while (n < r.count && inside(low, cells[r.first + std::size_t(n)])) ++n;
      n = code_count(coder, n, r.count, low, r);
      low.count = n;
      high.count = r.count - n;
      high.first += std::size_t(n);
      waiting.push_back(high);
      waiting.push_back(low);
    }
  }

 public:
  static void halve(const Region& r, Region& low, Region& high) {
    if (r.columns >= r.rows) {
      low.columns = r.columns / 2;
      high.x = r.x + low.columns;
      high.columns = r.columns - low.columns;
    } else {
      low.rows = r.rows / 2;
      high.y = r.y + low.rows;
      high.rows = r.rows - low.rows;
    }
  }
  static bool inside(const Region& r, Cell c) {
    return c.x >= r.x && c.x < r.x + r.columns && c.y >= r.y && c.y < r.y + r.rows;
  }

 private:
  template <class Coder>
  std::int64_t code_count(Coder& coder, std::int64_t n, std::int64_t total, const Region& low, const Region& all) {
    const std::int64_t cells = std::int64_t(all.columns) * all.rows;
    const std::int64_t mean = low.rows == all.rows ? total * low.columns / all.columns : total * low.rows / all.rows;
    const int size = std::min(log2_floor(cells), 15);
    if (total < 8) {
      // one decision after another: are there more than i?
      std::int64_t i = 0;
      while (i < total && code_bit(coder, few_[std::size_t(size)][std::size_t(total)][std::size_t(i)], n > i)) ++i;
      return i;
    }
    const std::int64_t result = mean + many_[std::size_t(log2_floor(total))].code(coder, n - mean, total);
    require(result >= 0 && result <= total, "a packet holds a count beyond the limits");
    return result;
  }

  int channels_;
  Grid grid_;
  Steps steps_;
  std::vector<SignedModel> v_;
  std::array<std::array<SignedModel, kClasses>, 3> shape_;
  std::array<std::array<std::array<Counter, 8>, 8>, 16> few_;
  std::array<SignedModel, 64> many_;
};

void check(const Grid& grid, std::span<const std::int64_t> counts, int channels) {
  std::int64_t left = kMostValues / (kGeometry + channels);
  for (const std::int64_t n : counts) {
    require(n >= 0 && n <= left, "too many splats");
    left -= n;
  }
  require(grid.columns >= 1 && grid.rows >= 1, "the grid must have cells");
}

std::int64_t cells_of(std::int64_t pixels, int exponent) {
  return exponent >= 0 ? (pixels + (std::int64_t(1) << exponent) - 1) >> exponent : pixels << -exponent;
}

// Rows in the order in which their cells are visited.
void sort_rows(std::vector<std::size_t>& order, const std::vector<Cell>& cells, const Grid& grid) {
  std::vector<Region> waiting = {{0, 0, grid.columns, grid.rows, 0, std::int64_t(order.size())}};
  while (!waiting.empty()) {
    const Region r = waiting.back();
    waiting.pop_back();
    if (r.count < 2 || (r.columns == 1 && r.rows == 1)) continue;
    Region low = r, high = r;
    Models::halve(r, low, high);
    const auto first = order.begin() + std::ptrdiff_t(r.first);
    const auto middle =
        std::stable_partition(first, first + r.count, [&](std::size_t i) { return Models::inside(low, cells[i]); });
    low.count = middle - first;
    high.count = r.count - low.count;
    high.first += std::size_t(low.count);
    waiting.push_back(high);
    waiting.push_back(low);
  }
}

// Checks a row and finds its cell.
Cell cell_of(Row row, int channels, const Grid& grid, const Steps& steps) {
  std::int64_t squares = 0;
  for (int j = 0; j < channels; ++j) {
    const std::int64_t v = row[kGeometry + j];
    require(v >= -kMostV && v <= kMostV, "an index of v is beyond the limits");
    squares += v * v;
  }
  const int k = steps.energy_class(squares);
  const std::int64_t a = row[2] * steps.log[k], beta = row[3] * steps.shear[k], c = row[4] * steps.log[k];
  require(
      a >= -kMostLog && a <= kMostLog && c >= -kMostLog && c <= kMostLog && beta >= -kMostShear && beta <= kMostShear,
      "an index of the shape is beyond the limits");
  const Cell cell = {row[0] >> steps.refinement(a, k, grid.cell_exponent),
                     row[1] >> steps.refinement(c, k, grid.cell_exponent)};
  require(cell.x >= 0 && cell.x < grid.columns && cell.y >= 0 && cell.y < grid.rows, "a position is beyond the grid");
  return cell;
}

}  // namespace

Grid make_grid(std::int64_t width, std::int64_t height, int cell_exponent, int margin) {
  require(cell_exponent >= -4 && cell_exponent <= 12, "the cell exponent must lie within -4..12");
  require(margin >= 0 && margin <= kMostCells, "the margin must not be negative, nor larger than the grid");
  require(width >= 1 && width <= (1 << 24) && height >= 1 && height <= (1 << 24), "a side must have 1..2^24 pixels");
  const std::int64_t columns = cells_of(width, cell_exponent) + 2 * margin;
  const std::int64_t rows = cells_of(height, cell_exponent) + 2 * margin;
  require(columns <= kMostCells && rows <= kMostCells, "the grid must have at most 131072 cells on a side");
  return {int(columns), int(rows), cell_exponent};
}

std::vector<std::vector<std::uint8_t>> encode_packets(std::span<const std::int32_t> rows,
                                                      std::span<const std::int64_t> counts, int channels,
                                                      const Grid& grid, std::vector<std::int64_t>& order) {
  check(grid, counts, channels);
  const std::size_t stride = std::size_t(kGeometry + channels);
  require(std::size_t(std::accumulate(counts.begin(), counts.end(), std::int64_t(0))) * stride == rows.size(),
          "counts must sum to the number of rows");
  const Steps steps;
  Models models(channels, grid);
  std::vector<std::vector<std::uint8_t>> payloads;
  std::size_t start = 0;
  for (const std::int64_t count : counts) {
    std::vector<Cell> cells(std::size_t(count), Cell{});
    std::vector<std::size_t> sorted(std::size_t(count), 0);
    std::iota(sorted.begin(), sorted.end(), std::size_t(0));
    for (std::size_t i = 0; i < cells.size(); ++i)
      cells[i] = cell_of(&rows[(start + i) * stride], channels, grid, steps);
    sort_rows(sorted, cells, grid);
    std::vector<Cell> visited(cells.size());
    for (std::size_t i = 0; i < cells.size(); ++i) visited[i] = cells[sorted[i]];
    Encoder coder;
    models.code(
        coder, visited,
        [&](std::size_t i, std::int32_t* row) { std::copy_n(&rows[(start + sorted[i]) * stride], stride, row); },
        [](std::size_t, const std::int32_t*) {}, nullptr);
    payloads.push_back(coder.finish());
    for (const std::size_t i : sorted) order.push_back(std::int64_t(start + i));
    start += cells.size();
  }
  return payloads;
}

Decoded decode_packets(std::span<const std::span<const std::uint8_t>> payloads, std::span<const std::int64_t> counts,
                       int channels, const Grid& grid) {
  check(grid, counts, channels);
  require(payloads.size() <= counts.size(), "there are more payloads than counts");
  Models models(channels, grid);
  Decoded result{};
  for (std::size_t p = 0; p < payloads.size(); ++p) {
    std::vector<Cell> cells(std::size_t(counts[p]), Cell{});
    Decoder coder(payloads[p]);
    models.code(
        coder, cells, [](std::size_t, std::int32_t* row) { row[0] = row[1] = row[2] = row[3] = row[4] = 0; },
        [&](std::size_t, const std::int32_t* row) {
          result.rows.insert(result.rows.end(), row, row + kGeometry + channels);
        },
        &result.bits);
    coder.finish();
  }
  return result;
}

}  // namespace splat2d::codec
