// From integers to splats, and how many pixels they cover; docs/format.md, section "Model".
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../gaussian.h"
#include "steps.h"
#include "symbols.h"

namespace splat2d::codec {

// Where the lattice of positions stands in the picture.
struct Lattice {
  double cell, origin;  // pixels: the side of a cell, and what lies before the canvas
  int cell_exponent;

  Lattice(int exponent, int margin)
      : cell(std::exp2(exponent)), origin(margin * std::exp2(exponent)), cell_exponent(exponent) {}
};

// rows [count, 5 + channels]: X, Y, a, beta, c, v -> means [count, 2], log_cholesky [count, 3], colors [count,
// channels]. scale: of v; to_color [channels, channels]: O.
inline void dequantize(const std::int32_t* rows, std::size_t count, int channels, const Lattice& lattice, double scale,
                       const double* to_color, float* means, float* log_cholesky, float* colors) {
  const std::size_t n = std::size_t(channels);
  for (std::size_t i = 0; i < count; ++i, rows += kGeometry + n) {
    const std::int32_t* v = rows + kGeometry;
    std::int64_t squares = 0;
    for (std::size_t j = 0; j < n; ++j) {
      require(v[j] >= -kMostV && v[j] <= kMostV, "an index of v is beyond the limits");
      squares += std::int64_t(v[j]) * v[j];
    }
    const std::size_t k = std::size_t(kSteps.energy_class(squares));
    const std::int64_t fixed_a = rows[2] * kSteps.log[k], fixed_c = rows[4] * kSteps.log[k];
    const double a = double(fixed_a) / 65536, c = double(fixed_c) / 65536;
    const double beta = double(rows[3] * kSteps.shear[k]) / 65536;
    const auto place = [&](std::int32_t index, std::int64_t fixed) {
      const int bits = kSteps.refinement(fixed, int(k), lattice.cell_exponent);
      return float((index + 0.5) * (lattice.cell / double(1 << bits)) - lattice.origin);
    };
    means[2 * i] = place(rows[0], fixed_a);
    means[2 * i + 1] = place(rows[1], fixed_c);
    log_cholesky[3 * i] = float(a);
    log_cholesky[3 * i + 1] = float(beta * std::exp(c));
    log_cholesky[3 * i + 2] = float(c);
    const double size = std::exp(-(a + c) / 2);
    for (std::size_t channel = 0; channel < n; ++channel) {
      double sum = 0;
      for (std::size_t j = 0; j < n; ++j) sum += v[j] * scale * to_color[j * n + channel];
      colors[n * i + channel] = float(size * sum);
    }
  }
}

// A bound from above on the pixels that all splats cover within the canvas. Of each splat those of the box around its
// ellipse, or the area of the ellipse and a pixel more for every row and column of that box, whichever is less.
inline double footprint(const float* means, const float* log_cholesky, std::size_t count, double width, double height) {
  constexpr double kPi = 3.14159265358979323846;
  const double radius = std::sqrt(2 * kCutoff);
  const auto side = [](double center, double half, double size) {
    return std::clamp(center + half, 0.0, size) - std::clamp(center - half, 0.0, size);
  };
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i, means += 2, log_cholesky += 3) {
    const double along = std::exp(double(log_cholesky[0])), across = std::exp(double(log_cholesky[2]));
    const double columns = side(means[0], radius * along, width);
    const double rows =
        side(means[1], radius * std::sqrt(double(log_cholesky[1]) * log_cholesky[1] + across * across), height);
    const double area = kPi * radius * radius * along * across;
    sum += std::min((columns + 1) * (rows + 1), area + columns + rows + 1);
  }
  return sum;
}

}  // namespace splat2d::codec
