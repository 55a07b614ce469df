// What costs most in coding a splat: leaf functions that come once per instruction set, all with the same integers.
#pragma once

#include <cstdint>

namespace splat2d {

constexpr int kNeighbourBlock = 8;  // splats that are looked at together
constexpr int kRowsAround = 5;      // of squares
constexpr int kMostInRow = 24;      // splats; bounds the work, and the sums: 5 * 24 * 2048 * 4096 < 2^31
constexpr int kTraitBlock = 16;     // the traits of a splat are a multiple of this
constexpr int kNetworks = 6;
constexpr int kHidden = 16;       // units of each network
constexpr int kCommonPairs = 21;  // pairs of features that do not belong to the splat itself

// Splats by square; the arrays are readable for a block beyond the last one.
struct Surroundings {
  const std::int32_t *x, *y, *ids;
  const std::int16_t* traits;  // [id][stride] of the decoded ones, ids 0..decoded - 1
  int stride, decoded;
  std::int32_t own_x, own_y;
  int rows;
  std::int32_t first[kRowsAround], last[kRowsAround];  // last is exclusive
};
struct Neighbours {
  std::int32_t xx, yy, xy;  // sums of weight times products of differences, over all
  std::int32_t weights;     // sum over the decoded
  std::int32_t nearest[2];  // where the nearest decoded ones stand, or -1
};
struct CodecKernels {
  // sums [stride]: of weight times trait, over the decoded.
  void (*look_around)(const Surroundings& in, Neighbours& out, std::int32_t* sums);
  // Adds products of weights [kCommonPairs][kNetworks][kHidden][2] and features to sums [kNetworks][kHidden].
  void (*add_hidden)(const std::int16_t* weights, const std::int16_t* features, std::int32_t* sums);
};
const CodecKernels& codec_kernels();  // those of the instruction set in use

}  // namespace splat2d
