// One step of a fit: render() draws the residual tile by tile, update() owns a splat, sums its gradient and moves it.
// No lists of splats per tile are kept. Splats lie in Z-order; boxes around 32 and around 1024 neighbours form a tree
// with a fan-out of 32, a warp tests 32 boxes at once, and every tile finds its splats anew in each step. So nothing
// can overflow or go stale, and the order of every sum is fixed.
#pragma once

#include "common.cuh"

namespace splat2d {

constexpr int kSub = 8;                // pixels: a warp draws 8 x 8, two pixels per lane
constexpr int kSubsX = 2, kSubsY = 2;  // that make a tile, which a block draws
constexpr int kWarps = kSubsX * kSubsY;
constexpr int kTileX = kSub * kSubsX, kTileY = kSub * kSubsY;
constexpr int kTurn = 32 / kWarps;  // of the 32 chunks of a super, a warp tests so many
constexpr int kFound = 256;         // splats that a warp collects before the tile is drawn
constexpr int kRenderBlocks = 8;    // per multiprocessor: leaves 64 registers
constexpr int kUpdateThreads = 64;  // small blocks: their place is free again soon
constexpr int kNarrowRows = 32;     // rows of eight pixels for one group of lanes; larger splats are shared
constexpr int kWideRows = 96;       // rows per group of lanes for those
constexpr int kBuckets = 4;         // of narrow splats by work, so that the groups of a warp are done together
constexpr int kLogMostParts = 10;   // a wide splat has 2^n parts, each a warp of four groups
constexpr int kColumnsShift = 16;   // beside the parts stands log_columns of share_of()
constexpr int kNobody = -1000;      // in place of the parts of a splat that is none

// Derived values of a splat: two float4 for render(), a third for update().
//   (mx, my, k, n1) (n3, colours...) (hx, 1 / e^a, e^c, b)
__device__ __forceinline__ Box prepare_splat(const float* p, float4* splats, float4* more, Box* boxes, int i) {
  const float l1 = __expf(clamp(p[2], float(-kLogLimit), float(kLogLimit)));
  const float l3 = __expf(clamp(p[4], float(-kLogLimit), float(kLogLimit)));
  const float b = clamp(p[3], float(-kShearLimit), float(kShearLimit));
  const Splat<float> s = make_splat(p[0], p[1], l1, b, l3, 0.0f, cutoff_of(float(kCutoff), 0.0f));
  splats[2 * size_t(i)] = make_float4(s.mx, s.my, s.k, s.n1);
  float4 paint = make_float4(s.n3, 0, 0, 0);
  if constexpr (kColorsInside) {
    paint.y = p[kGeometry];
    if constexpr (CHANNELS > 1) paint.z = p[kGeometry + 1];
    if constexpr (CHANNELS > 2) paint.w = p[kGeometry + 2];
  }
  splats[2 * size_t(i) + 1] = paint;
  more[i] = make_float4(s.hx, s.i1, s.l3, b);
  const float slack = float(kSlack);
  const Box box = {s.mx - s.hx - slack, s.my - s.hy - slack, s.mx + s.hx + slack, s.my + s.hy + slack};
  boxes[i] = box;
  return box;
}

// Parameters -> derived values, for all splats.
extern "C" __global__ void prepare(const State* state, const float* params, float4* splats, float4* more, Box* boxes,
                                   float* colors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= state->count) return;
  float p[kFields < 8 ? 8 : kFields];
  for (int f = 0; f < kFields; ++f) p[f] = params[size_t(i) * kFields + f];
  prepare_splat(p, splats, more, boxes, i);
  if constexpr (!kColorsInside)
    for (int c = 0; c < 4 * kGroups; ++c) colors[size_t(i) * 4 * kGroups + c] = c < CHANNELS ? p[kGeometry + c] : 0.0f;
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

// Draws a tile per block: residual = background + splats - target, and out = l2 residual + half_l1 sign(residual);
// without a target, out = the picture. squares: sum of residual^2 per tile.
extern "C" __global__ void __launch_bounds__(32 * kWarps, kRenderBlocks)
    render(const State* state, const float4* __restrict__ splats, const Box* __restrict__ boxes,
           const float* __restrict__ colors, const Box* __restrict__ chunks, const Box* __restrict__ supers,
           const float* __restrict__ target, const float* __restrict__ background, float* __restrict__ out,
           float* __restrict__ squares, int width, int height, float l2, float half_l1) {
  __shared__ int found[kWarps][kFound], together[kWarps * kFound], mine[kWarps][kFound];
  __shared__ int found_count[kWarps];
  __shared__ unsigned near_words[kWarps];
  __shared__ int near_supers[32 * kWarps];
  __shared__ float square_parts[kWarps];
  const int tiles_x = (width + kTileX - 1) / kTileX;
  const int tile_x = blockIdx.x % tiles_x, tile_y = blockIdx.x / tiles_x, group = blockIdx.y;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int x = tile_x * kTileX + warp % kSubsX * kSub + (lane & 7);
  const int y = tile_y * kTileY + warp / kSubsX * kSub + (lane >> 3);
  const float px = x + 0.5f, py = y + 0.5f;
  const Box tile = {tile_x * kTileX + 0.5f, tile_y * kTileY + 0.5f, tile_x * kTileX + kTileX - 0.5f,
                    tile_y * kTileY + kTileY - 0.5f};
  const Box sub = {tile.x0 + warp % kSubsX * kSub, tile.y0 + warp / kSubsX * kSub,
                   tile.x0 + warp % kSubsX * kSub + kSub - 1, tile.y0 + warp / kSubsX * kSub + kSub - 1};
  const bool visible = sub.x0 < width && sub.y0 < height;
  const size_t pixels = size_t(width) * height;
  overlap_launches();
  const int count = state->count;

  float sum[2][kActive];
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < kActive; ++c) sum[r][c] = 0;

  const auto draw = [&](int n) {
    __syncwarp();
#pragma unroll 4
    for (int j = 0; j < n; ++j) {
      const int i = mine[warp][j];
      const float4 a = splats[2 * size_t(i)], b = splats[2 * size_t(i) + 1];
      float color[4] = {b.y, b.z, b.w, 0};
      if constexpr (!kColorsInside) {
        const float4 q = reinterpret_cast<const float4*>(colors)[size_t(i) * kGroups + group];
        color[0] = q.x, color[1] = q.y, color[2] = q.z, color[3] = q.w;
      }
      const float dx = px - a.x, e = (py - a.y) - a.z * dx, along = a.w * dx * dx;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float er = e + 4.0f * r;
        const float exponent = along + b.x * er * er;
        const float w = exponent >= kLog2Limit ? exp2_fast(exponent) : 0.0f;
#pragma unroll
        for (int c = 0; c < kActive; ++c) sum[r][c] += w * color[c];
      }
    }
    __syncwarp();
  };
  // Draws what the warps have found.
  const auto draw_found = [&](int collected) {
    if (lane == 0) found_count[warp] = collected;
    __syncthreads();
    int before = 0, total = 0;
    for (int k = 0; k < kWarps; ++k) {
      if (k == warp) before = total;
      total += found_count[k];
    }
    for (int j = lane; j < collected; j += 32) together[before + j] = found[warp][j];
    __syncthreads();
    if (!visible) return;
    int n = 0;
    for (int base = 0; base < total; base += 32) {
      const int j = base + lane;
      bool hit = false;
      int i = 0;
      if (j < total) {
        i = together[j];
        const float4 a = splats[2 * size_t(i)];
        hit = touches(a.x, a.y, a.z, a.w, splats[2 * size_t(i) + 1].x, sub, kLog2Limit);
      }
      const unsigned hits = __ballot_sync(kAll, hit);
      if (hit) mine[warp][n + __popc(hits & lanes_below())] = i;
      n += __popc(hits);
      if (n > kFound - 32) draw(n), n = 0;
    }
    draw(n);
  };

  int collected = 0;
  const int chunk_count = (count + kSplatChunk - 1) / kSplatChunk, super_count = (count + kSuper - 1) / kSuper;
  for (int first = 0; first < super_count; first += 32 * kWarps) {
    const int super = first + int(threadIdx.x);
    const bool near = super < super_count && overlap(supers[super], tile);
    const unsigned word = __ballot_sync(kAll, near);
    if (lane == 0) near_words[warp] = word;
    __syncthreads();
    int before = 0, total = 0;
    for (int k = 0; k < kWarps; ++k) {
      if (k == warp) before = total;
      total += __popc(near_words[k]);
    }
    if (near) near_supers[before + __popc(word & lanes_below())] = super;
    __syncthreads();
    // Each warp looks through its share of the chunks of every super: what it finds does not depend on the others.
    int next = 0, chunk = 0;
    unsigned nearer = 0;
    for (;;) {
      while (collected <= kFound - 32 && (nearer || next < total)) {
        if (!nearer) {
          const int slot = next + lane / kTurn;
          chunk = slot < total ? near_supers[slot] * 32 + lane % kTurn * kWarps + warp : chunk_count;
          nearer = __ballot_sync(kAll, chunk < chunk_count && overlap(chunks[chunk], tile));
          next += kWarps;
        } else {
          const int i = __shfl_sync(kAll, chunk, __ffs(nearer) - 1) * kSplatChunk + lane;
          nearer &= nearer - 1;
          const bool hit = i < count && overlap(boxes[i], tile);
          const unsigned hits = __ballot_sync(kAll, hit);
          if (hit) found[warp][collected + __popc(hits & lanes_below())] = i;
          collected += __popc(hits);
        }
      }
      if (!__syncthreads_or(nearer || next < total)) break;
      draw_found(collected);  // some warp is full
      collected = 0;
      __syncthreads();
    }
  }
  draw_found(collected);

  float square = 0;
  for (int r = 0; r < 2; ++r) {
    if (x >= width || y + 4 * r >= height) continue;
    const size_t p = size_t(y + 4 * r) * width + x;
    Pixel value;
    for (int c = 0; c < kActive; ++c) value.v[c] = sum[r][c] + background[4 * group + c];
    if (target) {
      const Pixel t = load_pixel(target + group * pixels * kLanes, p);
      for (int c = 0; c < kActive; ++c) {
        const float d = value.v[c] - t.v[c];
        square += d * d;
        value.v[c] = l2 * d + (d > 0 ? half_l1 : d < 0 ? -half_l1 : 0.0f);
      }
    }
    store_pixel(out + group * pixels * kLanes, p, value);
  }
  square = warp_sum(square);
  if (lane == 0) square_parts[warp] = square;
  __syncthreads();
  if (threadIdx.x == 0 && squares) {
    for (int k = 1; k < kWarps; ++k) square += square_parts[k];
    squares[size_t(group) * gridDim.x + blockIdx.x] = square;
  }
}

struct Rates {
  float rate[4];  // mean, a and c, b, colour
  float beta1, beta2, log_min, log_max;
};

// Adds one group's share of the rows of a splat to its sums: for dL/dcolour and for the moments. a, n3 and d are
// derived values of the splat, see prepare_splat(). The whole warp must call, with as many turns as its busiest lane
// needs.
__device__ __forceinline__ void gather(const float4& a, float n3, const float4& d, const float (&color)[4],
                                       int first_column, int last_column, const Share& share, int turns,
                                       const float* plane, int width, int height, Moments<float>& m,
                                       float (&v_color)[4]) {
  const float mx = a.x, my = a.y, k = a.z, n1 = a.w, i1 = d.y, l3 = d.z;
  const float radius = d.x * i1, step = float(1 << share.log_step);
  const unsigned row_step = unsigned(width) << share.log_step;
  const int column = threadIdx.x & 7;
  // Four rows are loaded before the first is used.
  for (int turn = 0; turn < turns; ++turn) {
    const int x = first_column + 8 * (share.first + turn * share.stride) + column;
    const float dx = x + 0.5f - mx;
    const Range rows = rows_at(my, k, i1, l3, dx, radius, height);
    const int start = rows.first + share.row;
    const int n = x <= last_column ? ceil_shift(rows.last - start + 1, share.log_step) : 0;
    const int most = warp_most(n);
    const float along = n1 * dx * dx;
    float e = (start + 0.5f - my) - k * dx;
    float s0 = 0, s1 = 0, s2 = 0;
    unsigned at = unsigned(start) * width + x;  // a picture has fewer than 2^31 pixels
    for (int row = 0; row < most; row += 4) {
      Pixel g[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        g[q] = {};
        if (row + q < n) g[q] = load_pixel(plane, at);
        at += row_step;
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        if (q == 2 && row + 2 >= most) break;
        const float exponent = along + n3 * e * e;
        const float w = exponent >= kLog2Limit ? exp2_fast(exponent) : 0.0f;
        float slope = 0;
#pragma unroll
        for (int c = 0; c < kActive; ++c) {
          v_color[c] += w * g[q].v[c];
          slope += color[c] * g[q].v[c];
        }
        const float v = w * slope, t = v * e;
        s0 += v;
        s1 += t;
        s2 += t * e;
        e += step;
      }
    }
    m.x += s0 * dx;
    m.xx += s0 * dx * dx;
    m.e += s1;
    m.xe += s1 * dx;
    m.ee += s2;
  }
}

// Chain rule, Adam and derived values of splat i, by each group of eight lanes; those with `write` keep the result.
// kTree: boxes of the tree grow with the splat.
// m and color: sums over the footprint; the colours of more than four channels are read from record.
template <bool kTree>
__device__ __forceinline__ void finish(int i, bool write, const float4& d, const Moments<float>& m,
                                       const float (&color)[4], const float* record, float4* splats, float4* more,
                                       Box* boxes, float* colors, float* params, float* first, float* second,
                                       Box* chunks, Box* supers, const Rates& rates, const float4& schedule) {
  const int lane = threadIdx.x & 7;
  const Gradient<float> by = chain_rule(m, 1.0f / d.y, d.w, d.z);
  float p[8];
  float mine = 0;
#pragma unroll
  for (int base = 0; base < kFields; base += 8) {
    const int f = base + lane;
    if (f < kFields) {
      const size_t at = size_t(i) * kFields + f;
      float value = params[at], gradient;
      if (base == 0) {
        gradient = f == 0   ? by.mx
                   : f == 1 ? by.my
                   : f == 2 ? by.a
                   : f == 3 ? by.b
                   : f == 4 ? by.c
                   : f == 5 ? color[0]
                   : f == 6 ? color[1]
                            : color[2];
        if (kGroups > 1 && f >= kGeometry) gradient = record[f];
        const float limit = f == 3 ? float(kShearLimit) : float(kLogLimit);
        if (f >= 2 && f < kGeometry && clamp(value, -limit, limit) != value) gradient = 0;
      } else {
        gradient = kGroups > 1 ? record[f] : color[3];
      }
      const float rate = f < 2 ? rates.rate[0] : f == 3 ? rates.rate[2] : f < kGeometry ? rates.rate[1] : rates.rate[3];
      float v1 = first[at], v2 = second[at];
      value = adam(value, gradient, v1, v2, rate * schedule.x, rates.beta1, rates.beta2, schedule.y, schedule.z);
      if (f == 2 || f == 4) value = clamp(value, rates.log_min, rates.log_max);
      if (write) {
        first[at] = v1, second[at] = v2;
        if (base > 0 || f != 4) params[at] = value;
        if constexpr (!kColorsInside)
          if (f >= kGeometry) colors[size_t(i) * 4 * kGroups + f - kGeometry] = value;
      }
      if (base == 0) mine = value;
    }
  }
#pragma unroll
  for (int f = 0; f < 8; ++f) p[f] = __shfl_sync(kAll, mine, f, 8);
  // Limits on a and c alone leave a sheared splat as thin as it likes: across its ridge it measures e^c / sqrt(1 +
  // k^2).
  const float k = p[3] * __expf(-p[2]);
  const float least_variance = __expf(2 * rates.log_min) * (1.0f + k * k);
  if (__expf(2 * p[4]) < least_variance) p[4] = 0.5f * __logf(least_variance);
  __syncwarp();  // all have read what lane 0 writes
  if (write && lane == 0) {
    params[size_t(i) * kFields + 4] = p[4];
    const Box box = prepare_splat(p, splats, more, boxes, i);
    if constexpr (kTree) {
      widen(chunks + i / kSplatChunk, box);
      widen(supers + i / kSuper, box);
    }
  }
}

// Moves every splat by its gradient. Each splat is summed by eight lanes, or in parts by several warps: then the warp
// that finishes last adds up the parts in their order.
extern "C" __global__ void __launch_bounds__(kUpdateThreads, 1024 / kUpdateThreads)
    update(const State* state, const float4* schedule, int node, float4* splats, float4* more, Box* boxes,
           float* colors, float* params, float* first, float* second, Box* chunks, Box* supers,
           const int* __restrict__ narrow_items, const int4* __restrict__ wide_items, float* records, int* arrived,
           const float* __restrict__ d_image, int width, int height, const Rates* rates_at) {
  overlap_launches();
  const Rates rates = *rates_at;
  const float4 now = schedule[state->cursor + node];
  const int narrow = state->narrow, wide = state->wide;
  const int lane = threadIdx.x & 31, octet = lane >> 3, column = lane & 7;
  const int jobs = wide + (narrow + 3) / 4;
  const size_t pixels = size_t(width) * height;
  const int warps = gridDim.x * (blockDim.x >> 5);
  for (int job = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); job < jobs; job += warps) {
    const bool is_wide = job < wide;
    int4 item = make_int4(-1, 0, 1, 0);
    if (is_wide) {
      item = wide_items[job];
    } else {
      const int n = (job - wide) * 4 + octet;
      if (n < narrow) item.x = narrow_items[n];
    }
    const int i = greatest(item.x, 0);
    const float4 a = splats[2 * size_t(i)], b = splats[2 * size_t(i) + 1], d = more[i];
    const float n3 = b.x;
    Splat<float> s;
    s.mx = a.x, s.hx = d.x;
    const Range columns = columns_of(s, 0, width - 1);
    const int strips = item.x >= 0 && columns.last >= columns.first ? (columns.last - columns.first + 8) / 8 : 0;
    const int log_columns = item.y >> kColumnsShift, part = item.y & ((1 << kColumnsShift) - 1);
    const Share share = share_of(is_wide ? 4 * part + octet : 0, is_wide ? 33 - __clz(item.z) : 0, log_columns);
    const int last_column = strips > 0 ? columns.last : -1;
    const int turns = warp_most(ceil_shift(strips - share.first, log_columns));

    Moments<float> m = {0, 0, 0, 0, 0};
    float v_color[4];
    float* const record = records + size_t(is_wide ? job : kGroups > 1 ? wide + i : 0) * kRecord;
    for (int group = 0; group < kGroups; ++group) {
      const float* plane = d_image + group * pixels * kLanes;
      float color[4] = {b.y, b.z, b.w, 0};
      if constexpr (!kColorsInside) {
        const float4 q = reinterpret_cast<const float4*>(colors)[size_t(i) * kGroups + group];
        color[0] = q.x, color[1] = q.y, color[2] = q.z, color[3] = q.w;
      }
      for (int c = 0; c < 4; ++c) v_color[c] = 0;
      gather(a, n3, d, color, columns.first, last_column, share, turns, plane, width, height, m, v_color);
      __syncwarp();
      const int reach = is_wide ? 32 : 8;
      for (int o = 1; o < reach; o <<= 1)
        for (int c = 0; c < kActive; ++c) v_color[c] += __shfl_xor_sync(kAll, v_color[c], o);
      if (kGroups > 1 || item.z > 1) {
        const float mine = column == 0 ? v_color[0] : column == 1 ? v_color[1] : column == 2 ? v_color[2] : v_color[3];
        if (column < 4 && item.x >= 0 && (octet == 0 || !is_wide)) record[kGeometry + 4 * group + column] = mine;
      }
    }
    const int reach = is_wide ? 32 : 8;
    for (int o = 1; o < reach; o <<= 1) {
      m.x += __shfl_xor_sync(kAll, m.x, o);
      m.e += __shfl_xor_sync(kAll, m.e, o);
      m.xx += __shfl_xor_sync(kAll, m.xx, o);
      m.xe += __shfl_xor_sync(kAll, m.xe, o);
      m.ee += __shfl_xor_sync(kAll, m.ee, o);
    }
    if (item.z > 1) {
      if (lane == 0) record[0] = m.x, record[1] = m.e, record[2] = m.xx, record[3] = m.xe, record[4] = m.ee;
      __threadfence();
      __syncwarp();
      int before = 0;
      if (lane == 0) before = atomicAdd(arrived + i, 1);
      if (__shfl_sync(kAll, before, 0) < item.z - 1) continue;
      if (lane == 0) arrived[i] = 0;
      __threadfence();
      float* const all = records + size_t(item.w) * kRecord;
      float total = 0;
      for (int f = lane; f < kRecord; f += 32) {
        total = 0;
        for (int part = 0; part < item.z; ++part) total += __ldcg(all + size_t(part) * kRecord + f);
        if (kGroups > 1) all[f] = total;
      }
      __syncwarp();
      if constexpr (kGroups > 1) {
        m = {all[0], all[1], all[2], all[3], all[4]};
      } else {
        m.x = __shfl_sync(kAll, total, 0), m.e = __shfl_sync(kAll, total, 1), m.xx = __shfl_sync(kAll, total, 2);
        m.xe = __shfl_sync(kAll, total, 3), m.ee = __shfl_sync(kAll, total, 4);
        for (int c = 0; c < 4; ++c) v_color[c] = __shfl_sync(kAll, total, kGeometry + c);
      }
    }
    __syncwarp();
    finish<true>(i, item.x >= 0 && (octet == 0 || !is_wide), d, m, v_color,
                 item.z > 1 ? records + size_t(item.w) * kRecord : record, splats, more, boxes, colors, params, first,
                 second, chunks, supers, rates, now);
  }
}

extern "C" __global__ void advance(State* state, int steps) { state->cursor += steps; }

extern "C" __global__ void set_state(State* state, int count, int cursor) {
  state->count = count;
  state->cursor = cursor;
}

}  // namespace splat2d
