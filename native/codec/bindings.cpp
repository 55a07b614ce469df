// The codec's part of splat2d._cpu.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "dequantize.h"
#include "packets.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace splat2d::codec {
namespace {

constexpr std::size_t kMostChannels = 2048;  // |i_v| < 2^20, so that the sum of their squares has less than 52
                                             // bits

template <class T>
nb::ndarray<nb::numpy, T> own(std::vector<T> data, std::initializer_list<std::size_t> shape) {
  auto* kept = new std::vector<T>(std::move(data));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(kept->data(), shape, owner);
}

auto encode(nb::ndarray<const std::int32_t, nb::device::cpu, nb::c_contig, nb::shape<-1, -1>> indices,
            std::vector<std::int64_t> counts, std::int64_t width, std::int64_t height, int cell_exponent, int margin) {
  if (indices.shape(1) <= kGeometry || indices.shape(1) > kGeometry + kMostChannels)
    throw std::invalid_argument("indices must have 5 columns and one for each of 1 to 2048 channels");
  std::vector<std::vector<std::uint8_t>> payloads;
  std::vector<std::int64_t> order;
  {
    nb::gil_scoped_release release;
    payloads = encode_packets({indices.data(), indices.size()}, counts, int(indices.shape(1)) - kGeometry,
                              make_grid(width, height, cell_exponent, margin), order);
  }
  std::vector<nb::bytes> result;
  for (const auto& payload : payloads) result.emplace_back(payload.data(), payload.size());
  const std::size_t n = order.size();
  return std::make_tuple(result, own(std::move(order), {n}));
}

auto decode(std::vector<nb::bytes> payloads, std::vector<std::int64_t> counts, std::int64_t channels,
            std::int64_t width, std::int64_t height, int cell_exponent, int margin) {
  if (channels < 1 || channels > std::int64_t(kMostChannels))
    throw std::invalid_argument("there must be 1 to 2048 channels");
  std::vector<std::span<const std::uint8_t>> spans;
  for (const nb::bytes& payload : payloads)
    spans.emplace_back(static_cast<const std::uint8_t*>(payload.data()), payload.size());
  Decoded decoded;
  {
    nb::gil_scoped_release release;
    decoded = decode_packets(spans, counts, int(channels), make_grid(width, height, cell_exponent, margin));
  }
  const std::size_t columns = kGeometry + std::size_t(channels), n = decoded.rows.size() / columns;
  return std::make_tuple(own(std::move(decoded.rows), {n, columns}),
                         own(std::vector<double>(decoded.bits.begin(), decoded.bits.end()), {4}));
}

template <class T> using Matrix = nb::ndarray<const T, nb::device::cpu, nb::c_contig, nb::shape<-1, -1>>;

auto to_splats(Matrix<std::int32_t> indices, Matrix<double> transform, double step, int cell_exponent, int margin) {
  const std::size_t n = indices.shape(0), channels = transform.shape(0);
  if (channels < 1 || channels > kMostChannels || transform.shape(1) != channels ||
      indices.shape(1) != kGeometry + channels)
    throw std::invalid_argument(
        "indices must have 5 columns and one for each of 1 to 2048 channels, transform as many");
  make_grid(1, 1, cell_exponent, margin);
  std::vector<float> means(2 * n), log_cholesky(3 * n), colors(channels * n);
  {
    nb::gil_scoped_release release;
    dequantize(indices.data(), n, int(channels), Lattice(cell_exponent, margin), step, transform.data(), means.data(),
               log_cholesky.data(), colors.data());
  }
  return std::make_tuple(own(std::move(means), {n, 2}), own(std::move(log_cholesky), {n, 3}),
                         own(std::move(colors), {n, channels}));
}

double covered(Matrix<float> means, Matrix<float> log_cholesky, std::int64_t width, std::int64_t height) {
  if (means.shape(1) != 2 || log_cholesky.shape(1) != 3 || means.shape(0) != log_cholesky.shape(0))
    throw std::invalid_argument("means [N, 2] and log_cholesky [N, 3] must have the same length");
  return footprint(means.data(), log_cholesky.data(), means.shape(0), double(width), double(height));
}

}  // namespace

void bind(nb::module_& m) {
  m.def("encode_packets", &encode, "indices"_a.noconvert(), "counts"_a, nb::kw_only(), "width"_a, "height"_a,
        "cell_exponent"_a, "margin"_a,
        "Splats as integers [N, 5 + C] (X, Y, a, beta, c, v), sorted by "
        "packet, and the length of each packet -> bytes "
        "of each packet, and the row [N] that each decoded splat stands in. "
        "Raises ValueError beyond the limits.");
  m.def("decode_packets", &decode, "payloads"_a, "counts"_a, "channels"_a, nb::kw_only(), "width"_a, "height"_a,
        "cell_exponent"_a, "margin"_a,
        "The first packets of a file -> their splats int32 [n, 5 + C], and the "
        "bits that cells, refinement, shape and "
        "colour took [4]. Raises ValueError for bytes that are no packets.");
  m.def(
      "dequantize", &to_splats, "indices"_a.noconvert(), "transform"_a.noconvert(), nb::kw_only(), "step"_a,
      "cell_exponent"_a, "margin"_a,
      "Splats as integers [N, 5 + C], O [C, C] and the step of v -> means [N, 2], log_cholesky [N, 3], colors [N, C].");
  m.def("footprint", &covered, "means"_a.noconvert(), "log_cholesky"_a.noconvert(), "width"_a, "height"_a,
        "A bound from above on the pixels that all splats cover within the canvas.");
}

}  // namespace splat2d::codec
