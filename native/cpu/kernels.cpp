// One source, compiled once per instruction set (SPLAT2D_SET names the namespace, SPLAT2D_LANES the float lanes).
// It must not instantiate inline functions of the standard library: the linker would merge the copies of different
// instruction sets, and an old machine would then run new instructions.
#include "kernels.h"
#include "../residual.h"
#include "../ssim.h"

#ifndef SPLAT2D_SET
#define SPLAT2D_SET portable
#define SPLAT2D_LANES 4
#endif

#include "../codec/leaves_of_set.h"

namespace splat2d::SPLAT2D_SET {
namespace {

// GCC and Clang vectors: one source for SSE, AVX2, AVX-512 and NEON.
template <class T> struct Lanes;
template <> struct Lanes<float> {
  static constexpr int count = SPLAT2D_LANES;
  typedef float V __attribute__((vector_size(4 * SPLAT2D_LANES)));
  typedef std::int32_t I __attribute__((vector_size(4 * SPLAT2D_LANES)));
};
template <> struct Lanes<double> {
  static constexpr int count = SPLAT2D_LANES / 2;
  typedef double V __attribute__((vector_size(4 * SPLAT2D_LANES)));
  typedef std::int64_t I __attribute__((vector_size(4 * SPLAT2D_LANES)));
};
template <class T> using Vec = typename Lanes<T>::V;

template <class T> inline Vec<T> load(const T* p) { return *reinterpret_cast<const Vec<T>*>(p); }
template <class T> inline void store(T* p, Vec<T> v) { *reinterpret_cast<Vec<T>*>(p) = v; }
template <class T> inline Vec<T> iota() {
  Vec<T> v;
  for (int i = 0; i < Lanes<T>::count; ++i) v[i] = T(i);
  return v;
}
template <class T> inline T sum(Vec<T> v) {
  T s = v[0];
  for (int i = 1; i < Lanes<T>::count; ++i) s += v[i];
  return s;
}

// 2^f on [-1/2, 1/2], largest relative error 9.2e-8 (fitted by reweighted least squares).
template <class F> inline F exp2_polynomial(F f) {
  F p = f * 0.0013264726f + 0.0096715127f;
  p = p * f + 0.0555073375f;
  p = p * f + 0.2402224208f;
  p = p * f + 0.6931469776f;
  return p * f + 1.0f;
}
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits

// 2^x; below 2^-126 it is 0, not the smallest normal number: a recurrence would multiply that up to a visible weight.
inline Vec<float> exp2(Vec<float> x) {
  typedef Lanes<float>::I I;
  Vec<float> limited = x < 126.0f ? x : Vec<float>{} + 126.0f;
  Vec<float> t = limited + kRound;
  Vec<float> p = exp2_polynomial(limited - (t - kRound));
  I bits = (I)p + ((I)t << 23);
  return x > -126.0f ? (Vec<float>)bits : Vec<float>{};
}
inline Vec<double> exp2(Vec<double> x) {
  Vec<double> y;
  for (int i = 0; i < Lanes<double>::count; ++i) y[i] = x[i] > -1022.0 ? __builtin_exp2(least(x[i], 1023.0)) : 0.0;
  return y;
}

inline float exp_limited(float x) {  // |x| <= kLogLimit; scalar in form, vectorised by the compiler
  float y = x * float(kLog2E);
  float t = y + kRound;
  float p = exp2_polynomial(y - (t - kRound));
  std::int32_t bits, low;
  __builtin_memcpy(&bits, &p, 4);
  __builtin_memcpy(&low, &t, 4);
  bits = std::int32_t(std::uint32_t(bits) + (std::uint32_t(low) << 23));
  __builtin_memcpy(&p, &bits, 4);
  return p;
}
inline double exp_limited(double x) { return __builtin_exp(x); }

inline float natural_log(float x) { return __builtin_logf(x); }
inline double natural_log(double x) { return __builtin_log(x); }

template <class T> inline T limited_log(T a) { return clamp(a, T(-kLogLimit), T(kLogLimit)); }
template <class T> inline T limited_shear(T b) { return clamp(b, T(-kShearLimit), T(kShearLimit)); }

template <class T> inline Cutoff<T> limit_of(T cutoff) { return cutoff_of(cutoff, T(__builtin_exp(-double(cutoff)))); }

template <class T>
void prepare(Fields<const T> params, std::ptrdiff_t begin, std::ptrdiff_t end, T cutoff, Splat<T>* out) {
  const Cutoff<T> limit = limit_of(cutoff);
  T l1[kChunk], l3[kChunk], q[kChunk];
  for (std::ptrdiff_t base = begin; base < end; base += kChunk) {
    const int n = int(least(end - base, std::ptrdiff_t(kChunk)));
    for (int i = 0; i < n; ++i) l1[i] = exp_limited(limited_log(params[2][base + i]));
    for (int i = 0; i < n; ++i) l3[i] = exp_limited(limited_log(params[4][base + i]));
    // Used only by splats with a recurrence, whose l3 is above 0.4.
    for (int i = 0; i < n; ++i) q[i] = exp_limited(greatest(T(-1) / (l3[i] * l3[i]), T(-kLogLimit)));
    for (int i = 0; i < n; ++i) {
      const std::ptrdiff_t j = base + i;
      out[j] = make_splat(params[0][j], params[1][j], l1[i], limited_shear(params[3][j]), l3[i], q[i], limit);
    }
  }
}

// Calls body(y, weights, dx, e) for the rows of one strip of columns starting at x; weights below the cut-off are 0.
// The strip starts at a multiple of the lane count, so that loads and stores are aligned and tiles never share one.
template <class T, class Body>
inline void walk(const Splat<T>& s, int x, Range rows, const Cutoff<T>& limit, Body body) {
  typedef Vec<T> V;
  const V dx = iota<T>() + (T(x) + T(0.5) - s.mx);
  const V along = dx * dx * s.n1;
  const V start = (T(rows.first) + T(0.5) - s.my) - s.k * dx;
  if (s.rows == 0) {
    V e = start;
    for (int y = rows.first; y <= rows.last; ++y) {
      const V exponent = along + s.n3 * e * e;
      const V w = exp2(exponent);
      body(y, exponent >= limit.log2_weight ? w : V{}, dx, e);
      e += T(1);
    }
    return;
  }
  for (int y = rows.first; y <= rows.last;) {
    const int end = least(rows.last + 1, y + s.rows);
    V e = start + T(y - rows.first);
    V w = exp2(along + s.n3 * e * e);
    V r = exp2(s.n3 * (e + e + T(1)));
    for (; y < end; ++y) {
      body(y, w >= limit.weight ? w : V{}, dx, e);
      w *= r;
      r *= s.q;
      e += T(1);
    }
  }
}

// Calls strip(x, rows) for the strips of columns that meet both the ellipse and the rectangle.
template <class T, class Strip> inline void for_strips(const Splat<T>& s, Tile tile, Strip strip) {
  constexpr int lanes = Lanes<T>::count, group = 8;
  const Range columns = columns_of(s, tile.x0, tile.x1 - 1);
  const int start = columns.first / lanes * lanes;
  const bool narrow = columns.last < start + lanes;  // the usual case of small splats: one strip, and no roots to take
  int first[group], last[group];
  for (int base = start; base <= columns.last; base += group * lanes) {
    if (narrow) {
      const Range rows = rows_of(s, tile.y0, tile.y1 - 1);
      first[0] = rows.first;
      last[0] = rows.last;
    } else {
      for (int i = 0; i < group; ++i) {
        const int x = base + i * lanes;
        const Range rows = rows_of(s, x, x + lanes - 1, tile.y0, tile.y1 - 1);
        first[i] = rows.first;
        last[i] = rows.last;
      }
    }
    for (int i = 0; i < group; ++i) {
      const int x = base + i * lanes;
      if (x > columns.last) break;
      if (first[i] <= last[i]) strip(x, Range{first[i], last[i]});
    }
  }
}

// C is the number of channels, or 0 where it is known only at run time.
template <class T, int C>
inline void render_tile_of(const Splat<T>* splats, Fields<const T> params, const std::int32_t* list,
                           std::ptrdiff_t count, T cutoff, Planes<T> image, Tile tile) {
  typedef Vec<T> V;
  const int channels = C ? C : image.channels;
  const Cutoff<T> limit = limit_of(cutoff);
  for (std::ptrdiff_t n = 0; n < count; ++n) {
    const std::ptrdiff_t i = list[n];
    const Splat<T>& s = splats[i];
    T color[C ? C : 1];
    if constexpr (C > 0)
      for (int c = 0; c < C; ++c) color[c] = params[kGeometry + c][i];
    for_strips(s, tile, [&](int x, Range rows) {
      walk(s, x, rows, limit, [&](int y, V w, V, V) {
        T* p = image.at(y, 0) + x;
        for (int c = 0; c < channels; ++c) {
          const T amount = C ? color[C ? c : 0] : params[kGeometry + c][i];
          store(p, load(p) + w * amount);
          p += image.channel;
        }
      });
    });
  }
}

template <class T, int C>
inline void gradient_of(const Splat<T>* splats, Fields<const T> params, std::ptrdiff_t begin, std::ptrdiff_t end,
                        T cutoff, Planes<const T> d_image, T* out) {
  typedef Vec<T> V;
  const int channels = C ? C : d_image.channels;
  const Cutoff<T> limit = limit_of(cutoff);
  const Tile all = {0, 0, d_image.width, d_image.height};
  V* const free = C ? nullptr : static_cast<V*>(__builtin_alloca_with_align(sizeof(V) * channels, 8 * sizeof(V)));
  for (std::ptrdiff_t i = begin; i < end; ++i) {
    const Splat<T>& s = splats[i];
    T* o = out + (i - begin);
    V vx{}, ve{}, vxx{}, vxe{}, vee{};
    V fixed[C ? C : 1];
    T color[C ? C : 1];
    V* const v_color = C ? fixed : free;
    for (int c = 0; c < channels; ++c) v_color[c] = V{};
    if constexpr (C > 0)
      for (int c = 0; c < C; ++c) color[c] = params[kGeometry + c][i];
    for_strips(s, all, [&](int x, Range rows) {
      // Per column: sums over the rows of v, v e, v e^2; dx is constant there.
      V s0{}, s1{}, s2{}, column_dx{};
      walk(s, x, rows, limit, [&](int y, V w, V dx, V e) {
        const T* p = d_image.at(y, 0) + x;
        V g{};
        for (int c = 0; c < channels; ++c) {
          const V d = load(p + c * d_image.channel);
          v_color[c] += w * d;
          const T amount = C ? color[C ? c : 0] : params[kGeometry + c][i];
          g = c ? g + d * amount : d * amount;
        }
        const V v = w * g, t = v * e;
        s0 += v;
        s1 += t;
        s2 += t * e;
        column_dx = dx;
      });
      vx += s0 * column_dx;
      vxx += s0 * column_dx * column_dx;
      ve += s1;
      vxe += s1 * column_dx;
      vee += s2;
    });
    for (int c = 0; c < channels; ++c) o[(kGeometry + c) * kChunk] = sum<T>(v_color[c]);
    o[0 * kChunk] = sum<T>(vx);
    o[1 * kChunk] = sum<T>(ve);
    o[2 * kChunk] = sum<T>(vxx);
    o[3 * kChunk] = sum<T>(vxe);
    o[4 * kChunk] = sum<T>(vee);
  }
  // Moments become gradients where they stand, a field after the other so that the compiler can vectorise.
  const int n = int(end - begin);
  for (int i = 0; i < n; ++i) {
    const T a = params[2][begin + i], b = params[3][begin + i], c = params[4][begin + i];
    const Moments<T> m = {out[i], out[kChunk + i], out[2 * kChunk + i], out[3 * kChunk + i], out[4 * kChunk + i]};
    const Gradient<T> d = chain_rule(m, exp_limited(limited_log(a)), limited_shear(b), exp_limited(limited_log(c)));
    out[i] = d.mx;
    out[kChunk + i] = d.my;
    out[2 * kChunk + i] = limited_log(a) == a ? d.a : T(0);
    out[3 * kChunk + i] = limited_shear(b) == b ? d.b : T(0);
    out[4 * kChunk + i] = limited_log(c) == c ? d.c : T(0);
  }
}

template <class T>
void render_tile(const Splat<T>* splats, Fields<const T> params, const std::int32_t* list, std::ptrdiff_t count,
                 T cutoff, Planes<T> image, Tile tile) {
  switch (image.channels) {
    case 1:
      return render_tile_of<T, 1>(splats, params, list, count, cutoff, image, tile);
    case 3:
      return render_tile_of<T, 3>(splats, params, list, count, cutoff, image, tile);
    case 4:
      return render_tile_of<T, 4>(splats, params, list, count, cutoff, image, tile);
    default:
      return render_tile_of<T, 0>(splats, params, list, count, cutoff, image, tile);
  }
}

template <class T>
void gradient(const Splat<T>* splats, Fields<const T> params, std::ptrdiff_t begin, std::ptrdiff_t end, T cutoff,
              Planes<const T> d_image, T* out) {
  switch (d_image.channels) {
    case 1:
      return gradient_of<T, 1>(splats, params, begin, end, cutoff, d_image, out);
    case 3:
      return gradient_of<T, 3>(splats, params, begin, end, cutoff, d_image, out);
    case 4:
      return gradient_of<T, 4>(splats, params, begin, end, cutoff, d_image, out);
    default:
      return gradient_of<T, 0>(splats, params, begin, end, cutoff, d_image, out);
  }
}

// Adam (Kingma and Ba 2015), one field after the other.
template <class T>
void adam(Fields<T> params, Fields<T> first, Fields<T> second, const T* gradient, std::ptrdiff_t begin,
          std::ptrdiff_t end, int channels, AdamStep step) {
  constexpr int group[kGeometry] = {0, 0, 1, 2, 1};
  const int n = int(end - begin);
  const T keep1 = T(step.beta1), keep2 = T(step.beta2);
  const T c1 = T(step.correction1), c2 = T(step.correction2);
  for (int field = 0; field < kGeometry + channels; ++field) {
    const T rate = T(step.rate[field < kGeometry ? group[field] : 3]);
    T* __restrict__ p = params[field] + begin;
    T* __restrict__ m = first[field] + begin;
    T* __restrict__ v = second[field] + begin;
    const T* __restrict__ g = gradient + field * kChunk;
    for (int i = 0; i < n; ++i) {
      m[i] = keep1 * m[i] + (T(1) - keep1) * g[i];
      v[i] = keep2 * v[i] + (T(1) - keep2) * g[i] * g[i];
      p[i] -= rate * (m[i] * c1) / (root(v[i] * c2) + T(1e-8));
    }
    if (field == 2 || field == 4)
      for (int i = 0; i < n; ++i) p[i] = clamp(p[i], T(step.log_min), T(step.log_max));
  }
  // Limits on a and c alone leave a sheared splat as thin as it likes: across its ridge it measures e^c / sqrt(1 +
  // k^2).
  const T* __restrict__ a = params[2] + begin;
  const T* __restrict__ b = params[3] + begin;
  T* __restrict__ c = params[4] + begin;
  T least_variance[kChunk];
  const T floor = exp_limited(T(2) * T(step.log_min));
  for (int i = 0; i < n; ++i) {
    const T k = b[i] * exp_limited(-a[i]);
    least_variance[i] = floor * (T(1) + k * k);
  }
  for (int i = 0; i < n; ++i)
    if (exp_limited(T(2) * c[i]) < least_variance[i]) c[i] = T(0.5) * natural_log(least_variance[i]);
}

void perturb_all(Fields<const float> params, const float* frozen, std::ptrdiff_t begin, std::ptrdiff_t end,
                 int channels, Coding coding, int step, Fields<float> out) {
  for (std::ptrdiff_t i = begin; i < end; ++i) {
    if (frozen[i] != 0 || coding.step == 0) {
      for (int f = 0; f < kGeometry + channels; ++f) out[f][i] = params[f][i];
      continue;
    }
    float color2 = 0, noise[kGeometry];
    for (int ch = 0; ch < channels; ++ch) color2 += params[kGeometry + ch][i] * params[kGeometry + ch][i];
    unsigned long long bits = 0;
    for (int f = 0; f < kGeometry; ++f) {
      if (f % 4 == 0) bits = coding_bits(coding.seed, step, int(i), f);
      noise[f] = coding_noise(bits, f);
    }
    const Decoded d =
        perturb(params[0][i], params[1][i], params[2][i], params[3][i], params[4][i], color2, coding.step, noise);
    out[0][i] = d.mx, out[1][i] = d.my, out[2][i] = d.a, out[3][i] = d.b, out[4][i] = d.c;
    for (int f = kGeometry; f < kGeometry + channels; ++f) {
      if (f % 4 == 0) bits = coding_bits(coding.seed, step, int(i), f);
      out[f][i] = params[f][i] * d.scale + d.noise * coding_noise(bits, f);
    }
  }
}

void pull_back(Fields<const float> params, Fields<const float> perturbed, std::ptrdiff_t begin, std::ptrdiff_t end,
               int channels, Coding coding, float* gradient) {
  for (std::ptrdiff_t i = begin; i < end; ++i) {
    float* g = gradient + (i - begin);
    const float a = params[2][i], c = params[4][i];
    const float scale = exponential(0.5f * (a - perturbed[2][i] + c - perturbed[4][i]));
    float color2 = 0, by_noise = 0;
    for (int f = kGeometry; f < kGeometry + channels; ++f) {
      color2 += params[f][i] * params[f][i];
      by_noise += (perturbed[f][i] - params[f][i] * scale) * g[f * kChunk];
    }
    const RateGradient rate = rate_gradient(a, c, color2, coding);
    for (int f = kGeometry; f < kGeometry + channels; ++f)
      g[f * kChunk] = g[f * kChunk] * scale + rate.by_color * params[f][i];
    g[2 * kChunk] += rate.by_log - 0.5f * by_noise;
    g[4 * kChunk] += rate.by_log - 0.5f * by_noise;
  }
}

template <class T>
std::int64_t count_pairs(const Splat<T>* splats, std::ptrdiff_t begin, std::ptrdiff_t end, T cutoff, int width,
                         int height) {
  typedef Vec<T> V;
  const Cutoff<T> limit = limit_of(cutoff);
  std::int64_t pairs = 0;
  for (std::ptrdiff_t i = begin; i < end; ++i)
    for_strips(splats[i], {0, 0, width, height}, [&](int x, Range rows) {
      walk(splats[i], x, rows, limit, [&](int, V w, V, V) {
        for (int lane = 0; lane < Lanes<T>::count; ++lane) pairs += w[lane] > T(0) && x + lane < width;
      });
    });
  return pairs;
}

// ---- losses -------------------------------------------------------------------------------------------------------

void clear(Planes<float> image, Planes<const float> target, const float* background, Tile tile) {
  for (int y = tile.y0; y < tile.y1; ++y)
    for (int c = 0; c < image.channels; ++c) {
      float* __restrict__ o = image.at(y, c);
      const float* __restrict__ t = target.at(y, c);
      for (int x = tile.x0; x < tile.x1; ++x) o[x] = background[c] - t[x];
    }
}

void weigh(Planes<float> residual, Planes<const float> target, float outside, Tile tile) {
  for (int y = tile.y0; y < tile.y1; ++y)
    for (int c = 0; c < residual.channels; ++c) {
      float* __restrict__ r = residual.at(y, c);
      const float* __restrict__ t = target.at(y, c);
      for (int x = tile.x0; x < tile.x1; ++x) r[x] *= weight_of(r[x], t[x], outside);
    }
}

// The gradient of l2/2 sum r^2 + l1/2 sum |r|: the scale HWC/2 times the gradient of the mean loss, so that Adam's
// epsilon means the same for every picture size.
void pointwise(Planes<float> residual, Planes<const float> target, LossWeights weights, Tile tile) {
  const float half_l1 = 0.5f * weights.l1;
  for (int y = tile.y0; y < tile.y1; ++y)
    for (int c = 0; c < residual.channels; ++c) {
      float* __restrict__ r = residual.at(y, c);
      const float* __restrict__ t = target.at(y, c);
      for (int x = tile.x0; x < tile.x1; ++x) {
        const float by_l1 = r[x] > 0 ? half_l1 : (r[x] < 0 ? -half_l1 : 0.0f);
        r[x] = weights.l2 * r[x] + by_l1 * weight_of(r[x], t[x], weights.outside);
      }
    }
}

void sums(Planes<const float> residual, Planes<const float> target, float outside, Tile tile, double out[3]) {
  const float inverse = 1.0f / outside;  // the residual is weighted, its square would be so twice
  double squares = 0, absolutes = 0, clamped = 0;
  for (int y = tile.y0; y < tile.y1; ++y)
    for (int c = 0; c < residual.channels; ++c) {
      const float* __restrict__ r = residual.at(y, c);
      const float* __restrict__ t = target.at(y, c);
      // A row of a tile in float, then double: 64 terms do not lose more than a few ulp.
      float s2[kLine] = {}, s1[kLine] = {}, sc[kLine] = {};
      int x = tile.x0;
      for (; x + kLine <= tile.x1; x += kLine)
        for (int i = 0; i < kLine; ++i) {
          const float d = r[x + i], k = clamp(t[x + i] + d, 0.0f, 1.0f) - t[x + i];
          s2[i] += d * d * weight_of(d, t[x + i], inverse);
          s1[i] += __builtin_fabsf(d);
          sc[i] += k * k;
        }
      for (int i = 0; x < tile.x1; ++x, ++i) {
        const float d = r[x], k = clamp(t[x] + d, 0.0f, 1.0f) - t[x];
        s2[i] += d * d * weight_of(d, t[x], inverse);
        s1[i] += __builtin_fabsf(d);
        sc[i] += k * k;
      }
      for (int i = 0; i < kLine; ++i) squares += s2[i], absolutes += s1[i], clamped += sc[i];
    }
  out[0] = squares, out[1] = absolutes, out[2] = clamped;
}

// The Gaussian window of Wang et al. 2004 (11 taps, sigma 1.5), and the mass of it that lies inside a line of n pixels.
struct Window {
  float tap[kWindow];
  Window() {
    double total = 0, g[kWindow];
    for (int i = 0; i < kWindow; ++i)
      total += g[i] = __builtin_exp(-double((i - kHalf) * (i - kHalf)) / (2 * 1.5 * 1.5));
    for (int i = 0; i < kWindow; ++i) tap[i] = float(g[i] / total);
  }
  float inside(int i, int n) const {
    float mass = 0;
    for (int k = -kHalf; k <= kHalf; ++k)
      if (i + k >= 0 && i + k < n) mass += tap[k + kHalf];
    return mass;
  }
};

// The 11 taps written out, so that the loop over the pixels is the one that is vectorised.
template <class At> inline float taps(const Window& w, At at) {
  return w.tap[0] * (at(0) + at(10)) + w.tap[1] * (at(1) + at(9)) + w.tap[2] * (at(2) + at(8)) +
         w.tap[3] * (at(3) + at(7)) + w.tap[4] * (at(4) + at(6)) + w.tap[5] * at(5);
}

// Horizontal blur of one padded row: in has kHalf zeros on both sides of n values.
void blur_row(const Window& window, const float* __restrict__ in, float* __restrict__ out, int n) {
  for (int x = 0; x < n; ++x) out[x] = taps(window, [&](int k) { return in[x + k]; });
}

// Vertical blur of the rows of a window.
struct RingRows {
  const float* row[kWindow];
};
void blur_rows(const Window& window, const RingRows& rows, float* __restrict__ out, int n) {
  for (int x = 0; x < n; ++x) out[x] = taps(window, [&](int k) { return rows.row[k][x]; });
}

// One row of the SSIM map and its derivatives, see ssim_pixel(). mass: of the window along x.
void ssim_row(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ squares,
              const float* __restrict__ product, const float* __restrict__ mass, float row_mass, float center, int n,
              float* __restrict__ value, float* __restrict__ d_a, float* __restrict__ d_squares,
              float* __restrict__ d_product) {
  for (int x = 0; x < n; ++x) {
    const SsimPixel s = ssim_pixel(a[x], b[x], squares[x], product[x], mass[x] * row_mass, center);
    value[x] = s.value, d_a[x] = s.by_a, d_squares[x] = s.by_squares, d_product[x] = s.by_product;
  }
}

// Streams down the rows with two rings of kWindow rows: blurred moments of the pictures in, and the blurred derivatives
// of the map out. No array of the picture's size is needed.
double ssim(Planes<const float> residual, Planes<const float> target, const float* center, Planes<float> d, int first,
            int last, int margin, float scale, float outside, float* scratch) {
  const Window window;
  const int n = residual.width, height = residual.height;
  const int pad = n + 2 * kHalf;
  float* next = scratch;
  auto take = [&](int count) {
    float* p = next;
    next += count;
    return p;
  };
  // The picture's and the target's mean, mean of the sum of squares (the variances only ever enter as a sum), product.
  float* ring1[kWindow][kMoments];
  float* ring2[kWindow][kDerivatives];
  for (auto& row : ring1)
    for (auto& p : row) p = take(n);
  for (auto& row : ring2)
    for (auto& p : row) p = take(n);
  float* padded = take(pad);
  float* m[kMoments];
  for (auto& p : m) p = take(n);
  float* map[kDerivatives];
  for (auto& p : map) p = take(n);
  float* mass = take(n);
  float* picture = take(n);
  float* original = take(n);
  float* zeros = take(n);
  for (int x = 0; x < n; ++x) mass[x] = window.inside(x, n), zeros[x] = 0;
  for (int i = 0; i < pad; ++i) padded[i] = 0;
  const auto window_at = [&](int middle, auto& ring, int quantity) {
    RingRows rows;
    for (int k = 0; k < kWindow; ++k) {
      const int y = middle - kHalf + k;
      rows.row[k] = y >= 0 && y < height ? ring[y % kWindow][quantity] : zeros;
    }
    return rows;
  };

  double total = 0;
  const int reach = d.data ? kHalf : 0;
  for (int c = 0; c < residual.channels; ++c) {
    for (int y = first - reach - kHalf; y <= last + reach + kHalf; ++y) {
      if (y >= 0 && y < height) {
        const float* r = residual.at(y, c);
        const float* t = target.at(y, c);
        for (int x = 0; x < n; ++x) original[x] = t[x] - center[c], picture[x] = r[x] + original[x];
        float* __restrict__ o = padded + kHalf;
        const auto blur = [&](int quantity, auto value) {
          for (int x = 0; x < n; ++x) o[x] = value(picture[x], original[x]);
          blur_row(window, padded, ring1[y % kWindow][quantity], n);
        };
        blur(0, [](float a, float) { return a; });
        blur(1, [](float, float b) { return b; });
        blur(2, [](float a, float b) { return a * a + b * b; });
        blur(3, [](float a, float b) { return a * b; });
      }
      const int s = y - kHalf;  // the row whose window is now complete
      if (s >= greatest(0, first - reach) && s <= least(height - 1, last + reach)) {
        for (int q = 0; q < kMoments; ++q) blur_rows(window, window_at(s, ring1, q), m[q], n);
        const float row_mass = window.inside(s, height);
        ssim_row(m[0], m[1], m[2], m[3], mass, row_mass, center[c], n, picture, map[0], map[1], map[2]);
        if (s >= first && s <= last && s >= margin && s < height - margin)
          for (int x = margin; x < n - margin; ++x) total += picture[x];
        if (d.data)
          for (int q = 0; q < kDerivatives; ++q) {
            for (int x = 0; x < n; ++x) padded[kHalf + x] = map[q][x];
            blur_row(window, padded, ring2[s % kWindow][q], n);
          }
      }
      const int o = y - 2 * kHalf;  // the row whose derivative is now complete
      if (d.data && o >= first && o <= last) {
        for (int q = 0; q < kDerivatives; ++q) blur_rows(window, window_at(o, ring2, q), m[q], n);
        const float* r = residual.at(o, c);
        const float* t = target.at(o, c);
        float* __restrict__ out = d.at(o, c);
        for (int x = 0; x < n; ++x) {
          const float b = t[x] - center[c], a = r[x] + b;
          out[x] += scale * weight_of(r[x], t[x], outside) * (m[0][x] + 2 * a * m[1][x] + b * m[2][x]);
        }
      }
    }
  }
  return total;
}

inline std::uint8_t level(float x) {  // rounded half up, as a cast cuts; NaN is 0
  return std::uint8_t(std::int32_t((x > 0.0f ? least(x, 1.0f) : 0.0f) * 255.0f + 0.5f));
}

template <int C>
inline void levels_of(const float* row, std::ptrdiff_t channel, std::ptrdiff_t pixels, int channels,
                      std::uint8_t* out) {
  const int n = C ? C : channels;
  for (std::ptrdiff_t x = 0; x < pixels; ++x) {
    if constexpr (C == 4) {
      const float alpha = clamp(row[3 * channel + x], 0.0f, 1.0f);
      for (int c = 0; c < 3; ++c) out[4 * x + c] = level(alpha > 0.0f ? row[c * channel + x] / alpha : 0.0f);
      out[4 * x + 3] = level(alpha);
    } else {
      for (int c = 0; c < n; ++c) out[x * n + c] = level(row[c * channel + x]);
    }
  }
}

void levels(const float* row, std::ptrdiff_t channel, std::ptrdiff_t pixels, int channels, std::uint8_t* out) {
  switch (channels) {
    case 1:
      return levels_of<1>(row, channel, pixels, channels, out);
    case 3:
      return levels_of<3>(row, channel, pixels, channels, out);
    case 4:
      return levels_of<4>(row, channel, pixels, channels, out);
    default:
      return levels_of<0>(row, channel, pixels, channels, out);
  }
}

template <class T> constexpr Kernels<T> table() {
  return {prepare<T>, render_tile<T>, gradient<T>, adam<T>, count_pairs<T>};
}

}  // namespace

extern const InstructionSet instruction_set;
const InstructionSet instruction_set = {SPLAT2D_NAME,
                                        table<float>(),
                                        table<double>(),
                                        {perturb_all, pull_back},
                                        {clear, weigh, pointwise, sums, ssim},
                                        levels,
                                        {look_around, add_hidden}};

}  // namespace splat2d::SPLAT2D_SET
