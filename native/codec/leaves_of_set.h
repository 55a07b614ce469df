// The functions of leaves.h for the instruction set that SPLAT2D_SET names; cpu/kernels.cpp includes it once for each.
// docs/format.md, section "Packets", has the rules. Nothing of the standard library, for the reason given there.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "../gaussian.h"
#include "leaves.h"

namespace splat2d::SPLAT2D_SET {
namespace {

typedef std::int32_t Block __attribute__((vector_size(4 * kNeighbourBlock)));
typedef float FloatBlock __attribute__((vector_size(4 * kNeighbourBlock)));
typedef std::int16_t ShortBlock __attribute__((vector_size(2 * kNeighbourBlock)));

inline Block load_block(const std::int32_t* p) {
  Block v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline Block smaller(Block a, Block b) { return a < b ? a : b; }
inline Block larger(Block a, Block b) { return a > b ? a : b; }
inline std::int32_t total(Block v) {
  std::int32_t s = v[0];
  for (int i = 1; i < kNeighbourBlock; ++i) s += v[i];
  return s;
}

// sums[s] = sum of weight times trait over so many splats, an even number.
inline void sum_traits(const std::int16_t* traits, int stride, const std::int32_t* ids, const std::int16_t* weights,
                       int count, std::int32_t* sums) {
#if defined(__AVX2__)  // one instruction for sixteen products and eight sums
  for (int s = 0; s < stride; s += kTraitBlock) {
    __m256i low = _mm256_setzero_si256(), high = low;
    for (int i = 0; i < count; i += 2) {
      const auto row = [&](int n) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(traits + std::ptrdiff_t(ids[n]) * stride + s));
      };
      std::int32_t both;
      __builtin_memcpy(&both, weights + i, sizeof both);
      const __m256i a = row(i), b = row(i + 1), pair = _mm256_set1_epi32(both);
      low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), pair));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), pair));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + s), _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + s + 8), _mm256_permute2x128_si256(low, high, 0x31));
  }
#elif defined(__SSE2__)
  for (int s = 0; s < stride; s += 8) {
    __m128i low = _mm_setzero_si128(), high = low;
    for (int i = 0; i < count; i += 2) {
      const auto row = [&](int n) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(traits + std::ptrdiff_t(ids[n]) * stride + s));
      };
      std::int32_t both;
      __builtin_memcpy(&both, weights + i, sizeof both);
      const __m128i a = row(i), b = row(i + 1), pair = _mm_set1_epi32(both);
      low = _mm_add_epi32(low, _mm_madd_epi16(_mm_unpacklo_epi16(a, b), pair));
      high = _mm_add_epi32(high, _mm_madd_epi16(_mm_unpackhi_epi16(a, b), pair));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + s), low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + s + 4), high);
  }
#else
  for (int s = 0; s < stride; ++s) sums[s] = 0;
  for (int i = 0; i < count; ++i)
    for (int s = 0; s < stride; ++s) sums[s] += weights[i] * traits[std::ptrdiff_t(ids[i]) * stride + s];
#endif
}

inline void look_around(const Surroundings& in, Neighbours& out, std::int32_t* sums) {
  constexpr int kMostBlocks = kRowsAround * ((kMostInRow + kNeighbourBlock - 1) / kNeighbourBlock);
  constexpr int kIndexBits = 7;
  static_assert(kMostBlocks * kNeighbourBlock <= 1 << kIndexBits);
  constexpr std::int32_t kNone = INT32_MAX;
  const Block lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  std::int32_t slots[kMostBlocks], ids[kMostBlocks * kNeighbourBlock];
  std::int16_t known_weights[kMostBlocks * kNeighbourBlock];
  Block nearest = Block{} + kNone, second = nearest, weights{}, xx{}, yy{}, xy{};
  int count = 0;  // places in the arrays above
  for (int row = 0; row < in.rows; ++row) {
    for (std::int32_t i = in.first[row]; i < in.last[row]; i += kNeighbourBlock, count += kNeighbourBlock) {
      const Block there = lanes + i < in.last[row];  // all bits, or none
      const Block dx = (load_block(in.x + i) - in.own_x) & there, dy = (load_block(in.y + i) - in.own_y) & there;
      const Block id = load_block(in.ids + i), known = there & (id < in.decoded);
      const Block squared = dx * dx + dy * dy;
      // Exact: the quotient is no nearer to an integer than 1 / 1039, and floats are far finer.
      const FloatBlock divisor = __builtin_convertvector(smaller(squared >> 2, Block{} + 1023) + 16, FloatBlock);
      const Block weight = __builtin_convertvector(32768.0f / divisor, Block), wx = weight * dx;
      xx += wx * dx;
      xy += wx * dy;
      yy += weight * dy * dy;
      weights += weight & known;
      const Block key = (squared << kIndexBits) + lanes + count;
      const Block candidate = known ? key : Block{} + kNone;
      second = smaller(second, larger(nearest, candidate));
      nearest = smaller(nearest, candidate);
      const ShortBlock narrow = __builtin_convertvector(weight & known, ShortBlock);
      const Block safe = id & known;
      __builtin_memcpy(known_weights + count, &narrow, sizeof narrow);
      __builtin_memcpy(ids + count, &safe, sizeof safe);
      slots[count / kNeighbourBlock] = i;
    }
  }
  // How all of them lie; the splat itself adds nothing.
  out.xx = total(xx);
  out.yy = total(yy);
  out.xy = total(xy);
  out.weights = total(weights);
  std::int32_t best = kNone, next = kNone;
  for (int i = 0; i < kNeighbourBlock; ++i) {
    next = least(least(next, greatest(best, nearest[i])), second[i]);
    best = least(best, nearest[i]);
  }
  const auto slot = [&](std::int32_t key) {
    const int index = key & ((1 << kIndexBits) - 1);
    return key == kNone ? -1 : slots[index / kNeighbourBlock] + index % kNeighbourBlock;
  };
  out.nearest[0] = slot(best);
  out.nearest[1] = slot(next);
  if (out.weights > 0)
    sum_traits(in.traits, in.stride, ids, known_weights, count, sums);
  else
    for (int s = 0; s < in.stride; ++s) sums[s] = 0;
}

// Adds to sums [networks][kHidden] the products of weights [pairs][networks][kHidden][2] and pairs of features.
inline void add_hidden(const std::int16_t* weights, const std::int16_t* features, std::int32_t* sums) {
#if defined(__AVX512BW__)
  __m512i sum[kNetworks];
  for (int n = 0; n < kNetworks; ++n) sum[n] = _mm512_loadu_si512(sums + n * kHidden);
  for (int p = 0; p < kCommonPairs; ++p) {
    std::int32_t both;
    __builtin_memcpy(&both, features + 2 * p, sizeof both);
    const __m512i pair = _mm512_set1_epi32(both);
    for (int n = 0; n < kNetworks; ++n, weights += 2 * kHidden)
      sum[n] = _mm512_add_epi32(sum[n], _mm512_madd_epi16(_mm512_loadu_si512(weights), pair));
  }
  for (int n = 0; n < kNetworks; ++n) _mm512_storeu_si512(sums + n * kHidden, sum[n]);
#elif defined(__AVX2__)
  constexpr int kParts = kNetworks * kHidden / 8;
  __m256i sum[kParts];
  for (int n = 0; n < kParts; ++n) sum[n] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + 8 * n));
  for (int p = 0; p < kCommonPairs; ++p) {
    std::int32_t both;
    __builtin_memcpy(&both, features + 2 * p, sizeof both);
    const __m256i pair = _mm256_set1_epi32(both);
    for (int n = 0; n < kParts; ++n, weights += 16) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
      sum[n] = _mm256_add_epi32(sum[n], _mm256_madd_epi16(w, pair));
    }
  }
  for (int n = 0; n < kParts; ++n) _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + 8 * n), sum[n]);
#elif defined(__SSE2__)
  constexpr int kParts = kNetworks * kHidden / 4, kGroup = kParts / 2;  // as many as there are registers for
  for (int first = 0; first < kParts; first += kGroup) {
    __m128i sum[kGroup];
    for (int n = 0; n < kGroup; ++n) sum[n] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(sums + 4 * (first + n)));
    for (int p = 0; p < kCommonPairs; ++p) {
      std::int32_t both;
      __builtin_memcpy(&both, features + 2 * p, sizeof both);
      const __m128i pair = _mm_set1_epi32(both);
      for (int n = 0; n < kGroup; ++n) {
        const std::int16_t* w = weights + 8 * (p * kParts + first + n);
        sum[n] = _mm_add_epi32(sum[n], _mm_madd_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)), pair));
      }
    }
    for (int n = 0; n < kGroup; ++n) _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + 4 * (first + n)), sum[n]);
  }
#else
  for (int p = 0; p < kCommonPairs; ++p)
    for (int i = 0; i < kNetworks * kHidden; ++i, weights += 2)
      sums[i] += weights[0] * features[2 * p] + weights[1] * features[2 * p + 1];
#endif
}

}  // namespace
}  // namespace splat2d::SPLAT2D_SET
