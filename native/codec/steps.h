// Steps of the parameters by energy class, in integers; docs/format.md, section "Model".
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace splat2d::codec {

constexpr int kGeometry = 5;  // columns before v: X, Y, i_a, i_b, i_c
constexpr int kClasses = 64;
constexpr int kMostRefinement = 14;             // bits of a coordinate below its cell
constexpr std::int32_t kMostV = (1 << 20) - 1;  // |i_v|
constexpr std::int64_t kMostLog = 20 << 16;     // |a|, |c| in fixed point
constexpr std::int64_t kMostShear = INT32_MAX;  // |beta|
constexpr std::int64_t kLog2E = 94548;          // log2(e) in fixed point

struct Steps {
  std::array<std::int64_t, kClasses> threshold, log, shear, log2_unit;  // T, A, B, U of the page; threshold[0] = 0

  Steps() {
    for (int k = 0; k < kClasses; ++k) {
      const double unit = std::sqrt(2.0) / 0.7 * std::exp2(-0.5 * k);
      threshold[k] = k == 0 ? 0 : std::int64_t(std::ceil(0.49 * std::exp2(k - 0.5)));
      log[k] = fixed(std::min(1.0, unit));
      shear[k] = fixed(std::min(1.0, std::sqrt(2.0) * unit));
      log2_unit[k] = std::int64_t(std::nearbyint(65536 * std::log2(unit)));
    }
  }

  // The largest k with threshold[k] <= squares. threshold[k] lies above 2^(k - 2) and is at most 2^(k - 1), so that
  // the leading bit leaves two classes.
  int energy_class(std::int64_t squares) const {
    if (squares == 0) return 0;
    const int least = 64 - __builtin_clzll(static_cast<unsigned long long>(squares));
    return least + (squares >= threshold[std::size_t(least) + 1]);
  }

  // Refinement bits of x from a, or of y from c.
  int refinement(std::int64_t log_fixed, int k, int cell_exponent) const {
    const std::int64_t bits = cell_exponent * 65536 - log2_unit[k] - ((log_fixed * kLog2E) >> 16) + 32768;
    return int(std::clamp<std::int64_t>(bits >> 16, 0, kMostRefinement));
  }

 private:
  static std::int64_t fixed(double x) { return std::max<std::int64_t>(1, std::int64_t(std::nearbyint(65536 * x))); }
};
inline const Steps kSteps;

}  // namespace splat2d::codec
