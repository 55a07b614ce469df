// A step whose splats are drawn with the noise of quantisation, and whose loss has a rate. See ../coding.h.
#pragma once

#include "update.cuh"

namespace splat2d {

// As prepare(), of the splats as drawn in this step of the session.
extern "C" __global__ void coded_prepare(const State* state, const float* params, const float* second, float4* splats,
                                         float4* more, Box* boxes, float* colors, const Coding* coding_at, int step) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= state->count) return;
  const Coding coding = *coding_at;
  float p[kFields < 8 ? 8 : kFields];
  for (int f = 0; f < kFields; ++f) p[f] = params[size_t(i) * kFields + f];
  if (coding.step > 0 && !is_frozen(second, i)) {
    float color2 = 0, noises[kGeometry];
    for (int c = 0; c < CHANNELS; ++c) color2 += p[kGeometry + c] * p[kGeometry + c];
    for (int f = 0; f < kGeometry; ++f) noises[f] = noise_of(coding, step, i, f);
    const Decoded drawn = perturb(p[0], p[1], p[2], p[3], p[4], color2, coding.step, noises);
    p[0] = drawn.mx, p[1] = drawn.my, p[2] = drawn.a, p[3] = drawn.b, p[4] = drawn.c;
    for (int f = kGeometry; f < kFields; ++f) p[f] = p[f] * drawn.scale + drawn.noise * noise_of(coding, step, i, f);
  }
  prepare_splat(p, splats, more, boxes, i);
  store_colors(p + kGeometry, colors, i);
}

// As update(). Frozen splats stay as they are.
extern "C" __global__ void __launch_bounds__(kUpdateThreads, 1024 / kUpdateThreads)
    coded_update(const State* state, const float4* schedule, int node, float4* splats, float4* more, Box* boxes,
                 float* colors, float* params, float* first, float* second, Box* chunks, Box* supers,
                 const int* __restrict__ narrow_items, const int4* __restrict__ wide_items, float* records,
                 int* arrived, const float* __restrict__ d_image, int width, int height, const Rates* rates_at,
                 const Coding* coding_at) {
  update_splats<true>(state, schedule, node, splats, more, boxes, colors, params, first, second, chunks, supers,
                      narrow_items, wide_items, records, arrived, d_image, width, height, rates_at, coding_at);
}

}  // namespace splat2d
