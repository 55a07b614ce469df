// The codec's part of splat2d._cpu.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "context.h"
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
}

}  // namespace splat2d::codec
