// What quantisation will do to a splat, for fits that must survive it: the engines add noise of the true steps before
// they render, and the gradient of the rate. docs/format.md defines the steps, docs/decisions.md shows what it brings.
#pragma once

#include "gaussian.h"

namespace splat2d {

struct Coding {
  float step;     // of a component of v = e^((a + c) / 2) colour; all other steps follow. 0: no quantisation
  float penalty;  // the loss has penalty / 2 * log(|v|^2 + step^2) more for every splat
  unsigned long long seed;
};

constexpr float kLeastEnergy = 0.7f;  // in steps: |v| of the weakest splat that is coded
constexpr float kMostShape = 1.0f;    // largest step of a, c and beta = b / e^c
constexpr float kMostPixels = 4.0f;   // and of a position

#if defined(__CUDACC__)
SPLAT2D_FN float exponential(float x) { return __expf(x); }
#else
SPLAT2D_FN float exponential(float x) { return __builtin_expf(x); }
#endif

// Uniform noise in (-1/2, 1/2) for every parameter of a splat: field 0..4 geometry, then the colours.
SPLAT2D_FN unsigned long long coding_bits(unsigned long long seed, int step, int splat, int field) {
  const unsigned long long at = (unsigned long long)(unsigned(splat)) << 16 | unsigned(field) >> 2;
  return random_bits(seed + 0xD1B54A32D192ED03ull * unsigned(step), at);
}
SPLAT2D_FN float coding_noise(unsigned long long bits, int field) {
  return float((bits >> (16 * (field & 3))) & 0xFFFF) * (1.0f / 65536) + (0.5f / 65536 - 0.5f);
}

// A splat as it may come out of the decoder. Its colours are colour * scale + noise * coding_noise(field of a channel).
struct Decoded {
  float mx, my, a, b, c;
  float scale, noise;
};

// color2: |colour|^2. noise: the first five numbers of coding_noise.
// Steps have equal slope of the squared error; with e^-((a + c) / 2) factored out of the colour, and each parameter
// coded after those that its meaning depends on (the ridge's slope b / e^a survives rounding of a and c, and y is
// corrected along the ridge for the rounding of x), the squared error of a splat is diagonal in them.
SPLAT2D_FN Decoded perturb(float mx, float my, float a, float b, float c, float color2, float step,
                           const float (&noise)[5]) {
  const float l1 = exponential(a), l3 = exponential(c);
  const float e = greatest(root(color2 * l1 * l3), kLeastEnergy * step);
  const float unit = 1.41421356f * step / e;  // steps of a, c, x / e^a and (y - slope x) / e^c
  const float shape = least(unit, kMostShape);
  const float slope = b / l1;
  const float dx = least(unit * l1, kMostPixels) * noise[0];
  Decoded d;
  d.mx = mx + dx;
  d.my = my + slope * dx + least(unit * l3, kMostPixels) * noise[1];
  const float da = shape * noise[2], dc = shape * noise[4];
  d.a = a + da;
  d.c = c + dc;
  d.b = b * exponential(da) + exponential(d.c) * least(1.41421356f * unit, kMostShape) * noise[3];
  d.scale = exponential(-0.5f * (da + dc));
  d.noise = exponential(-0.5f * (d.a + d.c)) * step;
  return d;
}

// Chain rule from the perturbed splat back: of what multiplies d.noise, the sum over channels of noise * gradient of
// the colour, half goes to a and half to c; gradients of colours are multiplied by d.scale. Steps count as constants:
// where rate and error are in balance, what a change of step does to one it takes from the other.
//
// The penalty's gradient: by_color * colour for each channel, by_log for a and for c.
struct RateGradient {
  float by_color, by_log;
};
SPLAT2D_FN RateGradient rate_gradient(float a, float c, float color2, const Coding& coding) {
  const float area = exponential(a + c), energy = color2 * area;
  const float share = coding.penalty / (energy + coding.step * coding.step);
  return {share * area, 0.5f * share * energy};
}

}  // namespace splat2d
