// Where splats are missing, where they are idle, and how they lie in memory: all that happens between blocks of steps.
// The meaning is that of native/cpu/engine.cpp.
#pragma once

#include "common.cuh"

namespace splat2d {

constexpr unsigned kInfinity = 0x7F800000u;  // bits of the float

// Squared error over the channels -> squares[pixel]; its sum -> state->sums[0].
extern "C" __global__ void __launch_bounds__(256)
    error_squares(State* state, const float* __restrict__ residual, float* __restrict__ squares, double* partials,
                  long long pixels) {
  double sums[1] = {0};
  for (size_t p = blockIdx.x * size_t(blockDim.x) + threadIdx.x; p < pixels; p += size_t(gridDim.x) * blockDim.x) {
    float s = 0;
    for (int g = 0; g < kGroups; ++g) {
      const Pixel r = load_pixel(residual + g * size_t(pixels) * kLanes, p);
      for (int c = 0; c < kActive; ++c) s += r.v[c] * r.v[c];
    }
    squares[p] = s;
    sums[0] += s;
  }
  grid_sum(state, partials, sums, state->sums);
}

// Blurred by a 5 x 5 box, divided by the mean, to the power -> map; its sum -> state->sums[1]. The scale that would
// make the map add up to `draws` -> state->scale.
extern "C" __global__ void __launch_bounds__(256)
    error_map(State* state, const float* __restrict__ squares, float* __restrict__ map, double* partials, int width,
              int height, float power, double draws) {
  const size_t pixels = size_t(width) * height;
  const double mean = state->sums[0] / double(pixels);
  const float scale = mean > 0 ? float(1 / (25 * mean)) : 0.0f;
  double sums[1] = {0};
  for (size_t p = blockIdx.x * size_t(blockDim.x) + threadIdx.x; p < pixels; p += size_t(gridDim.x) * blockDim.x) {
    const int x = int(p % width), y = int(p / width);
    float s = 0;
    for (int v = greatest(y - 2, 0); v <= least(y + 2, height - 1); ++v)
      for (int u = greatest(x - 2, 0); u <= least(x + 2, width - 1); ++u) s += squares[size_t(v) * width + u];
    s *= scale;
    s = power == 1 ? s : power == 2 ? s * s : power == 3 ? s * s * s : s > 0 ? powf(s, power) : 0.0f;
    map[p] = s;
    sums[0] += s;
  }
  if (grid_sum(state, partials, sums, state->sums + 1) && threadIdx.x == 0)
    state->scale = state->sums[1] > 0 ? draws / state->sums[1] : 0;
}

// One round of the fixed-point iteration for the scale at which the map, cut at `most`, adds up to `draws`.
extern "C" __global__ void __launch_bounds__(256)
    flatten(State* state, const float* __restrict__ map, double* partials, long long pixels, float most, double draws) {
  const float scale = float(state->scale);
  double sums[1] = {0};
  for (size_t p = blockIdx.x * size_t(blockDim.x) + threadIdx.x; p < pixels; p += size_t(gridDim.x) * blockDim.x)
    sums[0] += least(map[p] * scale, most);
  if (grid_sum(state, partials, sums, state->sums + 2) && threadIdx.x == 0 && state->sums[2] > 0)
    state->scale *= draws / state->sums[2];
}

// Applies the scale and the cut, and sums segments of kSegment pixels. An empty map becomes an even one.
extern "C" __global__ void __launch_bounds__(kSegment)
    segments(const State* state, float* __restrict__ map, double* __restrict__ sums, long long pixels, float most) {
  const size_t p = blockIdx.x * size_t(kSegment) + threadIdx.x;
  const float scale = float(state->scale);
  float value = 0;
  if (p < pixels) map[p] = value = scale > 0 ? least(map[p] * scale, most) : 1.0f;
  const double sum = block_sum(double(value));
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Sums -> sums of all before, in place; the total -> state->sums[3]. One block.
extern "C" __global__ void __launch_bounds__(1024) scan_segments(State* state, double* sums, int count) {
  double carry = 0;
  for (int base = 0; base < count; base += blockDim.x) {
    const int i = base + threadIdx.x;
    const double v = i < count ? sums[i] : 0;
    double sum;
    const double before = block_scan(v, sum);
    if (i < count) sums[i] = carry + before;
    carry += sum;
  }
  if (threadIdx.x == 0) state->sums[3] = carry;
}

// One splat per stratum of equal mass: draws a pixel, and sets the splat there with a share of what is missing.
// indices: which splats, or null for those from `first_new` on.
extern "C" __global__ void place(const State* state, const float* __restrict__ map, const double* __restrict__ before,
                                 const float* __restrict__ residual, const int* indices, int first_new, int count,
                                 float* params, float* first, float* second, int width, int height, float sigma,
                                 float share, u64 seed) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= count) return;
  const long long pixels = (long long)(width)*height;
  const int segment_count = int((pixels + kSegment - 1) / kSegment);
  const double threshold = (double(j) + random_unit(seed, u64(j))) * (state->sums[3] / double(count));
  int low = 0, high = segment_count;  // the last segment that starts at or below the threshold
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (before[middle] <= threshold)
      low = middle;
    else
      high = middle;
  }
  // Rounding may carry the search past the last weight of a segment: then that weight is meant, or one before it.
  long long pixel = -1;
  for (int segment = low; segment >= 0 && pixel < 0; --segment) {
    double reached = before[segment];
    const long long start = (long long)(segment)*kSegment;
    for (int k = 0; k < kSegment && start + k < pixels; ++k) {
      const float weight = map[start + k];
      if (weight > 0) pixel = start + k;
      reached += weight;
      if (reached > threshold) break;
    }
  }
  pixel = greatest(pixel, 0ll);
  const int x = int(pixel % width), y = int(pixel / width), i = indices ? indices[j] : first_new + j;
  const size_t at = size_t(i) * kFields;
  for (int f = 0; f < kFields; ++f) first[at + f] = second[at + f] = 0;
  params[at] = float(x + random_unit(seed, u64(count) + 2 * u64(j)));
  params[at + 1] = float(y + random_unit(seed, u64(count) + 2 * u64(j) + 1));
  params[at + 2] = params[at + 4] = logf(sigma);
  params[at + 3] = 0;
  for (int c = 0; c < CHANNELS; ++c)
    params[at + kGeometry + c] = -share * residual[(size_t(c / 4) * pixels + pixel) * kLanes + c % 4];
}

// |colour|^2 e^(a + c) as bits, whose order is that of the values; infinite for splats that are frozen.
extern "C" __global__ void energies(const State* state, const float* __restrict__ params,
                                    const float* __restrict__ second, unsigned* __restrict__ energy) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= state->count) return;
  const float* p = params + size_t(i) * kFields;
  float color = 0;
  for (int c = 0; c < CHANNELS; ++c) color += p[kGeometry + c] * p[kGeometry + c];
  energy[i] = is_frozen(second, i) ? kInfinity : __float_as_uint(color * expf(p[2] + p[4]));
}

// Energies -> keys of a sort that brings those that stay to the front, in their order.
extern "C" __global__ void prune_keys(const State* state, unsigned* __restrict__ keys, int* __restrict__ order,
                                      float least_energy) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= state->count) return;
  keys[i] = __uint_as_float(keys[i]) < least_energy ? 1 : 0;
  order[i] = i;
}

// The `wanted` splats of least energy, the first of equals, in ascending order -> indices. One block of 1024: each warp
// has its stretch of the splats. Their colours become 0: what they drew counts as missing.
extern "C" __global__ void __launch_bounds__(1024)
    weakest(const State* state, const unsigned* __restrict__ energy, int* indices, float* params, int wanted) {
  __shared__ int bins[256];
  __shared__ unsigned prefix;
  __shared__ int missing;
  const int count = state->count, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (threadIdx.x == 0) prefix = 0, missing = wanted;
  for (int shift = 24; shift >= 0; shift -= 8) {  // the bits of the wanted-th energy, from the top
    if (threadIdx.x < 256) bins[threadIdx.x] = 0;
    __syncthreads();
    const unsigned known = shift == 24 ? 0 : kAll << (shift + 8), want = prefix;
    for (int base = warp * 32; base < count; base += blockDim.x) {  // equal digits of a warp are added at once
      const unsigned bits = base + lane < count ? energy[base + lane] : 0;
      const unsigned here = __ballot_sync(kAll, base + lane < count && (bits & known) == want);
      if (here >> lane & 1) {
        const int digit = (bits >> shift) & 255;
        const unsigned same = __match_any_sync(here, digit);
        if ((same & lanes_below()) == 0) atomicAdd(&bins[digit], __popc(same));
      }
      __syncwarp();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = 0, left = missing;
      while (bin < 255 && bins[bin] < left) left -= bins[bin++];
      missing = left;
      prefix |= unsigned(bin) << shift;
    }
    __syncthreads();
  }
  const unsigned limit = prefix;
  const int of_equals = missing;
  const int stretch = (count + 1023) / 1024 * 32, begin = warp * stretch, end = least(begin + stretch, count);
  int less = 0, equal = 0;
  for (int base = begin; base < end; base += 32) {
    const int i = base + lane;
    less += __popc(__ballot_sync(kAll, i < end && energy[i] < limit));
    equal += __popc(__ballot_sync(kAll, i < end && energy[i] == limit));
  }
  int all;
  int less_before = block_scan(lane == 0 ? less : 0, all), equal_before = block_scan(lane == 0 ? equal : 0, all);
  less_before = __shfl_sync(kAll, less_before, 0);
  equal_before = __shfl_sync(kAll, equal_before, 0);
  for (int base = begin; base < end; base += 32) {
    const int i = base + lane;
    const bool below = i < end && energy[i] < limit, tie = i < end && energy[i] == limit;
    const unsigned belows = __ballot_sync(kAll, below), ties = __ballot_sync(kAll, tie);
    const int rank = equal_before + __popc(ties & lanes_below());
    if (wanted > 0 && (below || (tie && rank < of_equals))) {
      indices[less_before + __popc(belows & lanes_below()) + least(rank, of_equals)] = i;
      for (int c = 0; c < CHANNELS; ++c) params[size_t(i) * kFields + kGeometry + c] = 0;
    }
    less_before += __popc(belows);
    equal_before += __popc(ties);
  }
}

extern "C" __global__ void order_keys(const State* state, const Box* __restrict__ boxes, unsigned* __restrict__ keys,
                                      int* __restrict__ order, float scale) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= state->count) return;
  const Box b = boxes[i];
  keys[i] = order_key((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2, (b.x1 - b.x0) / 2, (b.y1 - b.y0) / 2, scale);
  order[i] = i;
}

// A pass of a stable radix sort of (keys, order) by eight bits: count, scan, scatter. Each block has kSorted keys, and
// each of its warps a stretch of them. places: [digit][block], first how many, then where they go.
constexpr int kSorted = 2048, kSortWarps = 8, kStretch = kSorted / kSortWarps;

// Counts the digits of a warp's stretch into counts[256]; equal digits of a warp are added at once, for neighbours are
// alike.
__device__ __forceinline__ void count_digits(const unsigned* keys, int begin, int end, int shift, int* counts) {
  for (int base = begin; base < end; base += 32) {
    const int i = base + int(threadIdx.x & 31);
    const unsigned here = __ballot_sync(kAll, i < end);
    if (i < end) {
      const int digit = (keys[i] >> shift) & 255;
      const unsigned same = __match_any_sync(here, digit);
      if ((same & lanes_below()) == 0) atomicAdd(&counts[digit], __popc(same));
    }
    __syncwarp();
  }
}

extern "C" __global__ void __launch_bounds__(32 * kSortWarps)
    sort_count(const State* state, const unsigned* __restrict__ keys, int* __restrict__ places, int shift) {
  __shared__ int counts[256];
  counts[threadIdx.x] = 0;
  __syncthreads();
  const int begin = blockIdx.x * kSorted + int(threadIdx.x >> 5) * kStretch;
  count_digits(keys, begin, least(begin + kStretch, state->count), shift, counts);
  __syncthreads();
  places[threadIdx.x * gridDim.x + blockIdx.x] = counts[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(1024) sort_scan(int* places, int count) {  // one block
  int carry = 0;
  for (int base = 0; base < count; base += 4 * 1024) {
    const int first = base + 4 * int(threadIdx.x);
    int own[4], sum = 0, total;
    for (int k = 0; k < 4; ++k) sum += own[k] = first + k < count ? places[first + k] : 0;
    int before = carry + block_scan(sum, total);
    for (int k = 0; k < 4; ++k) {
      if (first + k < count) places[first + k] = before;
      before += own[k];
    }
    carry += total;
  }
}

extern "C" __global__ void __launch_bounds__(32 * kSortWarps)
    sort_scatter(const State* state, const unsigned* __restrict__ keys, const int* __restrict__ order,
                 const int* __restrict__ places, unsigned* __restrict__ to_keys, int* __restrict__ to_order,
                 int shift) {
  __shared__ int place_of[kSortWarps][256];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int w = 0; w < kSortWarps; ++w) place_of[w][threadIdx.x] = 0;
  __syncthreads();
  const int begin = blockIdx.x * kSorted + warp * kStretch, end = least(begin + kStretch, state->count);
  count_digits(keys, begin, end, shift, place_of[warp]);
  __syncthreads();
  int place = places[threadIdx.x * gridDim.x + blockIdx.x];
  for (int w = 0; w < kSortWarps; ++w) {
    const int n = place_of[w][threadIdx.x];
    place_of[w][threadIdx.x] = place;
    place += n;
  }
  __syncthreads();
  for (int base = begin; base < end; base += 32) {
    const int i = base + lane;
    const unsigned here = __ballot_sync(kAll, i < end);
    if (i < end) {
      const unsigned key = keys[i];
      const int digit = (key >> shift) & 255;
      const unsigned same = __match_any_sync(here, digit);
      const int rank = __popc(same & lanes_below());
      const int start = place_of[warp][digit];
      __syncwarp(here);
      if (rank == 0) place_of[warp][digit] = start + __popc(same);
      to_keys[start + rank] = key;
      to_order[start + rank] = order[i];
    }
    __syncwarp();
  }
}

// to[i] = from[order[i]], rows of kFields.
extern "C" __global__ void permute(const State* state, const int* __restrict__ order, const float* __restrict__ from,
                                   float* __restrict__ to) {
  const size_t n = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
  if (n >= size_t(state->count) * kFields) return;
  to[n] = from[size_t(order[n / kFields]) * kFields + n % kFields];
}

}  // namespace splat2d
