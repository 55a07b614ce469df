// Leaf functions of the CPU engine: pointers and ranges only, no threads, no allocation.
// kernels.cpp is compiled once per instruction set; each copy fills one table.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../codec/leaves.h"
#include "../coding.h"
#include "../gaussian.h"

namespace splat2d {

// Pixels of a tile. A tile is written by one thread, in the order of its list: results do not depend on the threads.
constexpr int kTileWidth = 64, kTileHeight = 128;
constexpr int kLine = 16;                         // elements; rows of pixels start at multiples of this
constexpr int kChunk = 64;                        // splats that the update treats together
constexpr int kWindow = 11, kHalf = kWindow / 2;  // taps of the SSIM window
constexpr int kMoments = 4, kDerivatives = 3;     // rows of pictures that the SSIM blurs on the way in and out

// A picture as [row][channel][column], each channel row padded to whole lines. An odd number of lines per row spreads
// a column of pixels over the sets of the first-level cache.
template <class T> struct Planes {
  T* data;
  std::ptrdiff_t row, channel;  // elements from one row, one channel to the next
  int width, height, channels;
  T* at(int y, int c) const { return data + y * row + c * channel; }
};

// Splat parameters (or anything of their shape) as [field][splat]: x, y, a, b, c, then the C colours.
template <class T> struct Fields {
  T* data;
  std::ptrdiff_t stride;
  T* operator[](int field) const { return data + field * stride; }
};
constexpr int kGeometry = 5;

struct Tile {
  int x0, y0, x1, y1;  // pixels, end exclusive
};

struct AdamStep {
  float rate[4];  // mean, log-diagonal, off-diagonal, colour; the schedule already multiplied in
  float beta1, beta2;
  float correction1, correction2;  // 1 / (1 - beta^t)
  float log_min, log_max;          // limits of a and c; e^log_min also bounds a splat across its ridge
};

struct LossWeights {
  float l2, l1, ssim;
  float outside;  // of residuals beyond 0 or 1, see weight_of()
};

template <class T> struct Kernels {
  void (*prepare)(Fields<const T> params, std::ptrdiff_t begin, std::ptrdiff_t end, T cutoff, Splat<T>* out);
  // Adds the listed splats to one tile.
  void (*render_tile)(const Splat<T>* splats, Fields<const T> params, const std::int32_t* list, std::ptrdiff_t count,
                      T cutoff, Planes<T> image, Tile tile);
  // Gradients of splats begin..end (at most kChunk) into out[field][splat - begin].
  void (*gradient)(const Splat<T>* splats, Fields<const T> params, std::ptrdiff_t begin, std::ptrdiff_t end, T cutoff,
                   Planes<const T> d_image, T* out);
  void (*adam)(Fields<T> params, Fields<T> first, Fields<T> second, const T* gradient, std::ptrdiff_t begin,
               std::ptrdiff_t end, int channels, AdamStep step);
  std::int64_t (*count_pairs)(const Splat<T>* splats, std::ptrdiff_t begin, std::ptrdiff_t end, T cutoff, int width,
                              int height);
};

// Fits that must survive quantisation; float only.
struct CodingKernels {
  // The splats begin..end of params as they may come out of the decoder; frozen ones (flag not 0) as they are.
  void (*perturb)(Fields<const float> params, const float* frozen, std::ptrdiff_t begin, std::ptrdiff_t end,
                  int channels, Coding coding, int step, Fields<float> out);
  // gradient[field][splat - begin] of the perturbed splats becomes that of params, and the rate's is added.
  void (*pull_back)(Fields<const float> params, Fields<const float> perturbed, std::ptrdiff_t begin, std::ptrdiff_t end,
                    int channels, Coding coding, float* gradient);
};

// Whole-picture work of the losses; float only.
struct LossKernels {
  // image = background - target over a tile: what rendering adds to it ends up as the residual.
  void (*clear)(Planes<float> image, Planes<const float> target, const float* background, Tile tile);
  // Residuals times their weights, in place: what all of the following take.
  void (*weigh)(Planes<float> residual, Planes<const float> target, float outside, Tile tile);
  // residual -> gradient in place; returns nothing, the loss is asked for separately.
  void (*pointwise)(Planes<float> residual, Planes<const float> target, LossWeights weights, Tile tile);
  // Sums over a tile: weight residual^2, weight |residual|, and residual^2 after a clamp of the picture to [0, 1].
  void (*sums)(Planes<const float> residual, Planes<const float> target, float outside, Tile tile, double out[3]);
  // Rows first..last of dSSIM/dimage times scale, added to d (skipped where d.data is null); returns the sum of the
  // SSIM map over these rows within the margin. scratch: ssim_scratch() floats.
  // center: about the mean of each channel of the target.
  double (*ssim)(Planes<const float> residual, Planes<const float> target, const float* center, Planes<float> d,
                 int first, int last, int margin, float scale, float outside, float* scratch);
};

// Pixels of a row, one channel after another -> 8 bits, interleaved: values in [0, 1] as 0 to 255, clamped. Of four
// channels the last is alpha, and divided out of the others.
typedef void LevelsKernel(const float* row, std::ptrdiff_t channel, std::ptrdiff_t pixels, int channels,
                          std::uint8_t* out);

struct InstructionSet {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
  CodingKernels coding;
  LossKernels loss;
  LevelsKernel* levels;
  CodecKernels codec;
};

std::ptrdiff_t ssim_scratch(Planes<const float> image);

}  // namespace splat2d
