// Predictions of single bits: adaptive counters, mixed in the logistic domain; docs/format.md, section "Packets".
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "range_coder.h"

namespace splat2d::codec {

constexpr int kMostLogit = 2047;  // logits are in 1 / 256 nats

struct Logistic {
  std::array<std::uint16_t, 2 * kMostLogit + 1> squashed;
  std::array<std::int16_t, 4096> stretched;
  std::array<std::int32_t, 256> rate;  // of a counter that has seen so many bits

  Logistic() {
    for (int i = -kMostLogit; i <= kMostLogit; ++i)
      squashed[std::size_t(i + kMostLogit)] = std::uint16_t(std::nearbyint(65536 / (1 + std::exp(-i / 256.0))));
    for (int i = 0; i < 4096; ++i) {
      const double logit = 256 * std::log((i + 0.5) / (4095.5 - i));
      stretched[std::size_t(i)] = std::int16_t(std::nearbyint(std::clamp(logit, -2047.0, 2047.0)));
    }
    for (int i = 0; i < 256; ++i) rate[std::size_t(i)] = 131072 / (2 * i + 3);
  }
  int squash(int logit) const { return squashed[std::size_t(logit + kMostLogit)]; }
  int stretch(int p) const { return stretched[std::size_t(p >> 4)]; }
};
inline const Logistic kLogistic;

constexpr int kLeastProbability = 32;  // of a bit, 1 / 65536
constexpr int kMostSeen = 127;         // slowest rate of a counter
constexpr int kWeightShift = 15;       // rate of the weights
constexpr std::int32_t kMostWeight = 1 << 20;

// The probability of bit 1 in a context.
struct Counter {
  std::uint16_t p = 0;
  std::uint16_t seen = 0;

  SPLAT2D_INLINE void update(int bit) {
    p = std::uint16_t(p + ((((bit ? 65535 : 0) - p) * kLogistic.rate[seen]) >> 16));
    if (seen < kMostSeen) ++seen;
  }
};

// The weights of one decision: of its prior first, then of its counters. 1 / 65536.
template <int N> using Weights = std::array<std::int32_t, N + 1>;

// Codes a bit whose logit is about `prior`. Counters that have seen nothing start there.
template <int N, class Coder>
SPLAT2D_INLINE int code_bit(Coder& coder, int bit, int prior, const std::array<Counter*, N>& counters,
                            Weights<N>& weights, int seen) {
  std::array<int, N + 1> logit;
  logit[0] = prior;
  std::int64_t sum = std::int64_t(weights[0]) * prior;
  for (int i = 0; i < N; ++i) {
    Counter& c = *counters[std::size_t(i)];
    if (c.seen == 0) c = {std::uint16_t(kLogistic.squash(prior)), std::uint16_t(seen)};
    logit[std::size_t(i + 1)] = kLogistic.stretch(c.p);
    sum += std::int64_t(weights[std::size_t(i + 1)]) * logit[std::size_t(i + 1)];
  }
  const int p = std::clamp(kLogistic.squash(int(std::clamp<std::int64_t>(sum >> 16, -kMostLogit, kMostLogit))),
                           kLeastProbability, 65536 - kLeastProbability);
  bit = coder.code(bit, std::uint32_t(p));
  const int error = (bit << 16) - p;
  for (int i = 0; i <= N; ++i) {
    std::int32_t& w = weights[std::size_t(i)];
    w = std::clamp(w + ((logit[std::size_t(i)] * error + (1 << (kWeightShift - 1))) >> kWeightShift), -kMostWeight,
                   kMostWeight);
  }
  for (Counter* c : counters) c->update(bit);
  return bit;
}

// The same with one counter and no weights.
template <class Coder>
SPLAT2D_INLINE int code_bit(Coder& coder, int bit, int prior, Counter& counter, int seen) {
  if (counter.seen == 0) counter = {std::uint16_t(kLogistic.squash(prior)), std::uint16_t(seen)};
  bit = coder.code(bit, std::uint32_t(std::clamp<int>(counter.p, kLeastProbability, 65536 - kLeastProbability)));
  counter.update(bit);
  return bit;
}

}  // namespace splat2d::codec
