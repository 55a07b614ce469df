// splat2d._cpu: arrays in, arrays out. The array types below are the check: .noconvert() makes a wrong dtype or layout
// a TypeError instead of a silent copy.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <stdexcept>
#include <type_traits>

#include "codec/bindings.h"
#include "cpu/engine.h"
#include "cpu/parallel.h"

namespace nb = nanobind;
using namespace nb::literals;
namespace s2 = splat2d;

namespace {

template <class T, class Shape> using In = nb::ndarray<const T, nb::device::cpu, nb::c_contig, Shape>;
template <class T> using Vector = In<T, nb::shape<-1>>;
template <class T> using Means = In<T, nb::shape<-1, 2>>;
template <class T> using LogCholesky = In<T, nb::shape<-1, 3>>;
template <class T> using Matrix = In<T, nb::shape<-1, -1>>;
template <class T> using Image = In<T, nb::shape<-1, -1, -1>>;
// The same of several pictures.
template <class T> using MeansOfAll = In<T, nb::shape<-1, -1, 2>>;
template <class T> using LogCholeskyOfAll = In<T, nb::shape<-1, -1, 3>>;
template <class T> using Matrices = In<T, nb::shape<-1, -1, -1>>;
template <class T> using Images = In<T, nb::shape<-1, -1, -1, -1>>;

constexpr int kMaxChannels = 4096;
constexpr std::int64_t kMaxSize = 1 << 24;  // pixels per side: positions in float stay exact to a pixel

void require(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}

// Of the only picture, or of the first of several that follow each other in every array.
template <class M, class L, class C> auto splats_of(const M& means, const L& log_cholesky, const C& colors) {
  const std::size_t last = means.ndim() - 1;  // axis
  for (std::size_t axis = 0; axis < last; ++axis)
    require(means.shape(axis) == log_cholesky.shape(axis) && means.shape(axis) == colors.shape(axis),
            "means, log_cholesky and colors must have the same length");
  require(colors.shape(last) >= 1 && colors.shape(last) <= kMaxChannels, "colors must have 1 to 4096 channels");
  const std::size_t count = means.shape(last - 1);
  require(std::int64_t(count) <= std::numeric_limits<std::int32_t>::max(), "too many splats");
  return s2::SplatArrays<std::remove_const_t<typename M::Scalar>>{means.data(), log_cholesky.data(), colors.data(),
                                                                  std::ptrdiff_t(count), int(colors.shape(last))};
}

struct Size {
  int width, height;
};
Size size_of(std::int64_t height, std::int64_t width) {
  require(width >= 1 && height >= 1, "height and width must be at least 1");
  require(width <= kMaxSize && height <= kMaxSize, "height and width must be at most 16777216");
  return {int(width), int(height)};
}

template <class T> T cutoff_of(double cutoff) {
  require(cutoff > 0 && cutoff <= 80, "cutoff must lie in (0, 80]");  // beyond, float weights underflow anyway
  return T(cutoff);
}

template <class T> nb::ndarray<nb::numpy, T> own(T* data, std::initializer_list<std::size_t> shape) {
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

template <class T>
nb::ndarray<nb::numpy, T> render(Means<T> means, LogCholesky<T> log_cholesky, Matrix<T> colors, Vector<T> background,
                                 std::int64_t height, std::int64_t width, double cutoff, int threads) {
  const auto splats = splats_of(means, log_cholesky, colors);
  const Size size = size_of(height, width);
  require(background.shape(0) == colors.shape(1), "background must have as many channels as colors");
  const T limit = cutoff_of<T>(cutoff);
  T* image = new T[std::size_t(size.height) * size.width * splats.channels];
  auto result = own<T>(image, {std::size_t(size.height), std::size_t(size.width), std::size_t(splats.channels)});
  nb::gil_scoped_release release;
  s2::render<T>(splats, background.data(), size.width, size.height, limit, threads, image);
  return result;
}

nb::ndarray<nb::numpy, std::uint8_t> render_levels(Means<float> means, LogCholesky<float> log_cholesky,
                                                   Matrix<float> colors, Vector<float> background, std::int64_t height,
                                                   std::int64_t width, int threads) {
  const auto splats = splats_of(means, log_cholesky, colors);
  const Size size = size_of(height, width);
  require(background.shape(0) == colors.shape(1), "background must have as many channels as colors");
  auto* image = new std::uint8_t[std::size_t(size.height) * size.width * splats.channels];
  auto result =
      own<std::uint8_t>(image, {std::size_t(size.height), std::size_t(size.width), std::size_t(splats.channels)});
  nb::gil_scoped_release release;
  s2::render_levels(splats, background.data(), size.width, size.height, float(s2::kCutoff), threads, image);
  return result;
}

nb::ndarray<nb::numpy, std::uint8_t> levels(Image<float> image) {
  const Size size = size_of(std::int64_t(image.shape(0)), std::int64_t(image.shape(1)));
  require(image.shape(2) >= 1 && image.shape(2) <= kMaxChannels, "a picture must have 1 to 4096 channels");
  auto* out = new std::uint8_t[image.size()];
  auto result = own<std::uint8_t>(out, {image.shape(0), image.shape(1), image.shape(2)});
  nb::gil_scoped_release release;
  s2::levels(image.data(), size.width, size.height, int(image.shape(2)), out);
  return result;
}

template <class T>
auto render_backward(Means<T> means, LogCholesky<T> log_cholesky, Matrix<T> colors, Image<T> d_image, double cutoff,
                     int threads) {
  const auto splats = splats_of(means, log_cholesky, colors);
  const Size size = size_of(std::int64_t(d_image.shape(0)), std::int64_t(d_image.shape(1)));
  require(d_image.shape(2) == colors.shape(1), "d_image must have as many channels as colors");
  const T limit = cutoff_of<T>(cutoff);
  const std::size_t n = std::size_t(splats.count), channels = std::size_t(splats.channels);
  T *d_means = new T[n * 2], *d_log_cholesky = new T[n * 3], *d_colors = new T[n * channels];
  auto result =
      std::make_tuple(own<T>(d_means, {n, 2}), own<T>(d_log_cholesky, {n, 3}), own<T>(d_colors, {n, channels}));
  nb::gil_scoped_release release;
  s2::render_backward<T>(splats, d_image.data(), size.width, size.height, limit, threads, d_means, d_log_cholesky,
                         d_colors);
  return result;
}

template <class T>
nb::ndarray<nb::numpy, T> render_pictures(MeansOfAll<T> means, LogCholeskyOfAll<T> log_cholesky, Matrices<T> colors,
                                          Matrix<T> backgrounds, std::int64_t height, std::int64_t width, double cutoff,
                                          int threads) {
  const auto splats = splats_of(means, log_cholesky, colors);
  const Size size = size_of(height, width);
  const std::size_t pictures = means.shape(0), channels = std::size_t(splats.channels);
  require(backgrounds.shape(0) == pictures && backgrounds.shape(1) == channels,
          "backgrounds must have a row per picture, as many channels as colors");
  const T limit = cutoff_of<T>(cutoff);
  T* images = new T[pictures * size.height * size.width * channels];
  auto result = own<T>(images, {pictures, std::size_t(size.height), std::size_t(size.width), channels});
  nb::gil_scoped_release release;
  s2::render_pictures<T>(splats, std::ptrdiff_t(pictures), backgrounds.data(), size.width, size.height, limit, threads,
                         images);
  return result;
}

template <class T>
auto render_pictures_backward(MeansOfAll<T> means, LogCholeskyOfAll<T> log_cholesky, Matrices<T> colors,
                              Images<T> d_images, double cutoff, int threads) {
  const auto splats = splats_of(means, log_cholesky, colors);
  const Size size = size_of(std::int64_t(d_images.shape(1)), std::int64_t(d_images.shape(2)));
  const std::size_t pictures = means.shape(0), n = std::size_t(splats.count), channels = std::size_t(splats.channels);
  require(d_images.shape(0) == pictures, "d_images must have as many pictures as means");
  require(d_images.shape(3) == channels, "d_images must have as many channels as colors");
  const T limit = cutoff_of<T>(cutoff);
  T *d_means = new T[pictures * n * 2], *d_log_cholesky = new T[pictures * n * 3],
    *d_colors = new T[pictures * n * channels];
  auto result = std::make_tuple(own<T>(d_means, {pictures, n, 2}), own<T>(d_log_cholesky, {pictures, n, 3}),
                                own<T>(d_colors, {pictures, n, channels}));
  nb::gil_scoped_release release;
  s2::render_pictures_backward<T>(splats, std::ptrdiff_t(pictures), d_images.data(), size.width, size.height, limit,
                                  threads, d_means, d_log_cholesky, d_colors);
  return result;
}

template <class T>
std::int64_t count_pairs(Means<T> means, LogCholesky<T> log_cholesky, std::int64_t height, std::int64_t width,
                         double cutoff, int threads) {
  require(means.shape(0) == log_cholesky.shape(0), "means and log_cholesky must have the same length");
  const Size size = size_of(height, width);
  const s2::SplatArrays<T> splats = {means.data(), log_cholesky.data(), nullptr, std::ptrdiff_t(means.shape(0)), 0};
  const T limit = cutoff_of<T>(cutoff);
  nb::gil_scoped_release release;
  return s2::count_pairs<T>(splats, size.width, size.height, limit, threads);
}

template <class T> void bind_splat_functions(nb::module_& m) {
  m.def("render", &render<T>, "means"_a.noconvert(), "log_cholesky"_a.noconvert(), "colors"_a.noconvert(),
        "background"_a.noconvert(), "height"_a, "width"_a, nb::kw_only(), "cutoff"_a = s2::kCutoff, "threads"_a = 0,
        "Sum of the splats over the background -> [height, width, C].");
  m.def("render_backward", &render_backward<T>, "means"_a.noconvert(), "log_cholesky"_a.noconvert(),
        "colors"_a.noconvert(), "d_image"_a.noconvert(), nb::kw_only(), "cutoff"_a = s2::kCutoff, "threads"_a = 0,
        "dL/dimage [H, W, C] -> dL/dmeans [N, 2], dL/dlog_cholesky [N, 3], dL/dcolors [N, C].");
  m.def("render_pictures", &render_pictures<T>, "means"_a.noconvert(), "log_cholesky"_a.noconvert(),
        "colors"_a.noconvert(), "backgrounds"_a.noconvert(), "height"_a, "width"_a, nb::kw_only(),
        "cutoff"_a = s2::kCutoff, "threads"_a = 0,
        "render() of several pictures: [B, N, 2], [B, N, 3], [B, N, C], [B, C] -> [B, height, width, C].");
  m.def("render_pictures_backward", &render_pictures_backward<T>, "means"_a.noconvert(), "log_cholesky"_a.noconvert(),
        "colors"_a.noconvert(), "d_images"_a.noconvert(), nb::kw_only(), "cutoff"_a = s2::kCutoff, "threads"_a = 0,
        "render_backward() of several pictures, [B, ...] each.");
  m.def("count_pairs", &count_pairs<T>, "means"_a.noconvert(), "log_cholesky"_a.noconvert(), "height"_a, "width"_a,
        nb::kw_only(), "cutoff"_a = s2::kCutoff, "threads"_a = 0,
        "Pixels inside the cut-off ellipse, summed over splats.");
}

Size same_size(Image<float> image, Image<float> target) {
  for (int axis = 0; axis < 3; ++axis)
    require(image.shape(axis) == target.shape(axis), "image and target must have the same shape");
  require(image.shape(2) >= 1 && image.shape(2) <= kMaxChannels, "a picture must have 1 to 4096 channels");
  return size_of(std::int64_t(image.shape(0)), std::int64_t(image.shape(1)));
}

s2::LossWeights weights_of(float l2, float l1, float ssim, float outside) {
  require(l2 >= 0 && l1 >= 0 && ssim >= 0, "loss weights must not be negative");
  require(outside > 0, "outside must be positive");
  return {l2, l1, ssim, outside};
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "The CPU engine of splat2d; see docs/conventions.md for the formulas.";
  m.attr("CUTOFF") = s2::kCutoff;
  bind_splat_functions<float>(m);
  bind_splat_functions<double>(m);

  m.def(
      "loss_gradient",
      [](Image<float> image, Image<float> target, float l2, float l1, float ssim, float outside, int threads) {
        const Size size = same_size(image, target);
        const s2::LossWeights weights = weights_of(l2, l1, ssim, outside);
        const std::size_t channels = image.shape(2);
        float* d = new float[std::size_t(size.height) * size.width * channels];
        auto array = own<float>(d, {std::size_t(size.height), std::size_t(size.width), channels});
        double loss;
        {
          nb::gil_scoped_release release;
          loss = s2::loss_gradient(image.data(), target.data(), size.width, size.height, int(channels), weights,
                                   threads, d);
        }
        return std::make_tuple(loss, array);
      },
      "image"_a.noconvert(), "target"_a.noconvert(), nb::kw_only(), "l2"_a = 1.0f, "l1"_a = 0.0f, "ssim"_a = 0.0f,
      "outside"_a = 1.0f, "threads"_a = 0,
      "l2 * MSE + l1 * MAE + ssim * (1 - SSIM) and its gradient [H, W, C]; outside: see docs/conventions.md.");
  m.def(
      "ssim",
      [](Image<float> image, Image<float> target, int threads) {
        const Size size = same_size(image, target);
        nb::gil_scoped_release release;
        return s2::ssim(image.data(), target.data(), size.width, size.height, int(image.shape(2)), threads);
      },
      "image"_a.noconvert(), "target"_a.noconvert(), nb::kw_only(), "threads"_a = 0, "Mean SSIM.");
  m.def(
      "draw",
      [](Matrix<float> weights, std::int64_t count, std::uint64_t seed) {
        require(count >= 0, "count must not be negative");
        require(weights.size() > 0, "weights must not be empty");
        std::int64_t* out = new std::int64_t[std::size_t(count)];
        auto array = own<std::int64_t>(out, {std::size_t(count)});
        nb::gil_scoped_release release;
        s2::draw(weights.data(), std::int64_t(weights.size()), count, seed, out);
        return array;
      },
      "weights"_a.noconvert(), "count"_a, "seed"_a,
      "Pixel indices in proportion to weights [H, W], one per stratum of equal mass, ascending. [count] int64");

  m.def("render_levels", &render_levels, "means"_a.noconvert(), "log_cholesky"_a.noconvert(), "colors"_a.noconvert(),
        "background"_a.noconvert(), "height"_a, "width"_a, nb::kw_only(), "threads"_a = 0, "levels() of render().");
  m.def("levels", &levels, "image"_a.noconvert(),
        "Values in [0, 1] as 0 to 255, clamped; of four channels the last is alpha, divided out. uint8 [H, W, C]");

  m.def(
      "instruction_sets",
      [] {
        std::vector<std::string> names;
        for (const s2::InstructionSet* set : s2::supported_instruction_sets()) names.push_back(set->name);
        return names;
      },
      "Those that run on this machine, best last.");
  m.def("instruction_set", [] { return std::string(s2::instruction_set().name); }, "The one in use.");
  m.def("use_instruction_set", &s2::use_instruction_set, "name"_a, "Chooses one of instruction_sets().");
  m.def("available_threads", [] { return s2::available_threads(); }, "Cores this process may use.");

  nb::class_<s2::Fit>(m, "Fit", "One picture being fitted: parameters, optimiser state, target and buffers.")
      .def(
          "__init__",
          [](s2::Fit* self, Image<float> target, Vector<float> background, float l2, float l1, float ssim,
             std::vector<float> rates, float beta1, float beta2, float log_min, float log_max, float outside,
             int threads) {
            const Size size = size_of(std::int64_t(target.shape(0)), std::int64_t(target.shape(1)));
            require(target.shape(2) >= 1 && target.shape(2) <= kMaxChannels, "a picture must have 1 to 4096 channels");
            require(background.shape(0) == target.shape(2), "background must have as many channels as target");
            require(rates.size() == 4, "rates must be those of mean, log-diagonal, off-diagonal and colour");
            s2::FitOptions o{};
            o.weights = weights_of(l2, l1, ssim, outside);
            for (int i = 0; i < 4; ++i) o.rates[i] = rates[i];
            o.beta1 = beta1, o.beta2 = beta2, o.log_min = log_min, o.log_max = log_max, o.threads = threads;
            nb::gil_scoped_release release;
            new (self) s2::Fit(target.data(), background.data(), size.width, size.height, int(target.shape(2)), o);
          },
          "target"_a.noconvert(), "background"_a.noconvert(), nb::kw_only(), "l2"_a, "l1"_a, "ssim"_a, "rates"_a,
          "beta1"_a, "beta2"_a, "log_min"_a, "log_max"_a, "outside"_a = 1.0f, "threads"_a = 0)
      .def(
          "set_splats",
          [](s2::Fit& self, Means<float> means, LogCholesky<float> log_cholesky, Matrix<float> colors,
             std::optional<Vector<float>> frozen) {
            const auto splats = splats_of(means, log_cholesky, colors);
            require(splats.channels == self.channels(), "colors must have as many channels as the target");
            require(!frozen || std::ptrdiff_t(frozen->shape(0)) == splats.count, "frozen must have a flag per splat");
            nb::gil_scoped_release release;
            self.set_splats(splats, frozen ? frozen->data() : nullptr);
          },
          "means"_a.noconvert(), "log_cholesky"_a.noconvert(), "colors"_a.noconvert(),
          "frozen"_a.noconvert() = nb::none(),
          "Clears the optimiser state. frozen [N]: splats whose flag is not 0 are drawn, but never changed.")
      .def(
          "get_splats",
          [](const s2::Fit& self) {
            const std::size_t n = std::size_t(self.count()), channels = std::size_t(self.channels());
            float *means = new float[n * 2], *log_cholesky = new float[n * 3], *colors = new float[n * channels];
            auto result = std::make_tuple(own<float>(means, {n, 2}), own<float>(log_cholesky, {n, 3}),
                                          own<float>(colors, {n, channels}));
            self.get_splats(means, log_cholesky, colors);
            return result;
          },
          "means [N, 2], log_cholesky [N, 3], colors [N, C]")
      .def_prop_ro("count", &s2::Fit::count)
      .def(
          "run",
          [](s2::Fit& self, Vector<float> rates, float step, float penalty, std::uint64_t seed) {
            require(step >= 0 && penalty >= 0, "step and penalty must not be negative");
            nb::gil_scoped_release release;
            return self.run(rates.data(), int(rates.shape(0)), {step, penalty, seed});
          },
          "rates"_a.noconvert(), nb::kw_only(), "step"_a = 0.0f, "penalty"_a = 0.0f, "seed"_a = 0,
          "A step per entry, which multiplies the learning rates; the sum of squared residuals before the last update.")
      .def(
          "evaluate",
          [](s2::Fit& self) {
            nb::gil_scoped_release release;
            const s2::Evaluation e = self.evaluate();
            return std::make_tuple(e.squares, e.absolutes, e.clamped, e.ssim);
          },
          "Sums of squared, absolute and clamped squared residuals, and the mean SSIM map (0 if the loss has none).")
      .def(
          "grow",
          [](s2::Fit& self, std::int64_t added, float power, float sigma, std::uint64_t seed) {
            require(added >= 0 && self.count() + added <= std::numeric_limits<std::int32_t>::max(),
                    "bad number of splats");
            nb::gil_scoped_release release;
            self.grow(added, power, sigma, seed);
          },
          "added"_a, "power"_a, "sigma"_a, "seed"_a, "Adds splats where blurred squared error ** power is high.")
      .def(
          "relocate",
          [](s2::Fit& self, std::int64_t moved, float power, float sigma, std::uint64_t seed) {
            require(moved >= 0 && moved <= self.count(), "cannot move more splats than there are");
            nb::gil_scoped_release release;
            self.relocate(moved, power, sigma, seed);
          },
          "moved"_a, "power"_a, "sigma"_a, "seed"_a, "Moves the splats that contribute least to where grow() adds.")
      .def(
          "prune",
          [](s2::Fit& self, float energy) {
            nb::gil_scoped_release release;
            self.prune(energy);
          },
          "energy"_a, "Drops the splats with |colour|^2 e^(a + c) below energy that are not frozen.")
      .def(
          "sort",
          [](s2::Fit& self) {
            nb::gil_scoped_release release;
            self.sort();
          },
          "Sorts splats along a Z-order curve.");

  s2::codec::bind(m);
}
