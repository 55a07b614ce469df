// Pictures over arrays of the caller, and the gradients of their splats without an optimiser. A batch has `each` splats
// per picture, those of all pictures one after another: survey() and plan() treat them as one set, and a picture draws
// its own share of it.
#pragma once

#include "tile.cuh"
#include "update.cuh"

namespace splat2d {

// Means [count][2], log-Cholesky [count][3] and colours [count][CHANNELS] -> derived values. arrived may be null.
extern "C" __global__ void load_splats(const float* __restrict__ means, const float* __restrict__ log_cholesky,
                                       const float* __restrict__ colors_in, int count, State* state, float4* splats,
                                       float4* more, Box* boxes, float* colors, int* arrived) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  if (i == 0) state->count = count;
  if (arrived) arrived[i] = 0;
  float p[8];
  for (int k = 0; k < 2; ++k) p[k] = means[2 * size_t(i) + k];
  for (int k = 0; k < 3; ++k) p[2 + k] = log_cholesky[3 * size_t(i) + k];
  const float* const own = colors_in + size_t(i) * CHANNELS;
  if constexpr (kColorsInside)
    for (int c = 0; c < CHANNELS; ++c) p[kGeometry + c] = own[c];
  prepare_splat(p, splats, more, boxes, i);
  store_colors(own, colors, i);
}

// images [picture][pixel][CHANNELS] = background [picture][CHANNELS] + splats. A block per tile of each picture, and
// per group of channels.
extern "C" __global__ void __launch_bounds__(32 * kWarps, kRenderBlocks)
    draw_pictures(int each, const float4* __restrict__ splats, const Box* __restrict__ boxes,
                  const float* __restrict__ colors, const Box* __restrict__ chunks, const Box* __restrict__ supers,
                  const float* __restrict__ background, float* __restrict__ images, int tiles, int width, int height) {
  const int picture = blockIdx.x / tiles, tile = blockIdx.x % tiles, group = blockIdx.y;
  const float* const ground = background + size_t(picture) * CHANNELS + 4 * group;
  float* const image = images + size_t(picture) * width * height * CHANNELS + 4 * group;
  draw_tile(picture * each, (picture + 1) * each, splats, boxes, colors, chunks, supers, tile, group, width, height,
            [&](size_t p, const float (&sum)[kActive]) {
              for (int c = 0; c < kActive; ++c)
                if (4 * group + c < CHANNELS) image[p * CHANNELS + c] = sum[c] + ground[c];
            });
}

// dL/dpictures, in planes of groups over all pixels of all pictures, -> gradients laid out as the splats were given.
extern "C" __global__ void __launch_bounds__(kUpdateThreads, 1024 / kUpdateThreads)
    splat_gradients(const State* state, int each, const float4* splats, const float4* more, const float* colors,
                    const float* __restrict__ log_cholesky, const int* __restrict__ narrow_items,
                    const int4* __restrict__ wide_items, float* records, int* arrived,
                    const float* __restrict__ d_images, long long all_pixels, int width, int height,
                    float* __restrict__ d_means, float* __restrict__ d_log_cholesky, float* __restrict__ d_colors) {
  const size_t pixels = size_t(width) * height;
  sum_gradients(
      state, splats, more, colors, narrow_items, wide_items, records, arrived, width, height,
      [&](int i, int group) { return d_images + (group * size_t(all_pixels) + i / each * pixels) * kLanes; },
      [](int) { return true; },
      [&](int i, bool write, const float4& d, const Moments<float>& m, const float (&color)[4], const float* record) {
        if (!write) return;
        const Gradient<float> by = chain_rule(m, 1.0f / d.y, d.w, d.z);
        for (int base = 0; base < kFields; base += 8) {
          const int f = base + int(threadIdx.x & 7);
          if (f >= kFields) continue;
          const float gradient = gradient_of(by, color, record, base, f);
          if (f < 2) {
            d_means[2 * size_t(i) + f] = gradient;
          } else if (f < kGeometry) {
            const size_t at = 3 * size_t(i) + f - 2;
            const float value = log_cholesky[at], limit = limit_of(f);
            d_log_cholesky[at] = clamp(value, -limit, limit) != value ? 0.0f : gradient;
          } else {
            d_colors[size_t(i) * CHANNELS + f - kGeometry] = gradient;
          }
        }
      });
}

}  // namespace splat2d
