// Splats as integers <-> packets of bytes; docs/format.md, sections "Model" and "Packets".
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace splat2d::codec {

constexpr std::int64_t kMostValues = std::int64_t(1) << 27;  // integers of all splats: 512 MiB
constexpr int kMostCells = 1 << 17;                          // columns and rows: X < 2^31 with 14 refinement bits

struct Grid {
  int columns, rows, cell_exponent;
};
// Throws std::invalid_argument if there are more than kMostCells on a side.
Grid make_grid(std::int64_t width, std::int64_t height, int cell_exponent, int margin);

// rows: those of all packets, [sum of counts, 5 + channels]; order gets the row that each decoded splat stands in.
// Throws std::invalid_argument for integers outside the limits of the format.
std::vector<std::vector<std::uint8_t>> encode_packets(std::span<const std::int32_t> rows,
                                                      std::span<const std::int64_t> counts, int channels,
                                                      const Grid& grid, std::vector<std::int64_t>& order);

struct Decoded {
  std::vector<std::int32_t> rows;  // [sum of counts of the payloads given, 5 + channels]
  std::array<double, 4> bits;      // cells, refinement, shape, colour
};
// Throws std::invalid_argument for payloads that are not whole.
Decoded decode_packets(std::span<const std::span<const std::uint8_t>> payloads, std::span<const std::int64_t> counts,
                       int channels, const Grid& grid);

}  // namespace splat2d::codec
