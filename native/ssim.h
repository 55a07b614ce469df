// SSIM of one pixel (Wang et al. 2004) and its derivatives, for both engines.
#pragma once

#include "gaussian.h"

namespace splat2d {

constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;

// The map's value, and its derivatives by the window's sums over a, a^2 + b^2 and a b.
struct SsimPixel {
  float value, by_a, by_squares, by_product;
};

// a, b, squares, product: sums of the window over a, b, a^2 + b^2 and a b, where a and b are the pictures relative to
// `center`, near their mean: variances are small differences of squares, which would drown in the rounding of a bright
// picture. mass: of the part of the window that lies inside the picture.
SPLAT2D_FN SsimPixel ssim_pixel(float a, float b, float squares, float product, float mass, float center) {
  const float inverse = 1.0f / mass;
  const float ma = a * inverse, mb = b * inverse;
  // Rounding must not leave |2 cov| <= var + var, which keeps the map within [-1, 1].
  const float variances = greatest(squares * inverse - ma * ma - mb * mb, 0.0f);
  const float covariance = clamp(product * inverse - ma * mb, -0.5f * variances, 0.5f * variances);
  const float mean_a = ma + center, mean_b = mb + center;
  const float light = 2 * mean_a * mean_b + kC1, texture = 2 * covariance + kC2;
  const float b1 = 1.0f / (mean_a * mean_a + mean_b * mean_b + kC1), b2 = 1.0f / (variances + kC2);
  const float ssim = light * texture * b1 * b2;
  const float by_product = 2 * light * b1 * b2, by_squares = -ssim * b2;
  const float by_mean = 2 * mean_b * texture * b1 * b2 - 2 * mean_a * ssim * b1;
  return {ssim, inverse * (by_mean - 2 * ma * by_squares - mb * by_product), inverse * by_squares,
          inverse * by_product};
}

}  // namespace splat2d
