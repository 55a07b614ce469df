// Pictures in and out, sums over the residual, and SSIM with its gradient.
#pragma once

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

// Sums of residual^2, |residual| and residual^2 after a clamp of the picture to [0, 1] -> state->sums[0..2].
extern "C" __global__ void __launch_bounds__(256)
    measure(State* state, const float* __restrict__ residual, const float* __restrict__ target, double* partials,
            long long pixels) {
  double sums[3] = {0, 0, 0};
  for (int g = 0; g < kGroups; ++g)
    for (size_t p = blockIdx.x * size_t(blockDim.x) + threadIdx.x; p < pixels; p += size_t(gridDim.x) * blockDim.x) {
      const Pixel r = load_pixel(residual + g * size_t(pixels) * kLanes, p);
      const Pixel t = load_pixel(target + g * size_t(pixels) * kLanes, p);
      float squares = 0, absolutes = 0, clamped = 0;
      for (int c = 0; c < kActive; ++c) {
        const float k = clamp(t.v[c] + r.v[c], 0.0f, 1.0f) - t.v[c];
        squares += r.v[c] * r.v[c];
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

// ---- SSIM (Wang et al. 2004), 11 taps of sigma 1.5, windows cut at the border and renormalised ----

constexpr int kWindow = 11, kHalf = kWindow / 2;
constexpr int kBlockX = 32, kBlockY = 16;                                // pixels of a block
constexpr int kWide = kBlockX + 2 * kHalf, kTall = kBlockY + 2 * kHalf;  // with the reach of the window
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;

struct Window {
  float tap[kWindow];
};

__device__ __forceinline__ float inside(const Window& w, int i,
                                        int n) {  // mass of the window within a line of n pixels
  float mass = 0;
  for (int k = 0; k < kWindow; ++k) mass += i + k >= kHalf && i + k - kHalf < n ? w.tap[k] : 0.0f;
  return mass;
}

__device__ __forceinline__ float channel_at(const float* planes, int c, size_t p, size_t pixels) {
  return planes[(size_t(c / 4) * pixels + p) * kLanes + c % 4];
}

// Blurs columns of Q quantities that wait in rows[q][kTall][kBlockX].
template <int Q> __device__ __forceinline__ void blur_down(const float (&rows)[Q][kTall][kBlockX], const Window& w,
                                                           int x, int y, float (&out)[Q]) {
  for (int q = 0; q < Q; ++q) {
    out[q] = 0;
    for (int k = 0; k < kWindow; ++k) out[q] += w.tap[k] * rows[q][y + k][x];
  }
}

// The SSIM map of channel blockIdx.z and its derivatives by the window's sums, [3][CHANNELS][pixel]; the sum of the map
// per block -> map_sums. Pictures are taken relative to the background, near their mean: see the CPU engine.
extern "C" __global__ void __launch_bounds__(256)
    ssim_map(const float* __restrict__ residual, const float* __restrict__ target, const float* __restrict__ background,
             const Window* window, float* __restrict__ derivatives, float* map_sums, int width, int height) {
  __shared__ float a[kTall][kWide], b[kTall][kWide];
  __shared__ float rows[4][kTall][kBlockX];
  const int c = blockIdx.z, x0 = blockIdx.x * kBlockX, y0 = blockIdx.y * kBlockY;
  const size_t pixels = size_t(width) * height;
  const Window w = *window;
  const float center = background[c];
  for (int n = threadIdx.x; n < kWide * kTall; n += blockDim.x) {
    const int x = x0 + n % kWide - kHalf, y = y0 + n / kWide - kHalf;
    float va = 0, vb = 0;
    if (x >= 0 && x < width && y >= 0 && y < height) {
      const size_t p = size_t(y) * width + x;
      vb = channel_at(target, c, p, pixels) - center;
      va = channel_at(residual, c, p, pixels) + vb;
    }
    a[n / kWide][n % kWide] = va;
    b[n / kWide][n % kWide] = vb;
  }
  __syncthreads();
  for (int n = threadIdx.x; n < kBlockX * kTall; n += blockDim.x) {
    const int x = n % kBlockX, y = n / kBlockX;
    float sum[4] = {0, 0, 0, 0};
    for (int k = 0; k < kWindow; ++k) {
      const float va = a[y][x + k], vb = b[y][x + k], t = w.tap[k];
      sum[0] += t * va, sum[1] += t * vb, sum[2] += t * (va * va + vb * vb), sum[3] += t * (va * vb);
    }
    for (int q = 0; q < 4; ++q) rows[q][y][x] = sum[q];
  }
  __syncthreads();
  float map_sum = 0;
  for (int n = threadIdx.x; n < kBlockX * kBlockY; n += blockDim.x) {
    const int lx = n % kBlockX, ly = n / kBlockX, x = x0 + lx, y = y0 + ly;
    if (x >= width || y >= height) continue;
    float m[4];
    blur_down(rows, w, lx, ly, m);
    const float inverse = 1.0f / (inside(w, x, width) * inside(w, y, height));
    const float ma = m[0] * inverse, mb = m[1] * inverse;
    const float variances = greatest(m[2] * inverse - ma * ma - mb * mb, 0.0f);
    const float covariance = clamp(m[3] * inverse - ma * mb, -0.5f * variances, 0.5f * variances);
    const float mean_a = ma + center, mean_b = mb + center;
    const float light = 2 * mean_a * mean_b + kC1, texture = 2 * covariance + kC2;
    const float b1 = 1.0f / (mean_a * mean_a + mean_b * mean_b + kC1), b2 = 1.0f / (variances + kC2);
    const float ssim = light * texture * b1 * b2;
    const float by_product = 2 * light * b1 * b2, by_squares = -ssim * b2;
    const float by_mean = 2 * mean_b * texture * b1 * b2 - 2 * mean_a * ssim * b1;
    map_sum += ssim;
    float* out = derivatives + c * pixels + size_t(y) * width + x;
    out[0] = inverse * (by_mean - 2 * ma * by_squares - mb * by_product);
    out[CHANNELS * pixels] = inverse * by_squares;
    out[2 * CHANNELS * pixels] = inverse * by_product;
  }
  map_sum = block_sum(map_sum);
  if (threadIdx.x == 0) map_sums[(size_t(c) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = map_sum;
}

// d = l2 residual + half_l1 sign(residual) + scale dSSIM/dimage.
extern "C" __global__ void __launch_bounds__(256)
    ssim_gradient(const float* __restrict__ residual, const float* __restrict__ target,
                  const float* __restrict__ background, const Window* window, const float* __restrict__ derivatives,
                  float* __restrict__ d, int width, int height, float l2, float half_l1, float scale) {
  __shared__ float in[3][kTall][kWide];
  __shared__ float rows[3][kTall][kBlockX];
  const int c = blockIdx.z, x0 = blockIdx.x * kBlockX, y0 = blockIdx.y * kBlockY;
  const size_t pixels = size_t(width) * height;
  const Window w = *window;
  for (int n = threadIdx.x; n < kWide * kTall; n += blockDim.x) {
    const int x = x0 + n % kWide - kHalf, y = y0 + n / kWide - kHalf;
    const bool there = x >= 0 && x < width && y >= 0 && y < height;
    for (int q = 0; q < 3; ++q)
      in[q][n / kWide][n % kWide] = there ? derivatives[(q * CHANNELS + c) * pixels + size_t(y) * width + x] : 0.0f;
  }
  __syncthreads();
  for (int n = threadIdx.x; n < kBlockX * kTall; n += blockDim.x) {
    const int x = n % kBlockX, y = n / kBlockX;
    for (int q = 0; q < 3; ++q) {
      float sum = 0;
      for (int k = 0; k < kWindow; ++k) sum += w.tap[k] * in[q][y][x + k];
      rows[q][y][x] = sum;
    }
  }
  __syncthreads();
  for (int n = threadIdx.x; n < kBlockX * kBlockY; n += blockDim.x) {
    const int lx = n % kBlockX, ly = n / kBlockX, x = x0 + lx, y = y0 + ly;
    if (x >= width || y >= height) continue;
    float m[3];
    blur_down(rows, w, lx, ly, m);
    const size_t p = size_t(y) * width + x;
    const float r = channel_at(residual, c, p, pixels);
    const float vb = channel_at(target, c, p, pixels) - background[c], va = r + vb;
    d[(size_t(c / 4) * pixels + p) * kLanes + c % 4] = l2 * r +
                                                       (r > 0   ? half_l1
                                                        : r < 0 ? -half_l1
                                                                : 0.0f) +
                                                       scale * (m[0] + 2 * va * m[1] + vb * m[2]);
  }
}

}  // namespace splat2d
