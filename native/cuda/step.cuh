// One step of a fit: render() draws the residual tile by tile, update() owns a splat, sums its gradient and moves it.
// No lists of splats per tile are kept. Splats lie in Z-order; boxes around 32 and around 1024 neighbours form a tree
// with a fan-out of 32, a warp tests 32 boxes at once, and every tile finds its splats anew in each step. So nothing
// can overflow or go stale, and the order of every sum is fixed.
#pragma once

#include "../residual.h"
#include "tile.cuh"
#include "update.cuh"

namespace splat2d {

constexpr int kNarrowRows = 32;    // rows of eight pixels for one group of lanes; larger splats are shared
constexpr int kWideRows = 96;      // rows per group of lanes for those
constexpr int kBuckets = 4;        // of narrow splats by work, so that the groups of a warp are done together
constexpr int kLogMostParts = 10;  // a wide splat has 2^n parts, each a warp of four groups
constexpr int kNobody = -1000;     // in place of the parts of a splat that is none

// Parameters -> derived values, for all splats.
extern "C" __global__ void prepare(const State* state, const float* params, float4* splats, float4* more, Box* boxes,
                                   float* colors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= state->count) return;
  float p[kFields < 8 ? 8 : kFields];
  for (int f = 0; f < kFields; ++f) p[f] = params[size_t(i) * kFields + f];
  prepare_splat(p, splats, more, boxes, i);
  store_colors(p + kGeometry, colors, i);
}

// Boxes of the tree, and how the update of each splat is shared: parts > 0 warps, or one group of lanes and minus its
// bucket. A block of 1024 threads per kSuper splats. totals: narrow splats and parts of each block.
extern "C" __global__ void __launch_bounds__(kSuper)
    survey(const State* state, const float4* splats, const float4* more, const Box* boxes, Box* chunks, Box* supers,
           int* parts, int2* totals, int width, int height) {
  __shared__ Box inner[32];
  const int i = blockIdx.x * kSuper + threadIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const float far = 3e38f;
  Box box = {far, far, -far, -far};
  int narrow = 0, wide = 0;
  if (i < state->count) {
    box = boxes[i];
    const float4 d = more[i];
    const int left = int(within(up(box.x0 - 0.5f), 0.0f, float(width)));
    const int right = int(within(down(box.x1 - 0.5f), -1.0f, float(width - 1)));
    const int top = int(within(up(box.y0 - 0.5f), 0.0f, float(height)));
    const int bottom = int(within(down(box.y1 - 0.5f), -1.0f, float(height - 1)));
    const float tall = least(2 * d.x * d.y * d.z + 1, float(bottom - top + 1));  // hx / e^a is the radius
    const float work = left <= right && top <= bottom ? float((right - left + 8) / 8) * tall : 0.0f;
    if (work <= float(kNarrowRows)) {
      narrow = 1;
      parts[i] = -int(least(work * (kBuckets / float(kNarrowRows)), kBuckets - 1.0f));
    } else {
      int log_parts = 0;
      while (log_parts < kLogMostParts && float(4 * kWideRows << log_parts) < work) ++log_parts;
      wide = 1 << log_parts;
      parts[i] = wide | best_columns(log_parts + 2, (right - left + 8) / 8, int(tall)) << kColumnsShift;
    }
  }
  const auto join = [&] {
    for (int o = 16; o; o >>= 1) {
      box.x0 = least(box.x0, __shfl_xor_sync(kAll, box.x0, o));
      box.y0 = least(box.y0, __shfl_xor_sync(kAll, box.y0, o));
      box.x1 = greatest(box.x1, __shfl_xor_sync(kAll, box.x1, o));
      box.y1 = greatest(box.y1, __shfl_xor_sync(kAll, box.y1, o));
    }
  };
  join();
  if (lane == 0) chunks[blockIdx.x * 32 + warp] = inner[warp] = box;
  __syncthreads();
  if (warp == 0) {
    box = inner[lane];
    join();
    if (lane == 0) supers[blockIdx.x] = box;
  }
  narrow = block_sum(narrow);
  wide = block_sum(wide);
  if (threadIdx.x == 0) totals[blockIdx.x] = make_int2(narrow, wide);
}

// The work items of update(): narrow splats, and parts of the wide ones as (splat, part and columns, parts, item of
// part 0). Should the parts outnumber `most`, all splats get fewer. As many blocks as survey().
extern "C" __global__ void __launch_bounds__(kSuper)
    plan(State* state, const int* parts, const int2* totals, int* narrow_items, int4* wide_items, int most) {
  int narrow_before = 0;
  long long wide_all = 0;
  for (int b = threadIdx.x; b < int(gridDim.x); b += blockDim.x) {
    const int2 t = totals[b];
    if (b < int(blockIdx.x)) narrow_before += t.x;
    wide_all += t.y;
  }
  narrow_before = block_sum(narrow_before);
  wide_all = block_sum(wide_all);
  const int divisor = 1 + int((wide_all - 1) / most);
  const auto reduced = [&](int i) {
    const int p = i < state->count ? parts[i] : kNobody;
    return p > 0 ? 1 << (31 - __clz(greatest((p & ((1 << kColumnsShift) - 1)) / divisor, 1))) : p;
  };
  int wide_before = 0;
  if (divisor == 1) {
    for (int b = threadIdx.x; b < int(blockIdx.x); b += blockDim.x) wide_before += totals[b].y;
  } else {
    for (int i = threadIdx.x; i < int(blockIdx.x) * kSuper; i += blockDim.x) wide_before += greatest(reduced(i), 0);
  }
  wide_before = block_sum(wide_before);
  const int i = blockIdx.x * kSuper + threadIdx.x;
  const int p = reduced(i);
  int narrow_total = 0, wide_total, in_bucket;
  for (int bucket = kBuckets - 1; bucket >= 0; --bucket) {
    const int n = narrow_before + narrow_total + block_scan(p == -bucket ? 1 : 0, in_bucket);
    if (p == -bucket) narrow_items[n] = i;
    narrow_total += in_bucket;
  }
  const int w = wide_before + block_scan(greatest(p, 0), wide_total);
  if (p > 0) {
    const int log_columns = least(parts[i] >> kColumnsShift, 31 - __clz(p) + 2);
    for (int part = 0; part < p; ++part) wide_items[w + part] = make_int4(i, part | log_columns << kColumnsShift, p, w);
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
    state->narrow = narrow_before + narrow_total;
    state->wide = wide_before + wide_total;
  }
}

// Draws a tile per block: r = background + splats - target, and out = weight (l2 r + half_l1 sign(r)), see weight_of();
// without a target, out = the picture. squares: sum of weight r^2 per tile.
extern "C" __global__ void __launch_bounds__(32 * kWarps, kRenderBlocks)
    render(const State* state, const float4* __restrict__ splats, const Box* __restrict__ boxes,
           const float* __restrict__ colors, const Box* __restrict__ chunks, const Box* __restrict__ supers,
           const float* __restrict__ target, const float* __restrict__ background, float* __restrict__ out,
           float* __restrict__ squares, int width, int height, float l2, float half_l1, float outside) {
  __shared__ float square_parts[kWarps];
  const int group = blockIdx.y, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const size_t pixels = size_t(width) * height;
  overlap_launches();
  float square = 0;
  draw_tile(0, state->count, splats, boxes, colors, chunks, supers, blockIdx.x, group, width, height,
            [&](size_t p, const float (&sum)[kActive]) {
              Pixel value;
              for (int c = 0; c < kActive; ++c) value.v[c] = sum[c] + background[4 * group + c];
              if (target) {
                const Pixel t = load_pixel(target + group * pixels * kLanes, p);
                for (int c = 0; c < kActive; ++c) {
                  const float r = value.v[c] - t.v[c], weight = weight_of(r, t.v[c], outside);
                  square += weight * r * r;
                  value.v[c] = weight * (l2 * r + (r > 0 ? half_l1 : r < 0 ? -half_l1 : 0.0f));
                }
              }
              store_pixel(out + group * pixels * kLanes, p, value);
            });
  square = warp_sum(square);
  if (lane == 0) square_parts[warp] = square;
  __syncthreads();
  if (threadIdx.x == 0 && squares) {
    for (int k = 1; k < kWarps; ++k) square += square_parts[k];
    squares[size_t(group) * gridDim.x + blockIdx.x] = square;
  }
}

extern "C" __global__ void __launch_bounds__(kUpdateThreads, 1024 / kUpdateThreads)
    update(const State* state, const float4* schedule, int node, float4* splats, float4* more, Box* boxes,
           float* colors, float* params, float* first, float* second, Box* chunks, Box* supers,
           const int* __restrict__ narrow_items, const int4* __restrict__ wide_items, float* records, int* arrived,
           const float* __restrict__ d_image, int width, int height, const Rates* rates_at) {
  update_splats<false>(state, schedule, node, splats, more, boxes, colors, params, first, second, chunks, supers,
                       narrow_items, wide_items, records, arrived, d_image, width, height, rates_at, nullptr);
}

extern "C" __global__ void advance(State* state, int steps) { state->cursor += steps; }

extern "C" __global__ void set_state(State* state, int count, int cursor) {
  state->count = count;
  state->cursor = cursor;
}

}  // namespace splat2d
