// The six small networks that foretell symbols from features, in integers;
// docs/format.md, section "Packets".
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "context.h"
#include "tables.h"

namespace splat2d::codec {

inline std::vector<std::uint8_t> from_base64(std::string_view text) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<std::uint8_t> bytes;
  std::uint32_t word = 0;
  int bits = 0;
  for (const char digit : text) {
    if (digit == '=') break;
    word = word << 6 | std::uint32_t(kDigits.find(digit));
    bits += 6;
    if (bits >= 8) bytes.push_back(std::uint8_t(word >> (bits -= 8)));
  }
  return bytes;
}

enum Symbol : int { kV0, kV1, kV2, kShapeA, kShapeC, kShapeBeta, kSymbols };
constexpr int kOutputs = 2;

struct Forecast {
  int scale;  // log2 of the deviation, in indices for v, in natural units for
              // the shape
  int place;  // for v the logit of a negative sign; for a and c the mean less
              // the unit; for beta the mean
};

class Networks {
 public:
  Networks() {
    const std::vector<std::uint8_t> weights = from_base64(kNetworkWeights), biases = from_base64(kNetworkBiases),
                                    shifts = from_base64(kNetworkShifts);
    std::size_t w = 0, unit = 0;
    for (Network& n : networks_) {
      for (int i = 0; i < kHidden + kOutputs; ++i, ++unit) {
        const bool hidden = i < kHidden;
        std::int16_t* target = hidden ? n.hidden[std::size_t(i)].data() : n.output[std::size_t(i - kHidden)].data();
        for (int j = 0; j < (hidden ? kFeatures : kHidden); ++j) target[j] = std::int8_t(weights[w++]);
        n.shift[std::size_t(i)] = shifts[unit];
        for (int byte = 3; byte >= 0; --byte)
          n.bias[std::size_t(i)] = n.bias[std::size_t(i)] << 8 | biases[4 * unit + std::size_t(byte)];
      }
    }
  }

  Forecast operator()(int symbol, const Features& f) const {
    const Network& n = networks_[std::size_t(symbol)];
    std::array<std::int32_t, kHidden> hidden;
    for (std::size_t i = 0; i < kHidden; ++i) {
      std::int32_t sum = std::int32_t(n.bias[i]);
      for (std::size_t j = 0; j < kFeatures; ++j) sum += std::int32_t(n.hidden[i][j]) * f[j];
      hidden[i] = std::clamp(sum >> n.shift[i], 0, 32767);
    }
    std::array<std::int32_t, kOutputs> output;
    for (std::size_t i = 0; i < kOutputs; ++i) {
      std::int32_t sum = std::int32_t(n.bias[kHidden + i]);
      for (std::size_t j = 0; j < kHidden; ++j) sum += std::int32_t(n.output[i][j]) * hidden[j];
      output[i] = sum >> n.shift[kHidden + i];
    }
    return {output[0], output[1]};
  }

 private:
  struct Network {
    std::array<std::array<std::int16_t, kFeatures>, kHidden> hidden;
    std::array<std::array<std::int16_t, kHidden>, kOutputs> output;
    std::array<std::uint32_t, kHidden + kOutputs> bias;
    std::array<int, kHidden + kOutputs> shift;
  };
  std::array<Network, kSymbols> networks_{};
};

}  // namespace splat2d::codec
