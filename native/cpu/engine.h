// The CPU engine: threads, buffers and the fit session over the leaf kernels.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

namespace splat2d {

std::vector<const InstructionSet*> supported_instruction_sets();  // best last
const InstructionSet& instruction_set();                          // the one in use
void use_instruction_set(const std::string& name);                // throws std::invalid_argument

// A zeroed picture owned by its user, see Planes.
template <class T> class Picture {
 public:
  Picture() = default;
  Picture(int width, int height, int channels);
  Planes<T> planes() const { return planes_; }
  Planes<const T> view() const {
    return {planes_.data, planes_.row, planes_.channel, planes_.width, planes_.height, planes_.channels};
  }

 private:
  struct Free {
    void operator()(T* p) const;
  };
  std::unique_ptr<T[], Free> memory_;
  Planes<T> planes_{};
};

// [field][splat] storage that grows; values beyond the count are zero.
template <class T> class Table {
 public:
  explicit Table(int fields) : fields_(fields) {}
  void resize(std::ptrdiff_t count);                     // keeps what is there
  void permute(const std::vector<std::int32_t>& order);  // keeps those listed, at most as many as there are
  std::ptrdiff_t count() const { return count_; }
  int fields() const { return fields_; }
  operator Fields<T>() { return {data_.data(), stride_}; }
  Fields<const T> view() const { return {data_.data(), stride_}; }

 private:
  int fields_;
  std::ptrdiff_t count_ = 0, stride_ = 0;
  std::vector<T> data_;
};

template <class T> struct SplatArrays {  // [N, 2], [N, 3], [N, C]
  const T* means;
  const T* log_cholesky;
  const T* colors;
  std::ptrdiff_t count;
  int channels;
};

// Pictures are [height, width, C]. threads <= 0: every core this process may use.
template <class T>
void render(SplatArrays<T> splats, const T* background, int width, int height, T cutoff, int threads, T* image);
// render() as 8 bits, see LevelsKernel.
void render_levels(SplatArrays<float> splats, const float* background, int width, int height, float cutoff, int threads,
                   std::uint8_t* image);
void levels(const float* image, int width, int height, int channels, std::uint8_t* out);
template <class T>
void render_backward(SplatArrays<T> splats, const T* d_image, int width, int height, T cutoff, int threads, T* d_means,
                     T* d_log_cholesky, T* d_colors);
// Pictures of as many splats each, one after another in every array: background [pictures][C] and so on.
template <class T>
void render_pictures(SplatArrays<T> first, std::ptrdiff_t pictures, const T* backgrounds, int width, int height,
                     T cutoff, int threads, T* images);
template <class T>
void render_pictures_backward(SplatArrays<T> first, std::ptrdiff_t pictures, const T* d_images, int width, int height,
                              T cutoff, int threads, T* d_means, T* d_log_cholesky, T* d_colors);
template <class T>
std::int64_t count_pairs(SplatArrays<T> splats, int width, int height, T cutoff, int threads);
double loss_gradient(const float* image, const float* target, int width, int height, int channels, LossWeights weights,
                     int threads, float* d_image);
double ssim(const float* image, const float* target, int width, int height, int channels, int threads);

// Pixel indices drawn in proportion to the weights, one per stratum of equal mass, ascending. All weights 0: uniform.
void draw(const float* weights, std::int64_t pixels, std::int64_t count, std::uint64_t seed, std::int64_t* out);

struct FitOptions {
  LossWeights weights;
  float rates[4];  // mean (pixels), log-diagonal, off-diagonal, colour
  float beta1, beta2;
  float log_min, log_max;  // limits of a and c
  int threads;
};

struct Evaluation {
  double squares, absolutes, clamped;  // sums over pixels and channels of weighted r^2 and |r|, clamped r^2
  double ssim;                         // mean of the map, 0 if the loss has no SSIM
};

template <class T> struct Binned;

// One picture being fitted: parameters, Adam moments, target and buffers.
class Fit {
 public:
  Fit(const float* target, const float* background, int width, int height, int channels, FitOptions options);
  ~Fit();
  // Clears the optimiser state. frozen [N], or null: splats whose flag is not 0 are drawn, but never changed.
  void set_splats(SplatArrays<float> splats, const float* frozen);
  void get_splats(float* means, float* log_cholesky, float* colors) const;
  std::ptrdiff_t count() const { return params_.count(); }
  int channels() const { return target_.planes().channels; }
  // One optimiser step per entry; rates[i] multiplies the learning rates. Returns the sum of squared residuals before
  // the last update.
  // With a coding (step > 0) they see the splats as they may come out of the decoder.
  double run(const float* rates, int steps, Coding coding);
  Evaluation evaluate();
  // Adds splats where the blurred squared error to the given power is high; sigma in pixels.
  void grow(std::int64_t added, float power, float sigma, std::uint64_t seed);
  // Drops the splats that contribute less, |colour|^2 e^(a + c), unless they are frozen.
  void prune(float energy);
  // Moves those that contribute least to where grow() would add some.
  void relocate(std::int64_t moved, float power, float sigma, std::uint64_t seed);
  // Sorts splats and their state along a Z-order curve, so that neighbours in memory are neighbours in the picture.
  void sort();

 private:
  void draw_residual(Fields<const float> drawn, std::ptrdiff_t tile);  // weighted, of one tile
  void render_residual();
  std::vector<float> energies() const;  // |colour|^2 e^(a + c); infinite if frozen
  std::vector<float> error_map(float power);
  void flatten(std::vector<float>& map, double count, float most) const;
  void place(const std::vector<std::int32_t>& indices, float power, float sigma, std::uint64_t seed);

  FitOptions options_;
  int threads_;
  std::vector<float> background_;
  Picture<float> target_, residual_, d_image_;
  Table<float> params_, first_, second_, frozen_;
  Table<float> perturbed_;  // params_ as the decoder may see them; empty unless a coding or frozen splats need it
  std::unique_ptr<Binned<float>> bins_;  // kept from step to step for its memory
  bool any_frozen_ = false;
  std::int64_t steps_ = 0;
};

}  // namespace splat2d
