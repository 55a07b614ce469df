// The six small networks that foretell symbols from features, in integers; docs/format.md, section "Packets".
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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
          for (std::size_t j = 0; j < kFeatures; ++j) n.hidden[j / 2][2 * i + j % 2] = std::int8_t(weights[w++]);
        else
          for (std::size_t j = 0; j < kHidden; ++j) n.output[i - kHidden][j] = std::int8_t(weights[w++]);
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
    std::copy_n(n.bias.begin(), kHidden, hidden.begin());
    multiply(n, f, hidden);
    for (std::size_t i = 0; i < kHidden; ++i) hidden[i] = std::clamp(hidden[i] >> n.shift[i], 0, 32767);
    std::array<std::int32_t, kOutputs> output;
    for (std::size_t i = 0; i < kOutputs; ++i) {
      std::int32_t sum = n.bias[kHidden + i];
      for (std::size_t j = 0; j < kHidden; ++j) sum += n.output[i][j] * hidden[j];
      output[i] = sum >> n.shift[kHidden + i];
    }
    return {output[0], output[1]};
  }

 private:
  struct Network {
    std::array<std::array<std::int16_t, 2 * kHidden>, kFeatures / 2>
        hidden;  // pairs of features, of one unit after another
    std::array<std::array<std::int32_t, kHidden>, kOutputs> output;
    std::array<std::int32_t, kHidden + kOutputs> bias;
    std::array<int, kHidden + kOutputs> shift;
  };

  static void multiply(const Network& n, const Features& f, std::array<std::int32_t, kHidden>& sums) {
#if defined(__SSE2__)  // one instruction for eight products and four sums
    constexpr std::size_t kVectors = kHidden / 4;
    __m128i sum[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) std::memcpy(&sum[v], &sums[4 * v], sizeof sum[v]);
    for (std::size_t j = 0; j < kFeatures / 2; ++j) {
      int pair;
      std::memcpy(&pair, &f[2 * j], sizeof pair);
      const __m128i features = _mm_set1_epi32(pair);
      for (std::size_t v = 0; v < kVectors; ++v) {
        __m128i weights;
        std::memcpy(&weights, &n.hidden[j][8 * v], sizeof weights);
        sum[v] = _mm_add_epi32(sum[v], _mm_madd_epi16(weights, features));
      }
    }
    for (std::size_t v = 0; v < kVectors; ++v) std::memcpy(&sums[4 * v], &sum[v], sizeof sum[v]);
#else
    for (std::size_t j = 0; j < kFeatures / 2; ++j)
      for (std::size_t i = 0; i < kHidden; ++i)
        sums[i] += n.hidden[j][2 * i] * f[2 * j] + n.hidden[j][2 * i + 1] * f[2 * j + 1];
#endif
  }

  std::array<Network, kSymbols> networks_{};
};

}  // namespace splat2d::codec
