// Pictures in and out, and sums over the residual.
#pragma once

#include "../residual.h"
#include "common.cuh"

namespace splat2d {

// [pixel][CHANNELS] -> planes of groups, and back.
extern "C" __global__ void pack(const float* __restrict__ image, float* __restrict__ planes, long long pixels) {
  const size_t p = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
  if (p >= pixels) return;
  for (int g = 0; g < kGroups; ++g) {
    Pixel v;
    for (int c = 0; c < kActive; ++c) v.v[c] = 4 * g + c < CHANNELS ? image[p * CHANNELS + 4 * g + c] : 0.0f;
    store_pixel(planes + g * size_t(pixels) * kLanes, p, v);
  }
}
extern "C" __global__ void unpack(const float* __restrict__ planes, float* __restrict__ image, long long pixels) {
  const size_t p = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
  if (p >= pixels) return;
  for (int g = 0; g < kGroups; ++g) {
    const Pixel v = load_pixel(planes + g * size_t(pixels) * kLanes, p);
    for (int c = 0; c < kActive; ++c)
      if (4 * g + c < CHANNELS) image[p * CHANNELS + 4 * g + c] = v.v[c];
  }
}

// Rows of parameters -> means [N][2], log-Cholesky [N][3] and colours [N][CHANNELS], one after the other.
extern "C" __global__ void split(const State* state, const float* __restrict__ params, float* __restrict__ out) {
  const size_t n = blockIdx.x * size_t(blockDim.x) + threadIdx.x, count = state->count;
  if (n >= count * kFields) return;
  const size_t i = n / kFields;
  const int f = int(n % kFields);
  const size_t at = f < 2           ? 2 * i + f
                    : f < kGeometry ? 2 * count + 3 * i + (f - 2)
                                    : kGeometry * count + CHANNELS * i + (f - kGeometry);
  out[at] = params[n];
}

// Sums over weighted residuals: weight r^2, weight |r|, and r^2 after a clamp of the picture to [0, 1] ->
// state->sums[0..2].
extern "C" __global__ void __launch_bounds__(256)
    measure(State* state, const float* __restrict__ residual, const float* __restrict__ target, double* partials,
            long long pixels, float outside) {
  const float inverse = 1.0f / outside;  // the residual is weighted, its square would be so twice
  double sums[3] = {0, 0, 0};
  for (int g = 0; g < kGroups; ++g)
    for (size_t p = blockIdx.x * size_t(blockDim.x) + threadIdx.x; p < pixels; p += size_t(gridDim.x) * blockDim.x) {
      const Pixel r = load_pixel(residual + g * size_t(pixels) * kLanes, p);
      const Pixel t = load_pixel(target + g * size_t(pixels) * kLanes, p);
      float squares = 0, absolutes = 0, clamped = 0;
      for (int c = 0; c < kActive; ++c) {
        const float k = clamp(t.v[c] + r.v[c], 0.0f, 1.0f) - t.v[c];
        squares += r.v[c] * r.v[c] * weight_of(r.v[c], t.v[c], inverse);
        absolutes += fabsf(r.v[c]);
        if (4 * g + c < CHANNELS) clamped += k * k;
      }
      sums[0] += squares, sums[1] += absolutes, sums[2] += clamped;
    }
  grid_sum(state, partials, sums, state->sums);
}

// Sum of a picture's worth of floats in double -> state->sums[which].
extern "C" __global__ void __launch_bounds__(256)
    total(State* state, const float* __restrict__ values, double* partials, long long count, int which) {
  double sums[1] = {0};
  for (size_t p = blockIdx.x * size_t(blockDim.x) + threadIdx.x; p < count; p += size_t(gridDim.x) * blockDim.x)
    sums[0] += values[p];
  grid_sum(state, partials, sums, state->sums + which);
}

}  // namespace splat2d
