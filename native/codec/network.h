// The six small networks that foretell symbols from features, in integers;
// docs/format.md, section "Packets".
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
static_assert(kSymbols == kNetworks && 2 * kCommonPairs == kOwn);
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
    for (std::size_t symbol = 0; symbol < kSymbols; ++symbol) {
      Network& n = networks_[symbol];
      for (std::size_t i = 0; i < kHidden + kOutputs; ++i, ++unit) {
        std::uint32_t bias = 0;
        for (std::size_t byte = 4; byte-- > 0;) bias = bias << 8 | biases[4 * unit + byte];
        if (i < kHidden) {
          // Scaled, so that the shift is the same for all units.
          const int scale = 1 << (kHiddenShift - shifts[unit]);
          for (std::size_t j = 0; j < kFeatures; ++j)
            (j < kOwn ? common_[j / 2][symbol] : n.own[(j - kOwn) / 2])[i][j % 2] =
                std::int16_t(std::int8_t(weights[w++]) * scale);
          bias_[symbol][i] = std::int32_t(bias) * scale;
        } else {
          for (std::int16_t& weight : n.output[i - kHidden]) weight = std::int8_t(weights[w++]);
          n.output_bias[i - kHidden] = std::int32_t(bias);
          n.output_shift[i - kHidden] = shifts[unit];
        }
      }
    }
  }

  // Sums of the hidden units of all networks, as far as the features before kOwn go.
  using Sums = std::array<std::int32_t, kHidden>;
  using AllSums = std::array<Sums, kSymbols>;
  void look(const CodecKernels& kernels, const Features& f, AllSums& sums) const {
    sums = bias_;
    kernels.add_hidden(&common_[0][0][0][0], f.data(), sums[0].data());
  }

  Forecast operator()(int symbol, const Features& f, Sums sums) const {
    const Network& n = networks_[std::size_t(symbol)];
    add_own(n, f, sums);
    std::array<std::int32_t, kOutputs> output = n.output_bias;
#if defined(__SSE2__)
    __m128i part[kHidden / 8][2];
    std::memcpy(&part, &sums, sizeof sums);
    __m128i low = _mm_setzero_si128(), high = low;
    for (std::size_t i = 0; i < kHidden / 8; ++i) {
      const __m128i hidden = _mm_max_epi16(  // packing clamps at 32767
          _mm_packs_epi32(_mm_srai_epi32(part[i][0], kHiddenShift), _mm_srai_epi32(part[i][1], kHiddenShift)),
          _mm_setzero_si128());
      low = _mm_add_epi32(low, _mm_madd_epi16(hidden, load(&n.output[0][8 * i])));
      high = _mm_add_epi32(high, _mm_madd_epi16(hidden, load(&n.output[1][8 * i])));
    }
    __m128i sum = _mm_add_epi32(_mm_unpacklo_epi32(low, high), _mm_unpackhi_epi32(low, high));
    sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
    output[0] += _mm_cvtsi128_si32(sum);
    output[1] += _mm_cvtsi128_si32(_mm_shuffle_epi32(sum, 1));
#else
    for (std::size_t j = 0; j < kHidden; ++j) {
      const std::int32_t hidden = std::clamp(sums[j] >> kHiddenShift, 0, 32767);
      for (std::size_t i = 0; i < kOutputs; ++i) output[i] += n.output[i][j] * hidden;
    }
#endif
    return {output[0] >> n.output_shift[0], output[1] >> n.output_shift[1]};
  }

 private:
  static constexpr int kHiddenShift = 8;  // the greatest of the hidden units

  using PairWeights = std::array<std::array<std::int16_t, 2>, kHidden>;  // of a pair of features
  struct Network {
    alignas(16) std::array<PairWeights, kOwnSize / 2> own;
    alignas(16) std::array<std::array<std::int16_t, kHidden>, kOutputs> output;
    std::array<std::int32_t, kOutputs> output_bias;
    std::array<int, kOutputs> output_shift;
  };

#if defined(__SSE2__)
  static __m128i load(const void* weights) { return _mm_load_si128(static_cast<const __m128i*>(weights)); }
#endif
  static void add_own(const Network& n, const Features& f, Sums& sums) {
#if defined(__SSE2__)  // one instruction for eight products and four sums
    __m128i sum[kHidden / 4];
    std::memcpy(&sum, &sums, sizeof sums);
    for (std::size_t p = 0; p < kOwnSize / 2; ++p) {
      std::int32_t both;
      std::memcpy(&both, &f[kOwn + 2 * p], sizeof both);
      const __m128i pair = _mm_set1_epi32(both);
      for (std::size_t i = 0; i < kHidden / 4; ++i)
        sum[i] = _mm_add_epi32(sum[i], _mm_madd_epi16(load(&n.own[p][4 * i]), pair));
    }
    std::memcpy(&sums, &sum, sizeof sums);
#else
    for (std::size_t p = 0; p < kOwnSize / 2; ++p)
      for (std::size_t i = 0; i < kHidden; ++i)
        sums[i] += n.own[p][i][0] * f[kOwn + 2 * p] + n.own[p][i][1] * f[kOwn + 2 * p + 1];
#endif
  }

  std::array<Network, kSymbols> networks_{};
  alignas(64) std::array<std::array<PairWeights, kSymbols>, kCommonPairs> common_{};
  AllSums bias_{};
};

}  // namespace splat2d::codec
