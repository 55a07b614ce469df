// What a decoder knows about a splat before it reads it, as a vector of small integers; docs/format.md, section
// "Packets". Everything here is exact: values are in 1 / 256 unless they say otherwise.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "leaves.h"
#include "steps.h"

namespace splat2d::codec {

struct Cell {
  int x, y;
};

inline int log2_floor(std::int64_t x) { return 63 - __builtin_clzll(static_cast<unsigned long long>(x)); }

// 256 log2 n for n >= 1, nearly.
struct Logarithms {
  std::array<std::int16_t, 256> mantissa;

  Logarithms() {
    for (int i = 0; i < 256; ++i)
      mantissa[std::size_t(i)] = std::int16_t(std::nearbyint(256 * std::log2(1 + i / 256.0)));
  }
  int operator()(std::int64_t n) const {
    const int e = log2_floor(n);
    const std::int64_t top = e >= 8 ? n >> (e - 8) : n << (8 - e);
    return e * 256 + mantissa[std::size_t(top & 255)];
  }
  int magnitude(int v) const { return (*this)(2 * std::int64_t(std::abs(v)) + 1) - 256; }  // log2(|v| + 1/2)
  int signed_magnitude(int v) const {                                                      // +-log2(|v| + 1)
    const int log = (*this)(std::int64_t(std::abs(v)) + 1);
    return v < 0 ? -log : log;
  }
};
inline const Logarithms kLogarithms;

constexpr int kMostFeature = 4095;
inline std::int16_t limited(std::int64_t x) {
  return std::int16_t(std::clamp<std::int64_t>(x, -kMostFeature, kMostFeature));
}

// What later splats may know of a splat. Two more follow for each channel: magnitude, and magnitude with sign.
enum Trait { kEnergy, kA, kC, kBeta, kAbsBeta, kTraits };

// Where the features stand.
constexpr int kSquare = 0;                  // log2 of the side of a square, pixels
constexpr int kFirst = 1;                   // 256 in the first packet
constexpr int kPacket = 2;                  // its number
constexpr int kKnown = 3;                   // log2 of the known splats in the own square, 3 x 3, 5 x 5 squares
constexpr int kTensor = 6;                  // how their cells lie: (xx - yy) / (xx + yy), 2 xy / (xx + yy)
constexpr int kWeight = 8;                  // log2 of the sum of the weights of the decoded ones
constexpr int kMeans = 9;                   // of the traits of the decoded ones
constexpr int kNearest = kMeans + kTraits;  // of the two nearest: energy, a, c, beta, v_0, offset x and y
constexpr int kNearestSize = 7;
constexpr int kRunning = kNearest + 2 * kNearestSize;  // means of the traits of the last splats
constexpr int kColors = kRunning + kTraits;            // of three channels: mean magnitude, with sign, of the last
constexpr int kOwn = kColors + 9;                      // of the splat itself, as far as decoded
constexpr int kOwnSize = 6;
constexpr int kFeatures = kOwn + kOwnSize;  // 48
using Features = std::array<std::int16_t, kFeatures>;

class Context {
 public:
  Context(const Steps& steps, int columns, int rows, int cell_exponent, int channels)
      : steps_(steps),
        columns_(columns),
        rows_(rows),
        cell_exponent_(cell_exponent),
        channels_(channels),
        stride_((kTraits + 2 * channels + kTraitBlock - 1) / kTraitBlock * kTraitBlock),
        kernels_(codec_kernels()),
        running_(std::size_t(kTraits + channels), 0),
        sums_(std::size_t(stride_)),
        colors_(std::size_t(2 * channels)) {}

  // Begins a packet whose cells are these, in the order of decoding.
  void begin(std::span<const Cell> cells) {
    for (const Cell& c : cells) places_.push_back({c.x * kFineness + kFineness / 2, c.y * kFineness + kFineness / 2});
    ++packet_;
    if (cells.empty()) return;
    seen_ = 0;
    square_ = 0;
    while (squares(columns_) * squares(rows_) > kSquaresPerSplat * std::int64_t(places_.size())) ++square_;
    across_ = int(squares(columns_));
    down_ = int(squares(rows_));
    starts_.assign(std::size_t(across_) * std::size_t(down_) + 1, 0);
    for (const Place& p : places_) ++starts_[at(p) + 1];
    for (std::size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
    const std::size_t room = places_.size() + kNeighbourBlock;  // blocks may reach beyond the last square
    ids_.resize(room);
    x_.resize(room);
    y_.resize(room);
    slots_.resize(places_.size());
    traits_.reserve(places_.size() * std::size_t(stride_));
    std::vector<std::int32_t> next(starts_.begin(), starts_.end() - 1);
    for (std::size_t i = 0; i < places_.size(); ++i) {
      slots_[i] = next[at(places_[i])]++;
      ids_[std::size_t(slots_[i])] = std::int32_t(i);
      see(slots_[i], places_[i]);
    }
  }

  // Looks around the next splat.
  void look(Features& f) {
    const std::size_t slot = std::size_t(slots_[std::size_t(decoded_)]);
    Surroundings in;
    in.x = x_.data();
    in.y = y_.data();
    in.ids = ids_.data();
    in.traits = traits_.data();
    in.stride = stride_;
    in.decoded = decoded_;
    in.own_x = x_[slot];
    in.own_y = y_[slot];
    in.rows = 0;
    const int qx = in.own_x / kFineness, qy = in.own_y / kFineness;
    const int left = std::max(0, qx - 2), right = std::min(across_ - 1, qx + 2);
    const int inner_left = std::max(0, qx - 1), inner_right = std::min(across_ - 1, qx + 1);
    int near = 0, around = 0;
    for (int y = std::max(0, qy - 2); y <= std::min(down_ - 1, qy + 2); ++y) {
      const std::int32_t* starts = &starts_[std::size_t(y) * std::size_t(across_)];
      in.last[in.rows] = starts[right + 1];
      in.first[in.rows++] = std::max(starts[left], starts[right + 1] - kMostInRow);
      around += starts[right + 1] - starts[left];
      if (std::abs(y - qy) <= 1) near += starts[inner_right + 1] - starts[inner_left];
    }
    Neighbours found;
    kernels_.look_around(in, found, sums_.data());
    const int weights = kPrior + found.weights;
    unit_ = (cell_exponent_ + square_) * 177;
    f[kSquare] = limited((cell_exponent_ + square_) * 256);
    f[kFirst] = packet_ == 1 ? 256 : 0;
    f[kPacket] = std::int16_t(std::min(packet_ - 1, 3) * 256);
    const int q = qy * across_ + qx;
    f[kKnown] = limited(kLogarithms(starts_[std::size_t(q) + 1] - starts_[std::size_t(q)]));
    f[kKnown + 1] = limited(kLogarithms(near));
    f[kKnown + 2] = limited(kLogarithms(around));
    const std::int64_t size = found.xx + found.yy + 1;
    f[kTensor] = std::int16_t(std::int64_t(found.xx - found.yy) * 256 / size);
    f[kTensor + 1] = std::int16_t(std::int64_t(found.xy) * 512 / size);
    f[kWeight] = limited(kLogarithms(weights));
    for (int s = 0; s < kTraits; ++s) {
      const int offset = s == kA || s == kC ? unit_ : 0;
      const int running = running_[std::size_t(s)] >> 4;
      f[std::size_t(kMeans + s)] = limited((sums_[std::size_t(s)] + kPrior * running) / weights - offset);
      f[std::size_t(kRunning + s)] = limited(running - offset);
    }
    for (std::size_t i = 0; i < 2; ++i) {
      std::int16_t* g = &f[kNearest + i * kNearestSize];
      std::fill_n(g, kNearestSize, std::int16_t(0));
      if (found.nearest[i] < 0) continue;
      const std::size_t n = std::size_t(found.nearest[i]);
      const std::int16_t* traits = &traits_[std::size_t(ids_[n]) * std::size_t(stride_)];
      g[0] = traits[kEnergy];
      g[1] = limited(traits[kA] - unit_);
      g[2] = limited(traits[kC] - unit_);
      g[3] = traits[kBeta];
      g[4] = traits[kTraits + 1];
      g[5] = std::int16_t((x_[n] - in.own_x) * 16);
      g[6] = std::int16_t((y_[n] - in.own_y) * 16);
    }
    for (int c = 0; c < channels_; ++c) {
      const int running = running_[std::size_t(kTraits + c)] >> 4;
      const std::int32_t* sums = &sums_[std::size_t(kTraits + 2 * c)];
      colors_[std::size_t(2 * c)] = std::int16_t((sums[0] + kPrior * running) / weights);
      colors_[std::size_t(2 * c + 1)] = std::int16_t(sums[1] / weights);
    }
    for (int slot = 0; slot < 3; ++slot) show_color(f, slot, slot);
  }

  // Puts channel c where the features have their channel `slot`.
  void show_color(Features& f, int slot, int c) const {
    std::int16_t* g = &f[std::size_t(kColors + 3 * slot)];
    const bool there = c < channels_;
    g[0] = there ? colors_[std::size_t(2 * c)] : 0;
    g[1] = there ? colors_[std::size_t(2 * c + 1)] : 0;
    g[2] = there ? limited(running_[std::size_t(kTraits + c)] >> 4) : 0;
  }

  int unit() const { return unit_; }      // what a and c are measured from: 256 ln of the side of a square, pixels
  int packet() const { return packet_; }  // 1 for the first

  // The splat around which look() looked has been decoded.
  void add(const std::int32_t* row, int k, int bits_x, int bits_y) {
    Place& place = places_[std::size_t(decoded_)];
    place = {sixteenths(row[0], bits_x), sixteenths(row[1], bits_y)};
    see(slots_[std::size_t(decoded_++)], place);
    const std::size_t first = traits_.size();
    traits_.resize(first + std::size_t(stride_), 0);
    std::int16_t* traits = &traits_[first];
    traits[kEnergy] = std::int16_t(k * 128);
    traits[kA] = limited((row[2] * steps_.log[std::size_t(k)]) >> 8);
    traits[kC] = limited((row[4] * steps_.log[std::size_t(k)]) >> 8);
    traits[kBeta] = limited((row[3] * steps_.shear[std::size_t(k)]) >> 8);
    traits[kAbsBeta] = std::int16_t(std::abs(traits[kBeta]));
    for (int c = 0; c < channels_; ++c) {
      traits[kTraits + 2 * c] = limited(kLogarithms.magnitude(row[kGeometry + c]));
      traits[kTraits + 2 * c + 1] = limited(kLogarithms.signed_magnitude(row[kGeometry + c]));
    }
    const int rate = std::min(5, 1 + log2_floor(++seen_));
    for (std::size_t s = 0; s < running_.size(); ++s) {
      const int value = traits[s < kTraits ? s : 2 * s - kTraits];
      running_[s] += (value * 16 - running_[s]) >> rate;
    }
  }

 private:
  static constexpr int kFineness = 16;
  static constexpr int kSquaresPerSplat = 3;  // at most
  static constexpr int kPrior = 128;          // weight of the running means

  struct Place {
    std::int32_t x, y;  // 1 / kFineness of a cell
  };

  std::int64_t squares(int cells) const { return ((cells - 1) >> square_) + 1; }
  std::size_t at(const Place& p) const {
    return std::size_t(p.y / kFineness >> square_) * std::size_t(across_) + std::size_t(p.x / kFineness >> square_);
  }
  static std::int32_t sixteenths(std::int32_t x, int bits) {
    return bits >= 4 ? x >> (bits - 4) : (x << (4 - bits)) + (8 >> bits);
  }

  void see(std::int32_t slot, const Place& p) {
    x_[std::size_t(slot)] = p.x >> square_;
    y_[std::size_t(slot)] = p.y >> square_;
  }

  const Steps& steps_;
  int columns_, rows_, cell_exponent_, channels_, stride_;
  const CodecKernels& kernels_;
  int packet_ = 0, seen_ = 0, decoded_ = 0;
  int square_ = 0, across_ = 1, down_ = 1;  // squares have 2^square_ cells on a side
  int unit_ = 0;
  std::vector<Place> places_;  // of all known splats; of those not decoded, the centres of their cells
  // By square: where each begins, then splats and their places in 1 / kFineness of a square.
  std::vector<std::int32_t> starts_, ids_, x_, y_;
  std::vector<std::int32_t> slots_;  // of a splat in those
  std::vector<std::int16_t> traits_;
  std::vector<std::int32_t> running_;  // 1 / 4096
  std::vector<std::int32_t> sums_;
  std::vector<std::int16_t> colors_;
};

}  // namespace splat2d::codec
