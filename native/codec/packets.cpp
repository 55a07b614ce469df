#include "packets.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "cells.h"
#include "context.h"
#include "range_coder.h"
#include "steps.h"
#include "symbols.h"

namespace splat2d::codec {
namespace {

constexpr int kSigns = 8;  // classes of the logit of a sign
constexpr int kSizes = 8;  // classes of a magnitude

enum Part { kCells, kRefinement, kShape, kColor };

// Bits by part, in 1 / 256; an encoder does not count.
using Bits = std::array<std::int64_t, 4>;
template <class Coder> class Account {
 public:
  Account(const Coder& coder, Bits& bits) : coder_(coder), bits_(bits), at_(position()) {}
  void add(Part part) {
    const std::int64_t now = position();
    bits_[part] += now - at_;
    at_ = now;
  }
  void add_plain(Part part, int bits) {
    bits_[part] += 256 * bits;
    at_ += 256 * bits;
  }

 private:
  std::int64_t position() const { return 256 * 8 * std::int64_t(coder_.used()) - kLogarithms(coder_.range()); }

  const Coder& coder_;
  Bits& bits_;
  std::int64_t at_;
};
template <> class Account<Encoder> {
 public:
  Account(const Encoder&, Bits&) {}
  void add(Part) {}
  void add_plain(Part, int) {}
};

// All that is learned while the packets of a file are coded. One code for both directions: see range_coder.h.
class Models {
 public:
  Models(int channels, const Grid& grid)
      : channels_(channels),
        cell_exponent_(grid.cell_exponent),
        cells_({0, 0, grid.columns, grid.rows}),
        context_(kSteps, grid.columns, grid.rows, grid.cell_exponent, channels),
        color_(std::size_t(channels), MixedModel(std::max(kScales, kSizes * kSizes))),
        shape_({IntegerModel(kShapeContexts), IntegerModel(kShapeContexts), IntegerModel(kShapeContexts)}) {}

  // row(i) points to the integers of the i-th splat of a packet. The encoder gives its cells and integers, the
  // decoder gets them.
  template <class Coder, class GetRow>
  void code(Coder& coder, std::span<Cell> cells, GetRow row, Bits& bits) {
    Account<Coder> account(coder, bits);
    cells_.code(coder, cells);
    context_.begin(cells);
    account.add(kCells);
    for (std::size_t i = 0; i < cells.size(); ++i) {
      std::int32_t* r = row(i);
      context_.look(features_);
      kTables.networks.look(kernels_, features_, sums_);
      const int k = kSteps.energy_class(code_color(coder, r + kGeometry));
      account.add(kColor);
      code_shape(coder, r, k);
      account.add(kShape);
      const int bits_x = kSteps.refinement(r[2] * kSteps.log[std::size_t(k)], k, cell_exponent_);
      const int bits_y = kSteps.refinement(r[4] * kSteps.log[std::size_t(k)], k, cell_exponent_);
      r[0] = refine(coder, r[0], bits_x, cells[i].x);
      r[1] = refine(coder, r[1], bits_y, cells[i].y);
      account.add_plain(kRefinement, bits_x + bits_y);
      context_.add(r, k, bits_x, bits_y);
    }
  }

 private:
  static int size_class(int v) { return std::min(log2_floor(2 * std::abs(v) + 1), kSizes - 1); }

  // Gives the sum of the squares of v.
  template <class Coder>
  std::int64_t code_color(Coder& coder, std::int32_t* v) {
    std::int16_t* own = &features_[kOwn];
    std::fill_n(own, kOwnSize, std::int16_t(0));
    std::int64_t squares = 0;
    for (int j = 0; j < channels_; ++j) {
      if (j > 0) {
        own[0] = limited(kLogarithms.signed_magnitude(v[0]));
        own[1] = limited(kLogarithms.magnitude(v[0]));
        own[2] = limited(kLogarithms.signed_magnitude(v[j - 1]));
        own[3] = limited(kLogarithms.magnitude(v[j - 1]));
      }
      if (j > 2) {
        context_.show_color(features_, 1, j - 1);
        context_.show_color(features_, 2, j);
        Networks::AllSums sums;
        kTables.networks.look(kernels_, features_, sums);
        sums_[kV2] = sums[kV2];
      }
      const int symbol = kV0 + std::min(j, 2);
      const Forecast forecast = kTables.networks(symbol, features_, sums_[std::size_t(symbol)]);
      const int scale = scale_class(forecast.scale);
      const int sign = std::clamp(forecast.place, -kMostLogit, kMostLogit);
      const int sign_class = std::clamp((sign + 256) >> 6, 0, kSigns - 1);
      const int before = j < 2 ? std::min(context_.packet() - 1, 3) : size_class(v[0]);
      const int sizes = before * kSizes + (j > 0 ? size_class(v[j - 1]) : 0);
      v[j] = std::int32_t(code_integer(
          coder, v[j], kMostV, likely_length(scale),
          [&](Coder& coder, int node, int bit) __attribute__((always_inline)) {
            const int prior = is_sign(node) ? sign : logit(kTables.color, (symbol * kScales + scale) * kNodes + node);
            return color_[std::size_t(j)].decide(coder, node, bit, prior, is_sign(node) ? sign_class : scale, sizes);
          }));
      squares += std::int64_t(v[j]) * v[j];
    }
    if (channels_ > 3)
      for (int slot = 1; slot < 3; ++slot) context_.show_color(features_, slot, slot);
    return squares;
  }

  // In the order a, c, beta.
  template <class Coder>
  void code_shape(Coder& coder, std::int32_t* row, int k) {
    const std::int64_t log = kSteps.log[std::size_t(k)], shear = kSteps.shear[std::size_t(k)];
    const std::int32_t* v = row + kGeometry;
    std::int16_t* own = &features_[kOwn];
    std::fill_n(own, kOwnSize, std::int16_t(0));
    own[0] = std::int16_t(k * 128);
    own[1] = limited(kLogarithms.signed_magnitude(v[0]));
    for (int j = 1; j < std::min(channels_, 3); ++j) own[j + 1] = limited(kLogarithms.magnitude(v[j]));
    row[2] = code_parameter(coder, kShapeA, row[2], kMostLog / log, log, k);
    own[4] = limited(((row[2] * log) >> 8) - context_.unit());
    row[4] = code_parameter(coder, kShapeC, row[4], kMostLog / log, log, k);
    own[5] = limited(((row[4] * log) >> 8) - context_.unit());
    row[3] = code_parameter(coder, kShapeBeta, row[3], kMostShear / shear, shear, k);
  }

  // The difference from the index nearest to the forecast, with the sign towards the forecast.
  template <class Coder>
  std::int32_t code_parameter(Coder& coder, int symbol, std::int32_t index, std::int64_t most, std::int64_t step,
                              int k) {
    const Forecast forecast = kTables.networks(symbol, features_, sums_[std::size_t(symbol)]);
    const bool shear = symbol == kShapeBeta;
    const std::int64_t log2_step =
        std::min<std::int64_t>(0, kSteps.log2_unit[std::size_t(k)] + (shear ? 32768 : 0)) >> 8;
    const int scale = scale_class(forecast.scale - int(log2_step));
    const std::int64_t mean = std::int64_t(forecast.place + (shear ? 0 : context_.unit())) * 256;
    const std::int64_t below = floor_divide(mean + step / 2, step), rest = mean - below * step;
    const std::int64_t nearest = std::clamp(below, -most, most), side = rest < 0 ? -1 : 1;
    const std::int64_t eighths = std::abs(rest) * 8;
    const int place = (eighths >= step) + (eighths >= 2 * step) + (eighths >= 3 * step);
    static_assert(kPlaces == 4);
    const int context = scale < kFineScales ? scale * kPlaces + place : kFineScales * (kPlaces - 1) + scale;
    const std::int64_t result =
        nearest + side * code_integer(coder, side * (index - nearest), 2 * most, likely_length(scale),
                                      [&](Coder& coder, int node, int bit) __attribute__((always_inline)) {
                                        return shape_[std::size_t(symbol - kShapeA)].decide(
                                            coder, node, bit, logit(kTables.shape, context * kNodes + node), context);
                                      });
    require(result >= -most && result <= most, "a packet holds an index beyond the limits");
    return std::int32_t(result);
  }

  static std::int64_t floor_divide(std::int64_t x, std::int64_t y) { return x / y - (x % y < 0); }

  template <class Coder>
  std::int32_t refine(Coder& coder, std::int32_t x, int bits, int cell) {
    return std::int32_t(std::uint32_t(cell) << bits | coder.code_plain(bits, std::uint32_t(x)));
  }

  int channels_, cell_exponent_;
  CellModel cells_;
  Context context_;
  Features features_{};
  Networks::AllSums sums_{};
  const CodecKernels& kernels_ = codec_kernels();
  std::vector<MixedModel> color_;
  std::array<IntegerModel, 3> shape_;
};

void check(std::span<const std::int64_t> counts, int channels) {
  std::int64_t left = kMostValues / (kGeometry + channels);
  for (const std::int64_t n : counts) {
    require(n >= 0 && n <= left, "too many splats");
    left -= n;
  }
}

std::int64_t cells_of(std::int64_t pixels, int exponent) {
  return exponent >= 0 ? (pixels + (std::int64_t(1) << exponent) - 1) >> exponent : pixels << -exponent;
}

// Checks a row and finds its cell.
Cell cell_of(const std::int32_t* row, int channels, const Grid& grid) {
  std::int64_t squares = 0;
  for (int j = 0; j < channels; ++j) {
    const std::int64_t v = row[kGeometry + j];
    require(v >= -kMostV && v <= kMostV, "an index of v is beyond the limits");
    squares += v * v;
  }
  const int k = kSteps.energy_class(squares);
  const std::int64_t log = kSteps.log[std::size_t(k)], shear = kSteps.shear[std::size_t(k)];
  for (const auto& [column, most] :
       {std::pair(2, kMostLog / log), std::pair(3, kMostShear / shear), std::pair(4, kMostLog / log)})
    require(row[column] >= -most && row[column] <= most, "an index of the shape is beyond the limits");
  const Cell cell = {row[0] >> kSteps.refinement(row[2] * log, k, grid.cell_exponent),
                     row[1] >> kSteps.refinement(row[4] * log, k, grid.cell_exponent)};
  require(cell.x >= 0 && cell.x < grid.columns && cell.y >= 0 && cell.y < grid.rows, "a position is beyond the grid");
  return cell;
}

}  // namespace

Grid make_grid(std::int64_t width, std::int64_t height, int cell_exponent, int margin) {
  require(cell_exponent >= -4 && cell_exponent <= 12, "the cell exponent must lie within -4..12");
  require(margin >= 0 && margin <= kMostCells, "the margin must lie within 0..131072");
  require(width >= 1 && width <= (1 << 24) && height >= 1 && height <= (1 << 24), "a side must have 1..2^24 pixels");
  const std::int64_t columns = cells_of(width, cell_exponent) + 2 * std::int64_t(margin);
  const std::int64_t rows = cells_of(height, cell_exponent) + 2 * std::int64_t(margin);
  require(columns <= kMostCells && rows <= kMostCells, "the grid must have at most 131072 cells on a side");
  return {int(columns), int(rows), cell_exponent};
}

std::vector<std::vector<std::uint8_t>> encode_packets(std::span<const std::int32_t> rows,
                                                      std::span<const std::int64_t> counts, int channels,
                                                      const Grid& grid, std::vector<std::int64_t>& order) {
  check(counts, channels);
  const std::size_t stride = std::size_t(kGeometry + channels);
  require(std::size_t(std::accumulate(counts.begin(), counts.end(), std::int64_t(0))) * stride == rows.size(),
          "counts must sum to the number of rows");
  Models models(channels, grid);
  std::vector<std::vector<std::uint8_t>> payloads;
  std::vector<std::int32_t> row(stride);
  Bits bits{};
  order.resize(rows.size() / stride);
  std::iota(order.begin(), order.end(), std::int64_t(0));
  std::span<std::int64_t> left = order;
  for (const std::int64_t count : counts) {
    const std::span<std::int64_t> packet = left.first(std::size_t(count));
    left = left.subspan(std::size_t(count));
    const auto row_of = [&](std::int64_t i) { return &rows[std::size_t(i) * stride]; };
    const auto cell = [&](std::int64_t i) { return cell_of(row_of(i), channels, grid); };
    sort_by_cell(packet, {0, 0, grid.columns, grid.rows}, cell);
    std::vector<Cell> cells;
    for (const std::int64_t i : packet) cells.push_back(cell(i));
    Encoder coder;
    models.code(
        coder, std::span(cells),
        [&](std::size_t i) {
          std::copy_n(row_of(packet[i]), stride, row.begin());
          return row.data();
        },
        bits);
    payloads.push_back(coder.finish());
  }
  return payloads;
}

Decoded decode_packets(std::span<const std::span<const std::uint8_t>> payloads, std::span<const std::int64_t> counts,
                       int channels, const Grid& grid) {
  check(counts, channels);
  require(payloads.size() <= counts.size(), "there are more payloads than counts");
  const std::size_t stride = std::size_t(kGeometry + channels);
  Models models(channels, grid);
  Decoded result{};
  Bits bits{};
  for (std::size_t p = 0; p < payloads.size(); ++p) {
    std::vector<Cell> cells(std::size_t(counts[p]), Cell{});
    Decoder coder(payloads[p]);
    result.rows.reserve(result.rows.size() + cells.size() * stride);
    models.code(
        coder, std::span(cells),
        [&](std::size_t) {
          result.rows.resize(result.rows.size() + stride, 0);
          return &result.rows[result.rows.size() - stride];
        },
        bits);
    coder.finish();
  }
  for (std::size_t part = 0; part < bits.size(); ++part) result.bits[part] = double(bits[part]) / 256;
  return result;
}

}  // namespace splat2d::codec
