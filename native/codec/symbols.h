// Integers as decisions, and the tables that decisions start from; docs/format.md, section "Packets".
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "mixing.h"
#include "network.h"

namespace splat2d::codec {

inline void require(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}

// A decoder's state for as long as an integer takes, apart from what could alias it; of an encoder the original.
template <class Coder> struct Copy {
  explicit Copy(Coder& shared) : coder(shared), original(shared) {}
  ~Copy() { original = coder; }
  Coder coder;
  Coder& original;
};
template <> struct Copy<Encoder> {
  explicit Copy(Encoder& shared) : coder(shared) {}
  Encoder& coder;
};

// Decisions of an integer: length of the magnitude in bits (from a likely one up or down), sign, the two bits below
// the leading one.
constexpr int kUp = 0, kDown = 14, kSign = 24, kUpper = 27, kLower = 34, kNodes = 46;
inline int up_node(int length) { return kUp + std::min(length, 13); }
inline int down_node(int length) { return kDown + std::min(length, 9); }
inline int sign_node(int length) { return kSign + std::min(length, 3) - 1; }
inline bool is_sign(int node) { return node >= kSign && node < kUpper; }
inline int upper_node(int length) { return kUpper + std::min(length, 8) - 2; }
inline int lower_node(int length, int upper) { return kLower + 2 * (std::min(length, 8) - 3) + upper; }

// decide(coder, node, bit) codes a decision. value: that of the encoder, |value| < 2^32. likely: length to begin with.
template <class Coder, class Decide>
SPLAT2D_INLINE std::int64_t code_integer(Coder& shared, std::int64_t value, std::int64_t most, int likely,
                                         Decide decide) {
  Copy<Coder> copy(shared);
  Coder& coder = copy.coder;
  const std::uint32_t magnitude = std::uint32_t(std::abs(value));
  const auto is_longer = [&](int than) { return than < 32 && magnitude >> than != 0; };
  int length = likely;
  if (decide(coder, up_node(length), is_longer(length))) {
    for (++length; length < 32 && decide(coder, up_node(length), is_longer(length));) ++length;
  } else {
    while (length > 0 && decide(coder, down_node(length - 1), !is_longer(length - 1))) --length;
  }
  if (length == 0) return 0;
  const int negative = decide(coder, sign_node(length), value < 0);
  std::uint32_t result = 1;
  if (length >= 2) result = 2 | std::uint32_t(decide(coder, upper_node(length), magnitude >> (length - 2) & 1));
  if (length >= 3)
    result = result << 1 | std::uint32_t(decide(coder, lower_node(length, result & 1), magnitude >> (length - 3) & 1));
  if (length >= 4) result = result << (length - 3) | coder.code_plain(length - 3, magnitude);
  require(result <= most, "a packet holds an index beyond the limits");
  return negative ? -std::int64_t(result) : std::int64_t(result);
}

constexpr int kScales = 24;     // classes of the deviation of an integer, half an octave each, from 1 / 8 up
constexpr int kFineScales = 8;  // those for which it matters where between two integers the mean lies,
constexpr int kPlaces = 4;      // in so many classes
constexpr int kShapeContexts = kFineScales * kPlaces + kScales - kFineScales;
inline int likely_length(int scale) { return std::max(0, scale / 2 - 2); }
inline int scale_class(int log2_deviation) { return std::clamp((log2_deviation + 768) >> 7, 0, kScales - 1); }

constexpr int kFew = 8;     // counts below are coded one after another
constexpr int kLeans = 17;  // classes of how the splats lie that are known already
constexpr int kManyContexts = 24;

// Logits of decisions in 1 / 16 nats, from photos.
struct Tables {
  std::vector<std::uint8_t> color = from_base64(kColorLogits);  // [3, kScales, kNodes]
  std::vector<std::uint8_t> shape = from_base64(kShapeLogits);  // [kShapeContexts, kNodes]
  std::vector<std::uint8_t> few = from_base64(kFewLogits);      // [kLeans, kFew, kFew]: lean, total, rank
  std::vector<std::uint8_t> many = from_base64(kManyLogits);    // [kManyContexts, kNodes]
  Networks networks;
};
inline const Tables kTables;

inline int logit(const std::vector<std::uint8_t>& table, int index) {
  return std::int8_t(table[std::size_t(index)]) * 16;
}

using NodeCounters = std::array<Counter, kNodes>;

// What has been learned about integers of one kind, by a context.
class IntegerModel {
 public:
  explicit IntegerModel(int contexts) : counters_(std::size_t(contexts)) {}

  template <class Coder>
  SPLAT2D_INLINE int decide(Coder& coder, int node, int bit, int prior, int context) {
    return code_bit(coder, bit, prior, counters_[std::size_t(context)][std::size_t(node)], kTrust);
  }

 private:
  static constexpr int kTrust = 40;  // in the table, in bits seen
  std::vector<NodeCounters> counters_;
};

// The same by two contexts.
class MixedModel {
 public:
  explicit MixedModel(int contexts) {
    counters_.fill(std::vector<NodeCounters>(std::size_t(contexts)));
    weights_.fill({kPriorWeight, kCounterWeight, kCounterWeight});
  }

  template <class Coder>
  SPLAT2D_INLINE int decide(Coder& coder, int node, int bit, int prior, int context0, int context1) {
    const std::size_t n = std::size_t(node);
    return code_bit<2>(coder, bit, prior,
                       {&counters_[0][std::size_t(context0)][n], &counters_[1][std::size_t(context1)][n]}, weights_[n],
                       kTrust);
  }

 private:
  static constexpr int kTrust = 4;
  static constexpr std::int32_t kPriorWeight = 36000, kCounterWeight = 18000;
  std::array<std::vector<NodeCounters>, 2> counters_;
  std::array<Weights<2>, kNodes> weights_;
};

}  // namespace splat2d::codec
