#include "engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>

#include "../residual.h"
#include "parallel.h"

namespace splat2d {
namespace {

template <class T> const Kernels<T>& kernels();
template <> const Kernels<float>& kernels<float>() { return instruction_set().f32; }
template <> const Kernels<double>& kernels<double>() { return instruction_set().f64; }

int team_size(int threads) { return threads > 0 ? threads : available_threads(); }
std::ptrdiff_t share(std::ptrdiff_t count, int part, int parts) { return count * part / parts; }
std::ptrdiff_t divide_up(std::ptrdiff_t a, std::ptrdiff_t b) { return (a + b - 1) / b; }

}  // namespace

struct TileGrid {
  int width, height;  // pixels
  int columns, rows;
  TileGrid(int w, int h)
      : width(w), height(h), columns(int(divide_up(w, kTileWidth))), rows(int(divide_up(h, kTileHeight))) {}
  std::ptrdiff_t count() const { return std::ptrdiff_t(columns) * rows; }
  Tile tile(std::ptrdiff_t i) const {
    const int x = int(i % columns) * kTileWidth, y = int(i / columns) * kTileHeight;
    return {x, y, std::min(x + kTileWidth, width), std::min(y + kTileHeight, height)};
  }
};

// The splats of one state, made ready, and for each tile the ascending list of those that touch it.
template <class T> struct Binned {
  TileGrid grid;
  T cutoff;
  std::vector<Splat<T>> splats;
  std::vector<std::int32_t> cursor;  // [thread][tile]: count, then where that thread's entries go
  std::vector<std::ptrdiff_t> offset;
  std::vector<std::int32_t> list;

  Binned(int width, int height, T cutoff) : grid(width, height), cutoff(cutoff), offset(grid.count() + 1) {}

  // Called by every thread of a team.
  void bin(Team& team, int thread, Fields<const T> params, std::ptrdiff_t count) {
    const std::ptrdiff_t tiles = grid.count();
    team.once(thread, [&] {
      splats.resize(count);
      cursor.assign(tiles * team.threads(), 0);
    });
    const std::ptrdiff_t begin = share(count, thread, team.threads()), end = share(count, thread + 1, team.threads());
    std::int32_t* mine = cursor.data() + tiles * thread;
    kernels<T>().prepare(params, begin, end, cutoff, splats.data());
    for (std::ptrdiff_t i = begin; i < end; ++i) for_tiles(splats[i], [&](std::ptrdiff_t tile) { ++mine[tile]; });
    team.once(thread, [&] {
      std::ptrdiff_t total = 0;
      for (std::ptrdiff_t tile = 0; tile < tiles; ++tile) {
        offset[tile] = total;
        std::int32_t within = 0;
        for (int t = 0; t < team.threads(); ++t) {
          const std::int32_t n = cursor[tiles * t + tile];
          cursor[tiles * t + tile] = within;
          within += n;
        }
        total += within;
      }
      offset[tiles] = total;
      list.resize(total);
    });
    for (std::ptrdiff_t i = begin; i < end; ++i)
      for_tiles(splats[i], [&](std::ptrdiff_t tile) { list[offset[tile] + mine[tile]++] = std::int32_t(i); });
    team.wait();
  }

  void render(Fields<const T> params, Planes<T> image, std::ptrdiff_t tile) const {
    const Tile area = grid.tile(tile);
    kernels<T>().render_tile(splats.data(), params, list.data() + offset[tile], offset[tile + 1] - offset[tile], cutoff,
                             image, area);
    // Strips write whole lines. What lies past the picture must stay 0, or gradients would count it.
    if (area.x1 == grid.width)
      for (int y = area.y0; y < area.y1; ++y)
        for (int c = 0; c < image.channels; ++c)
          for (int x = grid.width; x % kLine; ++x) image.at(y, c)[x] = 0;
  }

  template <class F> void for_tiles(const Splat<T>& s, F use) const {
    const Range columns = columns_of(s, 0, grid.width - 1);
    if (columns.first > columns.last) return;
    for (int column = columns.first / kTileWidth; column <= columns.last / kTileWidth; ++column) {
      const int x = column * kTileWidth;
      const Range rows = columns.first >= x && columns.last < x + kTileWidth
                             ? rows_of(s, 0, grid.height - 1)
                             : rows_of(s, x, std::min(x + kTileWidth, grid.width) - 1, 0, grid.height - 1);
      if (rows.first > rows.last) continue;
      for (int row = rows.first / kTileHeight; row <= rows.last / kTileHeight; ++row)
        use(std::ptrdiff_t(row) * grid.columns + column);
    }
  }
};

namespace {

template <class T> Table<T> to_table(SplatArrays<T> splats) {
  Table<T> table(kGeometry + splats.channels);
  table.resize(splats.count);
  Fields<T> f = table;
  for (std::ptrdiff_t i = 0; i < splats.count; ++i) {
    for (int k = 0; k < 2; ++k) f[k][i] = splats.means[2 * i + k];
    for (int k = 0; k < 3; ++k) f[2 + k][i] = splats.log_cholesky[3 * i + k];
    for (int k = 0; k < splats.channels; ++k) f[kGeometry + k][i] = splats.colors[splats.channels * i + k];
  }
  return table;
}

template <class T> void from_fields(Fields<const T> f, std::ptrdiff_t count, int channels, T* means, T* log_cholesky,
                                    T* colors) {
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    for (int k = 0; k < 2; ++k) means[2 * i + k] = f[k][i];
    for (int k = 0; k < 3; ++k) log_cholesky[3 * i + k] = f[2 + k][i];
    for (int k = 0; k < channels; ++k) colors[channels * i + k] = f[kGeometry + k][i];
  }
}

// value(y, c, x) of each pixel -> planes
template <class T, class F> void fill_planes(Planes<T> planes, int threads, F value) {
  parallel_for(threads, planes.height, [&](std::ptrdiff_t y) {
    for (int c = 0; c < planes.channels; ++c)
      for (int x = 0; x < planes.width; ++x) planes.at(int(y), c)[x] = value(int(y), c, x);
  });
}

// Pixels of a row, one channel after another -> interleaved.
template <class T, int C> void interleave(const T* row, std::ptrdiff_t channel, int pixels, int channels, T* out) {
  for (int x = 0; x < pixels; ++x)
    for (int c = 0; c < (C ? C : channels); ++c) out[std::ptrdiff_t(x) * (C ? C : channels) + c] = row[c * channel + x];
}
template <class T> auto interleave_for(int channels) {
  switch (channels) {
    case 1:
      return interleave<T, 1>;
    case 3:
      return interleave<T, 3>;
    case 4:
      return interleave<T, 4>;
    default:
      return interleave<T, 0>;
  }
}

template <class T> void from_planes(Planes<const T> planes, int threads, T* image) {
  const std::ptrdiff_t stride = std::ptrdiff_t(planes.width) * planes.channels;
  parallel_for(threads, planes.height, [&](std::ptrdiff_t y) {
    interleave_for<T>(planes.channels)(planes.at(int(y), 0), planes.channel, planes.width, planes.channels,
                                       image + y * stride);
  });
}

// Interleaved picture as a function for fill_planes.
template <class T> auto interleaved(const T* image, int width, int channels) {
  return [=](int y, int c, int x) { return image[(std::ptrdiff_t(y) * width + x) * channels + c]; };
}

// Rows per unit of SSIM work: each unit repeats 2 x kHalf rows above and below it.
constexpr int kBand = 64;

// Mean of each channel of a picture [height, width, C].
std::vector<float> channel_means(const float* image, int width, int height, int channels) {
  std::vector<double> sums(channels);
  for (std::ptrdiff_t p = 0; p < std::ptrdiff_t(width) * height; ++p)
    for (int c = 0; c < channels; ++c) sums[c] += image[p * channels + c];
  std::vector<float> means(channels);
  for (int c = 0; c < channels; ++c) means[c] = float(sums[c] / (double(width) * height));
  return means;
}

// Adds scale * d(sum of the SSIM map)/dimage to d (if it has data); the sum of the map within the margin, in row order.
double ssim_sum(Planes<const float> residual, Planes<const float> target, const float* center, Planes<float> d,
                int margin, float scale, float outside, int threads) {
  const std::ptrdiff_t bands = divide_up(residual.height, kBand);
  std::vector<double> sums(bands);
  parallel_for(threads, bands, [&](std::ptrdiff_t band) {
    std::vector<float> scratch(ssim_scratch(residual));
    const int first = int(band) * kBand, last = std::min(first + kBand, residual.height) - 1;
    sums[band] =
        instruction_set().loss.ssim(residual, target, center, d, first, last, margin, scale, outside, scratch.data());
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

std::ptrdiff_t ssim_scratch(Planes<const float> image) {
  // Two rings, a row per moment and derivative, and five more.
  return std::ptrdiff_t((kWindow + 1) * (kMoments + kDerivatives) + 5) * (image.width + 2 * kHalf);
}

template <class T> Picture<T>::Picture(int width, int height, int channels) {
  const std::ptrdiff_t channel = divide_up(width, kLine) * kLine;
  std::ptrdiff_t row = channel * channels;
  if (row / kLine % 2 == 0) row += kLine;
  const std::size_t bytes = sizeof(T) * row * height;
  T* p = static_cast<T*>(::operator new[](bytes, std::align_val_t(64)));
  memory_.reset(p);
  std::memset(p, 0, bytes);
  planes_ = {p, row, channel, width, height, channels};
}
template <class T> void Picture<T>::Free::operator()(T* p) const { ::operator delete[](p, std::align_val_t(64)); }
template class Picture<float>;
template class Picture<double>;

template <class T> void Table<T>::resize(std::ptrdiff_t count) {
  if (count > stride_) {
    const std::ptrdiff_t stride = divide_up(count, kLine) * kLine;
    std::vector<T> data(stride * fields_);
    for (int f = 0; f < fields_; ++f) std::copy_n(data_.data() + f * stride_, count_, data.data() + f * stride);
    data_ = std::move(data);
    stride_ = stride;
  }
  count_ = count;
}
template <class T> void Table<T>::permute(const std::vector<std::int32_t>& order) {
  std::vector<T> sorted(order.size());
  for (int f = 0; f < fields_; ++f) {
    T* field = data_.data() + f * stride_;
    for (std::size_t i = 0; i < order.size(); ++i) sorted[i] = field[order[i]];
    std::copy(sorted.begin(), sorted.end(), field);
    std::fill(field + order.size(), field + count_, T(0));
  }
  count_ = std::ptrdiff_t(order.size());
}
template class Table<float>;
template class Table<double>;

namespace {

// to_pixels: as interleave.
template <class T, class Out, class ToPixels>
void render_with(SplatArrays<T> arrays, const T* background, int width, int height, T cutoff, int threads, Out* image,
                 ToPixels to_pixels) {
  threads = team_size(threads);
  Table<T> table = to_table(arrays);
  const int channels = arrays.channels;
  Binned<T> binned(width, height, cutoff);
  Deck tiles;
  parallel(threads, [&](Team& team, int thread) {
    binned.bin(team, thread, table.view(), table.count());
    Picture<T> scratch;  // a tile, so that the picture is written once
    tiles.deal(binned.grid.count(), [&](std::ptrdiff_t tile) {
      if (!scratch.planes().data)
        scratch = Picture<T>(std::min(width, kTileWidth), std::min(height, kTileHeight), channels);
      const Tile area = binned.grid.tile(tile);
      Planes<T> planes = scratch.planes();
      for (int y = 0; y < planes.height; ++y)
        for (int c = 0; c < channels; ++c) std::fill_n(planes.at(y, c), planes.channel, background[c]);
      planes.data -= area.y0 * planes.row + area.x0;
      binned.render(table.view(), planes, tile);
      for (int y = area.y0; y < area.y1; ++y)
        to_pixels(planes.at(y, 0) + area.x0, planes.channel, area.x1 - area.x0, channels,
                  image + (std::ptrdiff_t(y) * width + area.x0) * channels);
    });
  });
}

}  // namespace

template <class T>
void render(SplatArrays<T> splats, const T* background, int width, int height, T cutoff, int threads, T* image) {
  render_with(splats, background, width, height, cutoff, threads, image, interleave_for<T>(splats.channels));
}

void render_levels(SplatArrays<float> splats, const float* background, int width, int height, float cutoff, int threads,
                   std::uint8_t* image) {
  render_with(splats, background, width, height, cutoff, threads, image, instruction_set().levels);
}

void levels(const float* image, int width, int height, int channels, std::uint8_t* out) {
  const std::ptrdiff_t stride = std::ptrdiff_t(width) * channels;
  std::vector<float> row(channels == 4 ? stride : 0);
  for (int y = 0; y < height; ++y, image += stride, out += stride) {
    if (channels != 4) {  // every value for itself
      instruction_set().levels(image, 0, stride, 1, out);
      continue;
    }
    for (int c = 0; c < channels; ++c)
      for (int x = 0; x < width; ++x) row[std::ptrdiff_t(c) * width + x] = image[channels * x + c];
    instruction_set().levels(row.data(), width, width, channels, out);
  }
}

template <class T>
void render_backward(SplatArrays<T> arrays, const T* d_image, int width, int height, T cutoff, int threads, T* d_means,
                     T* d_log_cholesky, T* d_colors) {
  threads = team_size(threads);
  Table<T> table = to_table(arrays), gradients(table.fields());
  gradients.resize(table.count());
  Picture<T> picture(width, height, arrays.channels);
  fill_planes(picture.planes(), threads, interleaved(d_image, width, arrays.channels));
  std::vector<Splat<T>> splats(table.count());
  Fields<T> out = gradients;
  parallel_for(threads, divide_up(table.count(), kChunk), [&](std::ptrdiff_t chunk) {
    const std::ptrdiff_t begin = chunk * kChunk, end = std::min(begin + kChunk, table.count());
    std::vector<T> local(std::size_t(kChunk) * table.fields());
    kernels<T>().prepare(table.view(), begin, end, cutoff, splats.data());
    kernels<T>().gradient(splats.data(), table.view(), begin, end, cutoff, picture.view(), local.data());
    for (int f = 0; f < table.fields(); ++f) std::copy_n(local.data() + f * kChunk, end - begin, out[f] + begin);
  });
  from_fields(gradients.view(), table.count(), arrays.channels, d_means, d_log_cholesky, d_colors);
}

namespace {

// draw(picture, threads) for each: a thread draws a picture alone where no thread would be left without one.
template <class F> void for_pictures(int threads, std::ptrdiff_t pictures, F draw) {
  threads = team_size(threads);
  if (pictures >= threads) {
    parallel_for(threads, pictures, [&](std::ptrdiff_t i) { draw(i, 1); });
  } else {
    for (std::ptrdiff_t i = 0; i < pictures; ++i) draw(i, threads);
  }
}

template <class T> SplatArrays<T> nth(SplatArrays<T> first, std::ptrdiff_t i) {
  const std::ptrdiff_t n = first.count;
  return {first.means + i * n * 2, first.log_cholesky + i * n * 3, first.colors + i * n * first.channels, n,
          first.channels};
}

}  // namespace

template <class T>
void render_pictures(SplatArrays<T> first, std::ptrdiff_t pictures, const T* backgrounds, int width, int height,
                     T cutoff, int threads, T* images) {
  const std::ptrdiff_t values = std::ptrdiff_t(width) * height * first.channels;
  for_pictures(threads, pictures, [&](std::ptrdiff_t i, int each) {
    render(nth(first, i), backgrounds + i * first.channels, width, height, cutoff, each, images + i * values);
  });
}

template <class T>
void render_pictures_backward(SplatArrays<T> first, std::ptrdiff_t pictures, const T* d_images, int width, int height,
                              T cutoff, int threads, T* d_means, T* d_log_cholesky, T* d_colors) {
  const std::ptrdiff_t values = std::ptrdiff_t(width) * height * first.channels, n = first.count;
  for_pictures(threads, pictures, [&](std::ptrdiff_t i, int each) {
    render_backward(nth(first, i), d_images + i * values, width, height, cutoff, each, d_means + i * n * 2,
                    d_log_cholesky + i * n * 3, d_colors + i * n * first.channels);
  });
}

template <class T>
std::int64_t count_pairs(SplatArrays<T> arrays, int width, int height, T cutoff, int threads) {
  Table<T> table = to_table(arrays);
  std::vector<Splat<T>> splats(table.count());
  std::atomic<std::int64_t> pairs{0};
  parallel_for(team_size(threads), divide_up(table.count(), kChunk), [&](std::ptrdiff_t chunk) {
    const std::ptrdiff_t begin = chunk * kChunk, end = std::min(begin + kChunk, table.count());
    kernels<T>().prepare(table.view(), begin, end, cutoff, splats.data());
    pairs += kernels<T>().count_pairs(splats.data(), begin, end, cutoff, width, height);
  });
  return pairs;
}

template void render(SplatArrays<float>, const float*, int, int, float, int, float*);
template void render(SplatArrays<double>, const double*, int, int, double, int, double*);
template void render_backward(SplatArrays<float>, const float*, int, int, float, int, float*, float*, float*);
template void render_backward(SplatArrays<double>, const double*, int, int, double, int, double*, double*, double*);
template void render_pictures(SplatArrays<float>, std::ptrdiff_t, const float*, int, int, float, int, float*);
template void render_pictures(SplatArrays<double>, std::ptrdiff_t, const double*, int, int, double, int, double*);
template void render_pictures_backward(SplatArrays<float>, std::ptrdiff_t, const float*, int, int, float, int, float*,
                                       float*, float*);
template void render_pictures_backward(SplatArrays<double>, std::ptrdiff_t, const double*, int, int, double, int,
                                       double*, double*, double*);
template std::int64_t count_pairs(SplatArrays<float>, int, int, float, int);
template std::int64_t count_pairs(SplatArrays<double>, int, int, double, int);

double loss_gradient(const float* image, const float* target, int width, int height, int channels, LossWeights weights,
                     int threads, float* d_image) {
  threads = team_size(threads);
  Picture<float> residual(width, height, channels), reference(width, height, channels), d(width, height, channels);
  fill_planes(reference.planes(), threads, interleaved(target, width, channels));
  const auto a = interleaved(image, width, channels), b = interleaved(target, width, channels);
  fill_planes(residual.planes(), threads, [&](int y, int c, int x) {
    const float r = a(y, c, x) - b(y, c, x);
    return r * weight_of(r, b(y, c, x), weights.outside);
  });
  const LossKernels& k = instruction_set().loss;
  const TileGrid grid(width, height);
  const double elements = double(width) * height * channels;
  std::vector<double> sums(3 * grid.count());
  std::memcpy(d.planes().data, residual.planes().data, sizeof(float) * residual.planes().row * height);
  parallel_for(threads, grid.count(), [&](std::ptrdiff_t tile) {
    k.sums(residual.view(), reference.view(), weights.outside, grid.tile(tile), sums.data() + 3 * tile);
    k.pointwise(d.planes(), reference.view(), weights, grid.tile(tile));
  });
  double squares = 0, absolutes = 0, similarity = 0;
  for (std::ptrdiff_t tile = 0; tile < grid.count(); ++tile) squares += sums[3 * tile], absolutes += sums[3 * tile + 1];
  if (weights.ssim > 0)
    similarity = ssim_sum(residual.view(), reference.view(), channel_means(target, width, height, channels).data(),
                          d.planes(), 0, -0.5f * weights.ssim, weights.outside, threads) /
                 elements;
  from_planes(d.view(), threads, d_image);
  const float scale = float(2 / elements);  // pointwise() works in units of HWC/2
  parallel_for(threads, height, [&](std::ptrdiff_t y) {
    const std::ptrdiff_t n = std::ptrdiff_t(width) * channels;
    for (std::ptrdiff_t i = y * n; i < (y + 1) * n; ++i) d_image[i] *= scale;
  });
  return weights.l2 * squares / elements + weights.l1 * absolutes / elements +
         (weights.ssim > 0 ? weights.ssim * (1 - similarity) : 0.0);
}

double ssim(const float* image, const float* target, int width, int height, int channels, int threads) {
  threads = team_size(threads);
  Picture<float> residual(width, height, channels), reference(width, height, channels);
  fill_planes(reference.planes(), threads, interleaved(target, width, channels));
  const auto a = interleaved(image, width, channels), b = interleaved(target, width, channels);
  fill_planes(residual.planes(), threads, [&](int y, int c, int x) { return a(y, c, x) - b(y, c, x); });
  const int margin = width >= kWindow && height >= kWindow ? kHalf : 0;
  const std::vector<float> center = channel_means(target, width, height, channels);
  const double sum = ssim_sum(residual.view(), reference.view(), center.data(), {}, margin, 0, 1, threads);
  return sum / (double(width - 2 * margin) * (height - 2 * margin) * channels);
}

void draw(const float* weights, std::int64_t pixels, std::int64_t count, std::uint64_t seed, std::int64_t* out) {
  double total = 0;
  for (std::int64_t i = 0; i < pixels; ++i) total += weights[i];
  const bool uniform = !(total > 0);
  if (uniform) total = double(pixels);
  const double step = total / double(count);
  double reached = 0;
  std::int64_t pixel = -1,
               last = 0;  // last: the newest pixel with any weight, so that rounding never draws one without
  for (std::int64_t j = 0; j < count; ++j) {
    const double threshold = (double(j) + random_unit(seed, std::uint64_t(j))) * step;
    while (reached <= threshold && pixel + 1 < pixels) {
      ++pixel;
      const double weight = uniform ? 1.0 : double(weights[pixel]);
      reached += weight;
      if (weight > 0) last = pixel;
    }
    out[j] = last;
  }
}

// ---- the fit session ----------------------------------------------------------------------------------------------

Fit::Fit(const float* target, const float* background, int width, int height, int channels, FitOptions options)
    : options_(options),
      threads_(team_size(options.threads)),
      background_(background, background + channels),
      target_(width, height, channels),
      residual_(width, height, channels),
      params_(kGeometry + channels),
      first_(kGeometry + channels),
      second_(kGeometry + channels),
      frozen_(1),
      perturbed_(kGeometry + channels),
      bins_(std::make_unique<Binned<float>>(width, height, float(kCutoff))) {
  fill_planes(target_.planes(), threads_, interleaved(target, width, channels));
  if (options_.weights.ssim > 0) d_image_ = Picture<float>(width, height, channels);
}

Fit::~Fit() = default;

void Fit::set_splats(SplatArrays<float> splats, const float* frozen) {
  params_ = to_table(splats);
  first_ = second_ = Table<float>(params_.fields());
  first_.resize(splats.count);
  second_.resize(splats.count);
  frozen_ = Table<float>(1);
  frozen_.resize(splats.count);
  any_frozen_ = false;
  const Fields<float> flags = frozen_;
  for (std::ptrdiff_t i = 0; frozen && i < splats.count; ++i) {
    flags[0][i] = frozen[i];
    any_frozen_ |= frozen[i] != 0;
  }
  steps_ = 0;
}

void Fit::get_splats(float* means, float* log_cholesky, float* colors) const {
  from_fields(params_.view(), params_.count(), target_.planes().channels, means, log_cholesky, colors);
}

double Fit::run(const float* rates, int steps, Coding coding) {
  const Planes<float> residual = residual_.planes(), d_image = d_image_.planes();
  const Planes<const float> target = target_.view();
  const LossWeights weights = options_.weights;
  const LossKernels& loss = instruction_set().loss;
  const bool pure_l2 = weights.l2 == 1 && weights.l1 == 0 && weights.ssim == 0;
  const int channels = target.channels;
  Binned<float>& binned = *bins_;
  const std::ptrdiff_t count = params_.count();
  const std::ptrdiff_t tiles = binned.grid.count(), chunks = divide_up(count, kChunk);
  const std::ptrdiff_t bands = divide_up(target.height, kBand);
  std::vector<double> sums(3 * tiles);
  Deck tile_deck, band_deck, chunk_deck;
  const bool indirect = coding.step > 0 || any_frozen_;
  if (indirect) perturbed_.resize(count);
  const Fields<float> params = params_;
  const Fields<const float> drawn = indirect ? perturbed_.view() : params_.view();
  const float* frozen = frozen_.view()[0];

  parallel(threads_, [&](Team& team, int thread) {
    std::vector<float> local(std::size_t(kChunk) * params_.fields());
    std::vector<float> scratch(weights.ssim > 0 ? ssim_scratch(target) : 0);
    for (int step = 0; step < steps; ++step) {
      if (indirect) {
        instruction_set().coding.perturb(params_.view(), frozen, share(count, thread, team.threads()),
                                         share(count, thread + 1, team.threads()), channels, coding, int(steps_) + step,
                                         perturbed_);
        team.wait();
      }
      binned.bin(team, thread, drawn, count);
      if (thread == 0) chunk_deck.reset(), band_deck.reset();
      tile_deck.deal(tiles, [&](std::ptrdiff_t i) {
        const Tile tile = binned.grid.tile(i);
        draw_residual(drawn, i);
        if (step == steps - 1) loss.sums(residual_.view(), target, weights.outside, tile, sums.data() + 3 * i);
        if (weights.ssim > 0) {
          const std::size_t bytes = sizeof(float) * (tile.x1 - tile.x0);
          for (int y = tile.y0; y < tile.y1; ++y)
            for (int c = 0; c < channels; ++c)
              std::memcpy(d_image.at(y, c) + tile.x0, residual.at(y, c) + tile.x0, bytes);
          loss.pointwise(d_image, target, weights, tile);
        } else if (!pure_l2) {
          loss.pointwise(residual, target, weights, tile);
        }
      });
      team.wait();
      if (weights.ssim > 0) {
        band_deck.deal(bands, [&](std::ptrdiff_t band) {
          const int first = int(band) * kBand, last = std::min(first + kBand, target.height) - 1;
          loss.ssim(residual_.view(), target, background_.data(), d_image, first, last, 0, -0.5f * weights.ssim,
                    weights.outside, scratch.data());
        });
        team.wait();
      }
      if (thread == 0) tile_deck.reset();
      const double t = double(steps_ + step + 1);
      AdamStep adam;
      for (int group = 0; group < 4; ++group) adam.rate[group] = options_.rates[group] * rates[step];
      adam.beta1 = options_.beta1, adam.beta2 = options_.beta2;
      adam.correction1 = float(1 / (1 - std::pow(double(options_.beta1), t)));
      adam.correction2 = float(1 / (1 - std::pow(double(options_.beta2), t)));
      adam.log_min = options_.log_min, adam.log_max = options_.log_max;
      const Planes<const float> d = weights.ssim > 0 ? d_image_.view() : residual_.view();
      chunk_deck.deal(chunks, [&](std::ptrdiff_t chunk) {
        const std::ptrdiff_t begin = chunk * kChunk, end = std::min(begin + kChunk, count);
        kernels<float>().gradient(binned.splats.data(), drawn, begin, end, binned.cutoff, d, local.data());
        if (coding.step > 0)
          instruction_set().coding.pull_back(params_.view(), drawn, begin, end, channels, coding, local.data());
        kernels<float>().adam(params_, first_, second_, local.data(), begin, end, channels, adam);
        if (any_frozen_)
          for (std::ptrdiff_t i = begin; i < end; ++i)
            for (int f = 0; frozen[i] != 0 && f < params_.fields(); ++f) params[f][i] = drawn[f][i];
      });
      team.wait();
    }
  });
  steps_ += steps;
  double squares = 0;
  for (std::ptrdiff_t tile = 0; tile < tiles; ++tile) squares += sums[3 * tile];
  return squares;
}

void Fit::draw_residual(Fields<const float> drawn, std::ptrdiff_t tile) {
  const LossKernels& loss = instruction_set().loss;
  const Planes<float> residual = residual_.planes();
  const Tile area = bins_->grid.tile(tile);
  loss.clear(residual, target_.view(), background_.data(), area);
  bins_->render(drawn, residual, tile);
  const float outside = options_.weights.outside;
  if (outside != 1) loss.weigh(residual, target_.view(), outside, area);
}

void Fit::render_residual() {
  Binned<float>& binned = *bins_;
  Deck tiles;
  parallel(threads_, [&](Team& team, int thread) {
    binned.bin(team, thread, params_.view(), params_.count());
    tiles.deal(binned.grid.count(), [&](std::ptrdiff_t tile) { draw_residual(params_.view(), tile); });
  });
}

Evaluation Fit::evaluate() {
  render_residual();
  const Planes<const float> residual = residual_.view(), target = target_.view();
  const TileGrid grid(residual.width, residual.height);
  std::vector<double> sums(3 * grid.count());
  parallel_for(threads_, grid.count(), [&](std::ptrdiff_t tile) {
    instruction_set().loss.sums(residual, target, options_.weights.outside, grid.tile(tile), sums.data() + 3 * tile);
  });
  Evaluation e{0, 0, 0, 0};
  for (std::ptrdiff_t tile = 0; tile < grid.count(); ++tile) {
    e.squares += sums[3 * tile];
    e.absolutes += sums[3 * tile + 1];
    e.clamped += sums[3 * tile + 2];
  }
  if (options_.weights.ssim > 0)
    e.ssim = ssim_sum(residual, target, background_.data(), {}, 0, 0, 1, threads_) /
             (double(target.width) * target.height * target.channels);
  return e;
}

// Squared error over channels, blurred by a 5x5 box, divided by its mean, to the power. [height * width]
std::vector<float> Fit::error_map(float power) {
  constexpr int reach = 2;
  const Planes<const float> residual = residual_.view();
  const int width = residual.width, height = residual.height;
  std::vector<float> squares(std::size_t(width) * height), map(squares.size());
  parallel_for(threads_, height, [&](std::ptrdiff_t y) {
    float* out = squares.data() + y * width;
    for (int c = 0; c < residual.channels; ++c) {
      const float* r = residual.at(int(y), c);
      for (int x = 0; x < width; ++x) out[x] += r[x] * r[x];
    }
  });
  const double mean = std::accumulate(squares.begin(), squares.end(), 0.0) / double(squares.size());
  if (!(mean > 0)) return map;
  const float scale = float(1 / (25 * mean));
  parallel_for(threads_, height, [&](std::ptrdiff_t row) {
    const int y = int(row);
    std::vector<float> column(width + 2 * reach);
    for (int z = std::max(0, y - reach); z <= std::min(height - 1, y + reach); ++z)
      for (int x = 0; x < width; ++x) column[reach + x] += squares[std::size_t(z) * width + x];
    float* out = map.data() + std::size_t(y) * width;
    for (int x = 0; x < width; ++x) {
      float s = 0;
      for (int k = 0; k <= 2 * reach; ++k) s += column[x + k];
      s *= scale;
      out[x] = power == 1 ? s : power == 2 ? s * s : power == 3 ? s * s * s : std::pow(s, power);
    }
  });
  return map;
}

constexpr float kSpread = 4;  // one event puts at most a splat on so many sigma^2 of a picture

// Weights such that count draws in proportion to them put at most `most` splats on a pixel in the mean: weights *
// scale, cut at `most`, where the scale is found by fixed-point iteration from below. Without the cut a peaked map puts
// dozens of splats on one spot; they then move as one, overshoot, and raise the very error that attracts more.
void Fit::flatten(std::vector<float>& map, double count, float most) const {
  const std::ptrdiff_t width = target_.planes().width, height = target_.planes().height;
  most = std::max(most, 2.0f * float(count / double(map.size())));
  std::vector<double> sums(height);
  const auto total = [&](float scale, float limit, bool write) {
    parallel_for(threads_, height, [&](std::ptrdiff_t y) {
      double sum = 0;
      float* row = map.data() + y * width;
      for (std::ptrdiff_t x = 0; x < width; ++x) {
        const float value = std::min(row[x] * scale, limit);
        sum += value;
        if (write) row[x] = value;
      }
      sums[y] = sum;
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  };
  const double plain = total(1, std::numeric_limits<float>::infinity(), false);
  if (!(plain > 0)) return;
  double scale = count / plain;
  for (int i = 0; i < 8; ++i) scale *= count / total(float(scale), most, false);
  total(float(scale), most, true);
}

void Fit::place(const std::vector<std::int32_t>& indices, float power, float sigma, std::uint64_t seed) {
  const std::int64_t count = std::int64_t(indices.size()), width = target_.planes().width;
  std::vector<std::int64_t> pixels(indices.size());
  render_residual();
  std::vector<float> map = error_map(power);
  flatten(map, double(count), 1 / (kSpread * sigma * sigma));
  draw(map.data(), std::int64_t(map.size()), count, seed, pixels.data());
  // Half of what is missing, since neighbours share the place; less where there are more splats than flatten() can
  // spread.
  const float crowd = kSpread * sigma * sigma * float(count) / float(map.size());
  const float share = 0.5f / std::max(crowd, 1.0f);
  Fields<float> p = params_, m = first_, v = second_;
  for (std::int64_t j = 0; j < count; ++j) {
    const std::int32_t i = indices[j];
    const int x = int(pixels[j] % width), y = int(pixels[j] / width);
    for (int f = 0; f < params_.fields(); ++f) m[f][i] = v[f][i] = 0;
    p[0][i] = float(x + random_unit(seed, std::uint64_t(count + 2 * j)));
    p[1][i] = float(y + random_unit(seed, std::uint64_t(count + 2 * j + 1)));
    p[2][i] = p[4][i] = std::log(sigma);
    p[3][i] = 0;
    for (int c = 0; c < channels(); ++c) p[kGeometry + c][i] = -share * residual_.planes().at(y, c)[x];
  }
}

void Fit::grow(std::int64_t added, float power, float sigma, std::uint64_t seed) {
  const std::ptrdiff_t before = count();
  std::vector<std::int32_t> indices(added);
  std::iota(indices.begin(), indices.end(), std::int32_t(before));
  for (Table<float>* table : {&params_, &first_, &second_, &frozen_}) table->resize(before + added);
  // Not drawn yet: until place() has set them they must add nothing to the residual.
  Fields<float> p = params_;
  for (int f = 0; f < params_.fields(); ++f) std::fill_n(p[f] + before, added, 0.0f);
  place(indices, power, sigma, seed);
}

std::vector<float> Fit::energies() const {
  const Fields<const float> p = params_.view();
  const float* frozen = frozen_.view()[0];
  std::vector<float> energy(count());
  for (std::ptrdiff_t i = 0; i < count(); ++i) {
    float color = 0;
    for (int c = 0; c < channels(); ++c) color += p[kGeometry + c][i] * p[kGeometry + c][i];
    energy[i] = frozen[i] != 0 ? std::numeric_limits<float>::infinity() : color * std::exp(p[2][i] + p[4][i]);
  }
  return energy;
}

void Fit::prune(float energy) {
  const std::vector<float> has = energies();
  std::vector<std::int32_t> kept;
  for (std::ptrdiff_t i = 0; i < count(); ++i)
    if (!(has[i] < energy)) kept.push_back(std::int32_t(i));
  for (Table<float>* table : {&params_, &first_, &second_, &frozen_}) table->permute(kept);
}

void Fit::relocate(std::int64_t moved, float power, float sigma, std::uint64_t seed) {
  const std::vector<float> energy = energies();
  moved = std::min<std::int64_t>(moved, std::count_if(energy.begin(), energy.end(), [](float e) {
                                   return e < std::numeric_limits<float>::infinity();
                                 }));
  std::vector<std::int32_t> order(count());
  std::iota(order.begin(), order.end(), 0);
  const auto weaker = [&](std::int32_t a, std::int32_t b) {
    return energy[a] != energy[b] ? energy[a] < energy[b] : a < b;
  };
  std::nth_element(order.begin(), order.begin() + moved, order.end(), weaker);
  order.resize(moved);
  std::sort(order.begin(), order.end());
  Fields<float> q = params_;
  for (int c = 0; c < channels(); ++c)
    for (std::int32_t i : order) q[kGeometry + c][i] = 0;  // what they drew counts as missing
  place(order, power, sigma, seed);
}

void Fit::sort() {
  const auto spread = [](std::uint32_t v) {  // 16 bits to every second bit
    v = (v | (v << 8)) & 0x00FF00FFu;
    v = (v | (v << 4)) & 0x0F0F0F0Fu;
    v = (v | (v << 2)) & 0x33333333u;
    return (v | (v << 1)) & 0x55555555u;
  };
  const Fields<const float> p = params_.view();
  const float scale = 65535.0f / float(std::max(target_.planes().width, target_.planes().height));
  std::vector<std::uint32_t> key(count());
  for (std::ptrdiff_t i = 0; i < count(); ++i) {
    const auto cell = [&](float x) { return std::uint32_t(within(x * scale, 0.0f, 65535.0f)); };
    key[i] = spread(cell(p[0][i])) | spread(cell(p[1][i])) << 1;
  }
  std::vector<std::int32_t> order(count());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return key[a] < key[b]; });
  for (Table<float>* table : {&params_, &first_, &second_, &frozen_}) table->permute(order);
}

}  // namespace splat2d
