// SSIM (Wang et al. 2004) with its gradient: 11 taps of sigma 1.5, windows cut at the border and renormalised.
#pragma once

#include "../ssim.h"
#include "common.cuh"

namespace splat2d {

constexpr int kWindow = 11, kHalf = kWindow / 2;
constexpr int kBlockX = 32, kBlockY = 16;                                // pixels of a block
constexpr int kWide = kBlockX + 2 * kHalf, kTall = kBlockY + 2 * kHalf;  // with the reach of the window

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
    const SsimPixel s = ssim_pixel(m[0], m[1], m[2], m[3], inside(w, x, width) * inside(w, y, height), center);
    map_sum += s.value;
    float* out = derivatives + c * pixels + size_t(y) * width + x;
    out[0] = s.by_a;
    out[CHANNELS * pixels] = s.by_squares;
    out[2 * CHANNELS * pixels] = s.by_product;
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
