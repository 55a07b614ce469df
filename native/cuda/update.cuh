// From the picture's gradient to the next splats: each splat is owned by a few lanes, which sum its gradient, apply the
// chain rule and Adam, and derive what render() draws. No kernels here: step.cuh, coded.cuh and batch.cuh have them.
#pragma once

#include "common.cuh"

namespace splat2d {

constexpr int kUpdateThreads = 64;  // small blocks: their place is free again soon
constexpr int kColumnsShift = 16;   // beside the parts stands log_columns of share_of()

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

// Colours that do not fit into the second float4.
__device__ __forceinline__ void store_colors(const float* own, float* colors, int i) {
  if constexpr (!kColorsInside)
    for (int c = 0; c < 4 * kGroups; ++c) colors[size_t(i) * 4 * kGroups + c] = c < CHANNELS ? own[c] : 0.0f;
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

// ---- splats drawn as a decoder may see them, see coding.h ----

// Noise of field f of splat i in this step of the session.
__device__ __forceinline__ float noise_of(const Coding& coding, int step, int i, int f) {
  return coding_noise(coding_bits(coding.seed, step, i, f), f);
}

// p and noise: a group of eight lanes has the fields of a splat, one each.
__device__ __forceinline__ Decoded decode(float p, float noise, float color2, const Coding& coding) {
  float geometry[kGeometry], noises[kGeometry];
  for (int f = 0; f < kGeometry; ++f) {
    geometry[f] = __shfl_sync(kAll, p, f, 8);
    noises[f] = __shfl_sync(kAll, noise, f, 8);
  }
  return perturb(geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], color2, coding.step, noises);
}

__device__ __forceinline__ float sum_of_eight(float v) {
  for (int o = 1; o < 8; o <<= 1) v += __shfl_xor_sync(kAll, v, o);
  return v;
}

// How the gradient of the splat as drawn becomes that of the stored one, and of the rate.
struct Pullback {
  float scale, by_color, by_log;  // of gradients of colours; times the colour to them; to those of a and c
};

// gradient(base, f): of field f of the splat as drawn, f = base + lane. The whole warp must call.
template <class F> __device__ __forceinline__ Pullback pull_back(int i, const float* params, const F& gradient,
                                                                 const Coding& coding, int step) {
  const int lane = threadIdx.x & 7;
  float color2 = 0, by_noise = 0, p = 0, noise = 0;
#pragma unroll
  for (int base = 0; base < kFields; base += 8) {
    const int f = base + lane;
    if (f >= kFields) continue;
    const float value = params[size_t(i) * kFields + f], of_field = noise_of(coding, step, i, f);
    if (base == 0) p = value, noise = of_field;
    if (f >= kGeometry) color2 += value * value, by_noise += of_field * gradient(base, f);
  }
  __syncwarp();
  color2 = sum_of_eight(color2);
  by_noise = sum_of_eight(by_noise);
  const Decoded drawn = decode(p, noise, color2, coding);
  const float a = __shfl_sync(kAll, p, 2, 8), c = __shfl_sync(kAll, p, 4, 8);
  const RateGradient rate = rate_gradient(a, c, color2, coding);
  return {drawn.scale, rate.by_color, rate.by_log - 0.5f * drawn.noise * by_noise};
}

// The stored splat p (its colours past the eighth field are read from params) -> as drawn in this step, in p and, of
// more than three channels, in colors, by the lanes with `write`. The whole warp must call.
__device__ __forceinline__ void draw_noise(int i, bool write, float (&p)[8], float color2, const float* params,
                                           float* colors, const Coding& coding, int step) {
  const int lane = threadIdx.x & 7;
  float own = p[0];  // of this lane's field
#pragma unroll
  for (int f = 1; f < 8; ++f) own = lane == f ? p[f] : own;
  const float noise = noise_of(coding, step, i, lane);
  const Decoded drawn = decode(own, noise, color2, coding);
  p[0] = drawn.mx, p[1] = drawn.my, p[2] = drawn.a, p[3] = drawn.b, p[4] = drawn.c;
#pragma unroll
  for (int f = kGeometry; f < 8; ++f) p[f] = p[f] * drawn.scale + drawn.noise * __shfl_sync(kAll, noise, f, 8);
  if constexpr (!kColorsInside) {
    for (int f = lane; f < kFields; f += 8)
      if (f >= kGeometry && write)
        colors[size_t(i) * 4 * kGroups + f - kGeometry] =
            params[size_t(i) * kFields + f] * drawn.scale + drawn.noise * noise_of(coding, step, i, f);
  }
}

// Of field f = base + lane, from the sums over the footprint; the colours of more than four channels stand in record.
__device__ __forceinline__ float gradient_of(const Gradient<float>& by, const float (&color)[4], const float* record,
                                             int base, int f) {
  if (kGroups > 1 && f >= kGeometry) return record[f];
  if (base > 0) return color[3];
  return f == 0   ? by.mx
         : f == 1 ? by.my
         : f == 2 ? by.a
         : f == 3 ? by.b
         : f == 4 ? by.c
         : f == 5 ? color[0]
         : f == 6 ? color[1]
                  : color[2];
}

// Of field f, one of a, b and c: the picture does not change with values beyond.
__device__ __forceinline__ float limit_of(int f) { return f == 3 ? float(kShearLimit) : float(kLogLimit); }

// Chain rule, Adam and derived values of splat i, by each group of eight lanes; those with `write` keep the result.
// kTree: boxes of the tree grow with the splat. kCoded: what was drawn, and will be in the next step, has noise.
// m and color: sums over the footprint; the colours of more than four channels are read from record.
template <bool kTree, bool kCoded>
__device__ __forceinline__ void finish(int i, bool write, const float4& d, const Moments<float>& m,
                                       const float (&color)[4], const float* record, float4* splats, float4* more,
                                       Box* boxes, float* colors, float* params, float* first, float* second,
                                       Box* chunks, Box* supers, const Rates& rates, const float4& schedule,
                                       const Coding& coding) {
  const int lane = threadIdx.x & 7;
  const Gradient<float> by = chain_rule(m, 1.0f / d.y, d.w, d.z);
  const auto gradient_at = [&](int base, int f) { return gradient_of(by, color, record, base, f); };
  const bool noisy = kCoded && coding.step > 0;
  Pullback back = {1, 0, 0};
  if (noisy) back = pull_back(i, params, gradient_at, coding, int(schedule.w));
  float p[8];
  float mine = 0, color2 = 0;
#pragma unroll
  for (int base = 0; base < kFields; base += 8) {
    const int f = base + lane;
    if (f < kFields) {
      const size_t at = size_t(i) * kFields + f;
      float value = params[at], gradient = gradient_at(base, f);
      if (base == 0 && f >= 2 && f < kGeometry) {  // in one condition with the next, ptxas spills registers
        const float limit = limit_of(f);
        if (clamp(value, -limit, limit) != value) gradient = 0;
      }
      if constexpr (kCoded)
        gradient = f >= kGeometry     ? gradient * back.scale + back.by_color * value
                   : f == 2 || f == 4 ? gradient + back.by_log
                                      : gradient;
      const float rate = f < 2 ? rates.rate[0] : f == 3 ? rates.rate[2] : f < kGeometry ? rates.rate[1] : rates.rate[3];
      float v1 = first[at], v2 = second[at];
      value = adam(value, gradient, v1, v2, rate * schedule.x, rates.beta1, rates.beta2, schedule.y, schedule.z);
      if (f == 2 || f == 4) value = clamp(value, rates.log_min, rates.log_max);
      if (write) {
        first[at] = v1, second[at] = v2;
        if (base > 0 || f != 4) params[at] = value;
        if constexpr (!kColorsInside)
          if (!noisy && f >= kGeometry) colors[size_t(i) * 4 * kGroups + f - kGeometry] = value;
      }
      if (base == 0) mine = value;
      if (kCoded && f >= kGeometry) color2 += value * value;
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
  if (write && lane == 0) params[size_t(i) * kFields + 4] = p[4];
  if (noisy) draw_noise(i, write, p, sum_of_eight(color2), params, colors, coding, int(schedule.w) + 1);
  if (write && lane == 0) {
    const Box box = prepare_splat(p, splats, more, boxes, i);
    if constexpr (kTree) {
      widen(chunks + i / kSplatChunk, box);
      widen(supers + i / kSuper, box);
    }
  }
}

// Sums the gradient of every splat over its footprint and calls finish(splat, write, derived values, moments, sums of
// the first four channels, record) with it, in the lanes of which eight or more have the same splat: one eight has
// `write`. Each splat is summed by eight lanes, or in parts by several warps: then the warp that finishes last adds up
// the parts in their order. plane_of(splat, group): gradient of its picture; wanted(splat): whether it may have one.
template <class Plane, class Wanted, class Finish>
__device__ __forceinline__ void sum_gradients(const State* state, const float4* splats, const float4* more,
                                              const float* colors, const int* __restrict__ narrow_items,
                                              const int4* __restrict__ wide_items, float* records, int* arrived,
                                              int width, int height, const Plane& plane_of, const Wanted& wanted,
                                              const Finish& finish) {
  const int narrow = state->narrow, wide = state->wide;
  const int lane = threadIdx.x & 31, octet = lane >> 3, column = lane & 7;
  const int jobs = wide + (narrow + 3) / 4;
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
    const bool counts = item.x >= 0 && wanted(i);
    const int strips = counts && columns.last >= columns.first ? (columns.last - columns.first + 8) / 8 : 0;
    const int log_columns = item.y >> kColumnsShift, part = item.y & ((1 << kColumnsShift) - 1);
    const Share share = share_of(is_wide ? 4 * part + octet : 0, is_wide ? 33 - __clz(item.z) : 0, log_columns);
    const int last_column = strips > 0 ? columns.last : -1;
    const int turns = warp_most(ceil_shift(strips - share.first, log_columns));

    Moments<float> m = {0, 0, 0, 0, 0};
    float v_color[4];
    float* const record = records + size_t(is_wide ? job : kGroups > 1 ? wide + i : 0) * kRecord;
    for (int group = 0; group < kGroups; ++group) {
      const float* plane = plane_of(i, group);
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
    finish(i, counts && (octet == 0 || !is_wide), d, m, v_color,
           item.z > 1 ? records + size_t(item.w) * kRecord : record);
  }
}

// Moves every splat by its gradient.
template <bool kCoded>
__device__ __forceinline__ void update_splats(const State* state, const float4* schedule, int node, float4* splats,
                                              float4* more, Box* boxes, float* colors, float* params, float* first,
                                              float* second, Box* chunks, Box* supers,
                                              const int* __restrict__ narrow_items, const int4* __restrict__ wide_items,
                                              float* records, int* arrived, const float* __restrict__ d_image,
                                              int width, int height, const Rates* rates_at, const Coding* coding_at) {
  overlap_launches();
  const Rates rates = *rates_at;
  Coding coding = {};
  if constexpr (kCoded) coding = *coding_at;
  const float4 now = schedule[state->cursor + node];
  const size_t pixels = size_t(width) * height;
  sum_gradients(
      state, splats, more, colors, narrow_items, wide_items, records, arrived, width, height,
      [&](int, int group) { return d_image + group * pixels * kLanes; },
      [&](int i) { return !(kCoded && is_frozen(second, i)); },
      [&](int i, bool write, const float4& d, const Moments<float>& m, const float (&color)[4], const float* record) {
        finish<true, kCoded>(i, write, d, m, color, record, splats, more, boxes, colors, params, first, second, chunks,
                             supers, rates, now, coding);
      });
}

}  // namespace splat2d
