// The parts of the CUDA kernels that are plain arithmetic. Free of CUDA, so that the tests can build them for a CPU.
#pragma once

#include "../gaussian.h"

namespace splat2d {

constexpr int kGeometry = 5;        // x, y, a, b, c; the colours follow
constexpr float kRoundOff = 4e-7f;  // by which a sum of large terms may be off, relative to the terms

// Values of a rectangle of pixel centres, inclusive.
struct Box {
  float x0, y0, x1, y1;
};

SPLAT2D_FN bool overlap(const Box& a, const Box& b) {
  return a.x0 <= b.x1 && b.x0 <= a.x1 && a.y0 <= b.y1 && b.y0 <= a.y1;
}

// Whether an ellipse meets a box: the largest exponent on the box reaches the limit. Never false where a pixel centre
// in the box is inside the ellipse; rounding errs towards true.
SPLAT2D_FN bool touches(float mx, float my, float k, float n1, float n3, const Box& box, float limit) {
  const float slack = float(kSlack);
  const float left = box.x0 - mx - slack, right = box.x1 - mx + slack;
  const float top = box.y0 - my - slack, bottom = box.y1 - my + slack;
  // The best point lies at the mean or on a side that faces it.
  const float dx = clamp(0.0f, left, right), dy = clamp(0.0f, top, bottom);
  const float ridge = k * dx;
  const float off = ridge - clamp(ridge, top, bottom);
  const float e = greatest((off < 0 ? -off : off) - kRoundOff * (ridge < 0 ? -ridge : ridge), 0.0f);
  const float on_upright = n1 * dx * dx + n3 * e * e;
  // Along the side y = dy the exponent is largest at dx = dy n3 k / (n1 + n3 k^2).
  const float best = clamp(dy / (k + n1 / (n3 * k)), left, right);
  const float at_best = k * best, off_best = dy - at_best;
  const float e_best =
      greatest((off_best < 0 ? -off_best : off_best) - kRoundOff * (at_best < 0 ? -at_best : at_best), 0.0f);
  const float on_level = n1 * best * best + n3 * e_best * e_best;
  return greatest(on_upright, on_level) >= limit * 1.0001f;
}

// Rows of the picture whose pixel centres lie inside the ellipse, in the column at dx of the mean.
SPLAT2D_FN Range rows_at(float my, float k, float i1, float l3, float dx, float radius, int height) {
  const float z = dx * i1;
  const float half = l3 * root(greatest(radius * radius - z * z, 0.0f));
  const float middle = my + k * dx - 0.5f;
  const float slack = float(kSlack) + kRoundOff * (middle < 0 ? -middle : middle);
  return {int(up(within(middle - half - slack, 0.0f, float(height)))),
          int(down(within(middle + half + slack, -1.0f, float(height - 1))))};
}

// How a team of 2^log_team groups of lanes shares a splat: group t takes every `stride`-th strip of columns from
// `first`, and there every 2^log_step-th row from `row`. There are 2^log_columns firsts, so each row of each strip
// belongs to one group, however many strips and rows there are.
struct Share {
  int first, stride, row, log_step;
};
SPLAT2D_FN Share share_of(int t, int log_team, int log_columns) {
  const int log_step = log_team - log_columns;
  return {t >> log_step, 1 << log_columns, t & ((1 << log_step) - 1), log_step};
}

SPLAT2D_FN int ceil_shift(int n, int shift) { return (n + (1 << shift) - 1) >> shift; }

// log_columns that leaves the busiest group the fewest rows.
SPLAT2D_FN int best_columns(int log_team, int strips, int rows) {
  int best = 0, least_work = 0x7FFFFFFF;
  for (int log_columns = 0; log_columns <= log_team; ++log_columns) {
    const int work = ceil_shift(strips, log_columns) * (ceil_shift(rows, log_team - log_columns) + 2);  // 2: to begin
    if (work < least_work) best = log_columns, least_work = work;
  }
  return best;
}

// One value by Adam (Kingma and Ba 2015).
SPLAT2D_FN float adam(float value, float gradient, float& first, float& second, float rate, float beta1, float beta2,
                      float correction1, float correction2) {
  first = beta1 * first + (1.0f - beta1) * gradient;
  second = beta2 * second + (1.0f - beta2) * gradient * gradient;
  return value - rate * (first * correction1) / (root(second * correction2) + 1e-8f);
}

SPLAT2D_FN unsigned spread_bits(unsigned v) {  // 16 bits to every second bit
  v = (v | (v << 8)) & 0x00FF00FFu;
  v = (v | (v << 4)) & 0x0F0F0F0Fu;
  v = (v | (v << 2)) & 0x33333333u;
  return (v | (v << 1)) & 0x55555555u;
}

// Place along a Z-order curve. Large splats come apart from the small ones, level by level, so that the boxes around
// neighbours in memory stay small. scale: 1 / the larger side of the picture.
constexpr int kKeyBits = 24;
SPLAT2D_FN unsigned order_key(float mx, float my, float hx, float hy, float scale) {
  const float size = greatest(hx, hy) * scale;  // relative half extent
  const unsigned level = size > 0.25f ? 3u : size > 0.0625f ? 2u : size > 0.02f ? 1u : 0u;
  const unsigned x = unsigned(within(mx * scale * 2047.0f, 0.0f, 2047.0f));
  const unsigned y = unsigned(within(my * scale * 2047.0f, 0.0f, 2047.0f));
  return level << 22 | spread_bits(x) | spread_bits(y) << 1;
}

}  // namespace splat2d
