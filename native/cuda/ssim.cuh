// SSIM (Wang et al. 2004) with its gradient: 11 taps of sigma 1.5, windows cut at the border and renormalised.
//
// A block has a tile of a group of channels, one channel after the other: four channels share a cache line. It blurs
// across and then down; a thread makes several neighbours from the values that it has in registers.
#pragma once

#include "../residual.h"
#include "../ssim.h"
#include "common.cuh"

namespace splat2d {

constexpr int kWindow = 11, kHalf = kWindow / 2;
constexpr int kBlockX = 32, kBlockY = 16;  // pixels of a tile
constexpr int kSsimThreads = 256;
constexpr int kTall = kBlockY + 2 * kHalf, kWide = kBlockX + 2 * kHalf;  // with the reach of the window
constexpr int kStride = (kWide + 3) / 4 * 4;                             // of a row, for loads of four values
constexpr int kAcross = 4, kDown = kBlockX * kBlockY / kSsimThreads;     // neighbours that a thread makes

struct Window {
  float tap[kWindow];
};
__device__ __forceinline__ Window symmetric(float t0, float t1, float t2, float t3, float t4, float middle) {
  return {{t0, t1, t2, t3, t4, middle, t4, t3, t2, t1, t0}};
}

__device__ __forceinline__ float inside(const Window& w, int i, int n) {  // mass of the window in a line of n pixels
  float mass = 0;
  for (int k = 0; k < kWindow; ++k) mass += i + k >= kHalf && i + k - kHalf < n ? w.tap[k] : 0.0f;
  return mass;
}

__device__ __forceinline__ float channel_at(const float* planes, int c, size_t p, size_t pixels) {
  return planes[(size_t(c / 4) * pixels + p) * kLanes + c % 4];
}

typedef float Padded[kTall][kStride];
typedef float Rows[kTall][kBlockX];

// A thread's part of a row, with the reach of the window.
struct Run {
  float v[kAcross + 2 * kHalf + 2];  // two more than it needs: loaded by fours
};
__device__ __forceinline__ Run load_run(const Padded& from, int y, int x) {
  Run run;
  const float4* at = reinterpret_cast<const float4*>(&from[y][x]);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float4 q = at[k];
    run.v[4 * k] = q.x, run.v[4 * k + 1] = q.y, run.v[4 * k + 2] = q.z, run.v[4 * k + 3] = q.w;
  }
  return run;
}

// The blur across of value(i), i an element of the run.
template <class F>
__device__ __forceinline__ void blur_across(const Window& w, const F& value, Rows& to, int y, int x) {
  float sum[kAcross] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kAcross + kWindow - 1; ++i) {
    const float v = value(i);
#pragma unroll
    for (int j = 0; j < kAcross; ++j)
      if (i >= j && i - j < kWindow) sum[j] += w.tap[i - j] * v;
  }
  *reinterpret_cast<float4*>(&to[y][x]) = make_float4(sum[0], sum[1], sum[2], sum[3]);
}

__device__ __forceinline__ void blur_down(const Window& w, const Rows& from, int y, int x, float (&sum)[kDown]) {
  for (int j = 0; j < kDown; ++j) sum[j] = 0;
#pragma unroll
  for (int i = 0; i < kDown + kWindow - 1; ++i) {
    const float v = from[y + i][x];
#pragma unroll
    for (int j = 0; j < kDown; ++j)
      if (i >= j && i - j < kWindow) sum[j] += w.tap[i - j] * v;
  }
}

// The SSIM map of the channels of group blockIdx.z and its derivatives by the window's sums, [3][CHANNELS][pixel]; the
// sum of the map per block -> map_sums. Pictures are taken relative to the background, near their mean.
extern "C" __global__ void __launch_bounds__(kSsimThreads, 4)
    ssim_map(const float* __restrict__ residual, const float* __restrict__ target, const float* __restrict__ background,
             float* __restrict__ derivatives, float* map_sums, int width, int height, float t0, float t1, float t2,
             float t3, float t4, float middle) {
  __shared__ __align__(16) Padded a, b;
  __shared__ __align__(16) Rows rows[4];
  __shared__ float mass_x[kBlockX], mass_y[kBlockY];
  const int x0 = blockIdx.x * kBlockX, y0 = blockIdx.y * kBlockY;
  const size_t pixels = size_t(width) * height;
  const Window w = symmetric(t0, t1, t2, t3, t4, middle);
  if (threadIdx.x < kBlockX) mass_x[threadIdx.x] = inside(w, x0 + threadIdx.x, width);
  if (threadIdx.x < kBlockY) mass_y[threadIdx.x] = inside(w, y0 + threadIdx.x, height);
  float map_sum = 0;
  for (int c = 4 * blockIdx.z; c < least(4 * int(blockIdx.z) + 4, CHANNELS); ++c) {
    const float center = background[c];
    for (int n = threadIdx.x; n < kTall * kStride; n += kSsimThreads) {
      const int x = x0 + n % kStride - kHalf, y = y0 + n / kStride - kHalf;
      float va = 0, vb = 0;
      if (x >= 0 && x < width && y >= 0 && y < height) {
        const size_t p = size_t(y) * width + x;
        vb = channel_at(target, c, p, pixels) - center;
        va = channel_at(residual, c, p, pixels) + vb;
      }
      a[n / kStride][n % kStride] = va;
      b[n / kStride][n % kStride] = vb;
    }
    __syncthreads();
    for (int n = threadIdx.x; n < kTall * kBlockX / kAcross; n += kSsimThreads) {
      const int x = n % (kBlockX / kAcross) * kAcross, y = n / (kBlockX / kAcross);
      const Run va = load_run(a, y, x), vb = load_run(b, y, x);
      blur_across(w, [&](int i) { return va.v[i]; }, rows[0], y, x);
      blur_across(w, [&](int i) { return vb.v[i]; }, rows[1], y, x);
      blur_across(w, [&](int i) { return va.v[i] * va.v[i] + vb.v[i] * vb.v[i]; }, rows[2], y, x);
      blur_across(w, [&](int i) { return va.v[i] * vb.v[i]; }, rows[3], y, x);
    }
    __syncthreads();
    const int lx = threadIdx.x % kBlockX, ly = threadIdx.x / kBlockX * kDown;
    float m[4][kDown];
    for (int q = 0; q < 4; ++q) blur_down(w, rows[q], ly, lx, m[q]);
    for (int j = 0; j < kDown; ++j) {
      const int x = x0 + lx, y = y0 + ly + j;
      if (x >= width || y >= height) continue;
      const SsimPixel s = ssim_pixel(m[0][j], m[1][j], m[2][j], m[3][j], mass_x[lx] * mass_y[ly + j], center);
      map_sum += s.value;
      float* out = derivatives + c * pixels + size_t(y) * width + x;
      out[0] = s.by_a;
      out[CHANNELS * pixels] = s.by_squares;
      out[2 * CHANNELS * pixels] = s.by_product;
    }
  }
  map_sum = block_sum(map_sum);
  if (threadIdx.x == 0) map_sums[(size_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = map_sum;
}

// d = l2 residual + weight (half_l1 sign(residual) + scale dSSIM/dimage), of weighted residuals, see weight_of().
extern "C" __global__ void __launch_bounds__(kSsimThreads, 6)
    ssim_gradient(const float* __restrict__ residual, const float* __restrict__ target,
                  const float* __restrict__ background, const float* __restrict__ derivatives, float* __restrict__ d,
                  int width, int height, float l2, float half_l1, float scale, float outside, float t0, float t1,
                  float t2, float t3, float t4, float middle) {
  __shared__ __align__(16) Padded in[3];
  __shared__ __align__(16) Rows rows[3];
  const int x0 = blockIdx.x * kBlockX, y0 = blockIdx.y * kBlockY;
  const size_t pixels = size_t(width) * height;
  const Window w = symmetric(t0, t1, t2, t3, t4, middle);
  for (int c = 4 * blockIdx.z; c < least(4 * int(blockIdx.z) + 4, CHANNELS); ++c) {
    for (int n = threadIdx.x; n < kTall * kStride; n += kSsimThreads) {
      const int x = x0 + n % kStride - kHalf, y = y0 + n / kStride - kHalf;
      const bool there = x >= 0 && x < width && y >= 0 && y < height;
      const float* at = derivatives + c * pixels + size_t(y) * width + x;
      for (int q = 0; q < 3; ++q) in[q][n / kStride][n % kStride] = there ? at[q * CHANNELS * pixels] : 0.0f;
    }
    __syncthreads();
    for (int n = threadIdx.x; n < kTall * kBlockX / kAcross; n += kSsimThreads) {
      const int x = n % (kBlockX / kAcross) * kAcross, y = n / (kBlockX / kAcross);
      for (int q = 0; q < 3; ++q) {
        const Run run = load_run(in[q], y, x);
        blur_across(w, [&](int i) { return run.v[i]; }, rows[q], y, x);
      }
    }
    __syncthreads();
    const int lx = threadIdx.x % kBlockX, ly = threadIdx.x / kBlockX * kDown;
    float m[3][kDown];
    for (int q = 0; q < 3; ++q) blur_down(w, rows[q], ly, lx, m[q]);
    for (int j = 0; j < kDown; ++j) {
      const int x = x0 + lx, y = y0 + ly + j;
      if (x >= width || y >= height) continue;
      const size_t p = size_t(y) * width + x;
      const float r = channel_at(residual, c, p, pixels);
      const float t = channel_at(target, c, p, pixels), vb = t - background[c], va = r + vb;
      const float by_l1 = r > 0 ? half_l1 : r < 0 ? -half_l1 : 0.0f;
      d[(size_t(c / 4) * pixels + p) * kLanes + c % 4] =
          l2 * r + weight_of(r, t, outside) * (by_l1 + scale * (m[0][j] + 2 * va * m[1][j] + vb * m[2][j]));
    }
  }
}

}  // namespace splat2d
