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
  int scale;  // log2 of the deviation: of an index for v, in natural units for the shape
  int place;  // v: logit of a negative sign; a, c: mean less the unit; beta: mean
};

class Networks {
 public:
  Networks() {
    const std::vector<std::uint8_t> weights = from_base64(kNetworkWeights), biases = from_base64(kNetworkBiases),
                                    shifts = from_base64(kNetworkShifts);
    std::size_t w = 0, unit = 0;
    for (Network& n : networks_) {
      for (std::size_t i = 0; i < kHidden + kOutputs; ++i, ++unit) {
        if (i < kHidden)
          for (std::int16_t& weight : n.hidden[i]) weight = std::int8_t(weights[w++]);
        else
          for (std::int16_t& weight : n.output[i - kHidden]) weight = std::int8_t(weights[w++]);
        std::uint32_t bias = 0;
        for (std::size_t byte = 4; byte-- > 0;) bias = bias << 8 | biases[4 * unit + byte];
        n.bias[i] = std::int32_t(bias);
        n.shift[i] = shifts[unit];
      }
    }
  }

  Forecast operator()(int symbol, const Features& f) const {
    const Network& n = networks_[std::size_t(symbol)];
    std::array<std::int32_t, kHidden> hidden;
    for (std::size_t i = 0; i < kHidden; ++i) {
      std::int32_t sum = n.bias[i];
      for (std::size_t j = 0; j < kFeatures; ++j) sum += std::int32_t(n.hidden[i][j]) * f[j];
      hidden[i] = std::clamp(sum >> n.shift[i], 0, 32767);
    }
    std::array<std::int32_t, kOutputs> output;
    for (std::size_t i = 0; i < kOutputs; ++i) {
      std::int32_t sum = n.bias[kHidden + i];
      for (std::size_t j = 0; j < kHidden; ++j) sum += std::int32_t(n.output[i][j]) * hidden[j];
      output[i] = sum >> n.shift[kHidden + i];
    }
    return {output[0], output[1]};
  }

 private:
  struct Network {
    std::array<std::array<std::int16_t, kFeatures>, kHidden> hidden;
    std::array<std::array<std::int16_t, kHidden>, kOutputs> output;
    std::array<std::int32_t, kHidden + kOutputs> bias;
    std::array<int, kHidden + kOutputs> shift;
  };
  std::array<Network, kSymbols> networks_{};
};

}  // namespace splat2d::codec
