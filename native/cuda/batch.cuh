// Many small pictures at once: a block fits one picture from its first splats to its last step, all in shared memory.
#pragma once

#include "update.cuh"

namespace splat2d {

#if CHANNELS <= 4  // one group of channels

constexpr int kBatchThreads = 128, kBatchWarps = kBatchThreads / 32;
constexpr int kPatchX = 8, kPatchY = 4;                          // pixels that a warp draws at a time
constexpr float kUniformShare = 0.3f, kInitialAmplitude = 0.3f;  // as in seeding.py

// Length of the gradient over all channels, by central differences.
__device__ __forceinline__ float edge_at(const float* picture, int x, int y, int width, int height) {
  const auto at = [&](int u, int v) {
    return load_pixel(picture, size_t(clamp(v, 0, height - 1)) * width + clamp(u, 0, width - 1));
  };
  const Pixel left = at(x - 1, y), right = at(x + 1, y), above = at(x, y - 1), below = at(x, y + 1);
  float sum = 0;
  for (int c = 0; c < kActive; ++c) {
    const float dx = right.v[c] - left.v[c], dy = below.v[c] - above.v[c];
    sum += dx * dx + dy * dy;
  }
  return root(sum);
}

// images [picture][pixel][CHANNELS] -> params [picture][count][kFields], backgrounds [picture][CHANNELS] (the mean
// colours) and the mean squared error of each. sigma: of the first splats, pixels. Picture p draws from seed + p.
extern "C" __global__ void __launch_bounds__(kBatchThreads)
    fit_batch(const float* __restrict__ images, float* __restrict__ all_params, float* __restrict__ backgrounds,
              float* __restrict__ errors, const float4* __restrict__ schedule, int steps, int count, int width,
              int height, float sigma, u64 seed, const Rates* rates_at) {
  extern __shared__ float4 shared[];
  const int pixels = width * height, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int plane = (pixels * kLanes + 3) / 4;  // float4s
  float* const target = reinterpret_cast<float*>(shared);
  float* const residual = reinterpret_cast<float*>(shared + plane);
  float4* const splats = shared + 2 * plane;
  const int slots = (count + 3) / 4 * 4;  // the last group of a warp's four must not meet another's splat
  float4* const more = splats + 2 * slots;
  Box* const boxes = reinterpret_cast<Box*>(more + slots);
  float* const colors = reinterpret_cast<float*>(boxes + slots);
  float* const params = colors + (kColorsInside ? 0 : 4 * slots);
  float* const first = params + kFields * slots;
  float* const second = first + kFields * slots;
  const Rates rates = *rates_at;
  const size_t picture = blockIdx.x;

  float background[kActive];
  for (int p = threadIdx.x; p < pixels; p += kBatchThreads) {
    Pixel v;
    for (int c = 0; c < kActive; ++c) v.v[c] = images[(picture * pixels + p) * CHANNELS + c];
    store_pixel(target, p, v);
  }
  __syncthreads();
  for (int c = 0; c < kActive; ++c) {
    float sum = 0;
    for (int p = threadIdx.x; p < pixels; p += kBatchThreads) sum += target[p * kLanes + c];
    background[c] = block_sum(sum) / pixels;
  }

  // The first splats: drawn by stratum, more of them where the picture has edges.
  float edges = 0;
  for (int p = threadIdx.x; p < pixels; p += kBatchThreads)
    edges += residual[p] = edge_at(target, p % width, p / width, width, height);
  edges = block_sum(edges);
  float mass = 0;
  for (int p = threadIdx.x; p < pixels; p += kBatchThreads)
    mass += residual[p] = edges > 0 ? kUniformShare + (1 - kUniformShare) * residual[p] * pixels / edges : 1.0f;
  mass = block_sum(mass);
  __syncthreads();
  for (int j = threadIdx.x; j < slots; j += kBatchThreads) {
    const float threshold = float((j + random_unit(seed + picture, u64(j))) / count) * mass;
    float reached = 0;  // slots past the count lie where the last splats do and are never drawn
    int p = -1;
    while (p + 1 < pixels && reached <= threshold) reached += residual[++p];
    float* const row = params + j * kFields;
    row[0] = float(p % width + random_unit(seed + picture, u64(count) + 2 * u64(j)));
    row[1] = float(p / width + random_unit(seed + picture, u64(count) + 2 * u64(j) + 1));
    const float wanted = sigma * rsqrtf(clamp(residual[p], 0.25f, 16.0f)),
                size = greatest(wanted, __expf(rates.log_min));
    const float amplitude = kInitialAmplitude * (wanted / size) * (wanted / size);
    row[2] = row[4] = __logf(size);
    row[3] = 0;
    for (int c = 0; c < CHANNELS; ++c) row[kGeometry + c] = amplitude * (target[p * kLanes + c] - background[c]);
    for (int f = 0; f < kFields; ++f) first[j * kFields + f] = second[j * kFields + f] = 0;
    float own[8 + CHANNELS];
    for (int f = 0; f < kFields; ++f) own[f] = row[f];
    prepare_splat(own, splats, more, boxes, j);
    if constexpr (!kColorsInside)
      for (int c = 0; c < 4; ++c) colors[4 * j + c] = row[kGeometry + c];
  }
  __syncthreads();

  const int patches_x = (width + kPatchX - 1) / kPatchX, patches = patches_x * ((height + kPatchY - 1) / kPatchY);
  float square = 0;
  const auto draw = [&] {
    for (int patch = warp; patch < patches; patch += kBatchWarps) {
      const int left = patch % patches_x * kPatchX, top = patch / patches_x * kPatchY;
      const int x = left + (lane & 7), y = top + (lane >> 3);
      const float px = x + 0.5f, py = y + 0.5f;
      const Box area = {left + 0.5f, top + 0.5f, left + kPatchX - 0.5f, top + kPatchY - 0.5f};
      Pixel value;
      for (int c = 0; c < kActive; ++c) value.v[c] = background[c];
      for (int base = 0; base < count; base += 32) {
        const int i = least(base + lane, count - 1);
        const float4 a = splats[2 * i];
        unsigned hits = __ballot_sync(
            kAll, base + lane < count && touches(a.x, a.y, a.z, a.w, splats[2 * i + 1].x, area, kLog2Limit));
        for (; hits; hits &= hits - 1) {
          const int s = base + __ffs(hits) - 1;
          const float4 a = splats[2 * s], b = splats[2 * s + 1];
          float color[4] = {b.y, b.z, b.w, 0};
          if constexpr (!kColorsInside)
            for (int c = 0; c < 4; ++c) color[c] = colors[4 * s + c];
          const float dx = px - a.x, e = (py - a.y) - a.z * dx;
          const float exponent = a.w * dx * dx + b.x * e * e;
          const float w = exponent >= kLog2Limit ? exp2_fast(exponent) : 0.0f;
          for (int c = 0; c < kActive; ++c) value.v[c] += w * color[c];
        }
      }
      if (x >= width || y >= height) continue;
      const Pixel t = load_pixel(target, y * width + x);
      for (int c = 0; c < kActive; ++c) {
        value.v[c] -= t.v[c];
        square += value.v[c] * value.v[c];
      }
      store_pixel(residual, y * width + x, value);
    }
  };
  for (int step = 0; step < steps; ++step) {
    draw();
    __syncthreads();
    const float4 now = schedule[step];
    for (int base = 4 * warp; base < count; base += 4 * kBatchWarps) {
      const int i = base + (lane >> 3);
      const float4 a = splats[2 * i], b = splats[2 * i + 1], d = more[i];
      float color[4] = {b.y, b.z, b.w, 0};
      if constexpr (!kColorsInside)
        for (int c = 0; c < 4; ++c) color[c] = colors[4 * i + c];
      Splat<float> s;
      s.mx = a.x, s.hx = d.x;
      const Range columns = columns_of(s, 0, width - 1);
      const int strips = columns.last >= columns.first ? (columns.last - columns.first + 8) / 8 : 0;
      Moments<float> m = {0, 0, 0, 0, 0};
      float v_color[4] = {0, 0, 0, 0};
      gather(a, b.x, d, color, columns.first, strips > 0 ? columns.last : -1, {0, 1, 0, 0}, warp_most(strips), residual,
             width, height, m, v_color);
      __syncwarp();
      for (int o = 1; o < 8; o <<= 1) {
        for (int c = 0; c < kActive; ++c) v_color[c] += __shfl_xor_sync(kAll, v_color[c], o);
        m.x += __shfl_xor_sync(kAll, m.x, o);
        m.e += __shfl_xor_sync(kAll, m.e, o);
        m.xx += __shfl_xor_sync(kAll, m.xx, o);
        m.xe += __shfl_xor_sync(kAll, m.xe, o);
        m.ee += __shfl_xor_sync(kAll, m.ee, o);
      }
      finish<false, false>(i, true, d, m, v_color, nullptr, splats, more, boxes, colors, params, first, second, nullptr,
                           nullptr, rates, now, {});
    }
    __syncthreads();
  }
  square = 0;
  draw();
  square = block_sum(square);
  for (int n = threadIdx.x; n < count * kFields; n += kBatchThreads)
    all_params[picture * count * kFields + n] = params[n];
  if (threadIdx.x == 0) {
    errors[picture] = square / (float(pixels) * CHANNELS);
    for (int c = 0; c < CHANNELS; ++c) backgrounds[picture * CHANNELS + c] = background[c];
  }
}

#endif

}  // namespace splat2d
