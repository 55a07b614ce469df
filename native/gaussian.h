// The splat model: one header for the C++ kernels and for NVRTC, so it includes nothing.
// docs/conventions.md states the formulas; the names are the same there.
#pragma once

#if defined(__CUDACC__)
#define SPLAT2D_FN static __host__ __device__ __forceinline__
#else
// Internal linkage: this header is compiled once per instruction set, and the linker must not merge the copies.
#define SPLAT2D_FN static inline __attribute__((always_inline))
#endif

namespace splat2d {

constexpr double kCutoff = 5.54;     // a weight below exp(-5.54) = 1/255 is 0: a cut tail moves an 8-bit value by < 1
constexpr double kLogLimit = 20.0;   // |a|, |c|: e^20 px is beyond any canvas, and squares of e^20 stay finite in float
constexpr double kShearLimit = 1e9;  // |b|, for the same reason
constexpr double kLog2E = 1.4426950408889634;
constexpr int kRestart = 16;       // rows of a recurrence before it starts afresh: bounds its rounding error
constexpr double kDeepest = 80.0;  // exp(-80) is still a normal float
constexpr double kSlack = 1e-3;    // pixels by which ranges are wider than computed: rounding must not drop a pixel,
                                   // and each pixel is tested against the cut-off anyway
constexpr double kFarAway = 1e8;   // pixels; what lies beyond is off every canvas

#if defined(__CUDACC__)
SPLAT2D_FN float root(float x) { return ::sqrtf(x); }
SPLAT2D_FN double root(double x) { return ::sqrt(x); }
SPLAT2D_FN float up(float x) { return ::ceilf(x); }
SPLAT2D_FN double up(double x) { return ::ceil(x); }
SPLAT2D_FN float down(float x) { return ::floorf(x); }
SPLAT2D_FN double down(double x) { return ::floor(x); }
#else
SPLAT2D_FN float root(float x) { return __builtin_sqrtf(x); }
SPLAT2D_FN double root(double x) { return __builtin_sqrt(x); }
template <class T> SPLAT2D_FN T up(T x) { return T(__builtin_ceil(x)); }
template <class T> SPLAT2D_FN T down(T x) { return T(__builtin_floor(x)); }
#endif
template <class T> SPLAT2D_FN T least(T a, T b) { return a < b ? a : b; }
template <class T> SPLAT2D_FN T greatest(T a, T b) { return a > b ? a : b; }
template <class T> SPLAT2D_FN T clamp(T x, T low, T high) { return x < low ? low : (x > high ? high : x); }

// A splat made ready for evaluation at (dx, e), e = dy - k dx: log2 of its weight is n1 dx^2 + n3 e^2.
template <class T> struct Splat {
  T mx, my;  // mean, pixels
  T k;       // slope of the ridge: b / e^a
  T n1, n3;  // -log2(e) / 2 over the variance along x, and along y at fixed x
  T q;       // second ratio of the weights of three successive rows: 2^(2 n3)
  T hx, hy;  // half size of the box around the ellipse at the cut-off, pixels
  T top_dx;  // dx of the ellipse's extreme point in +y; by symmetry -top_dx is that in -y
  T i1, l3;  // 1 / e^a and e^c
  T radius;  // of the cut-off ellipse in standard deviations
  int rows;  // rows that the recurrence may run before it restarts; 0: evaluate every row
};

// The cut-off as the kernels use it.
template <class T> struct Cutoff {
  T radius;               // of the ellipse in standard deviations: sqrt(2 cutoff)
  T reach;                // rows of a recurrence per e^c, see cutoff_of
  T weight, log2_weight;  // of the least weight that counts, and its exponent
};

// A recurrence w(y + 1) = w(y) r, r' = r q may start outside the ellipse of a column that it meets later. Its first
// weight must not underflow, or the whole column is lost. The start lies at most rows + radius l3 from the ridge, so
// its exponent is at least -(rows / l3 + radius)^2 / 2 - cutoff; keeping that above -kDeepest bounds rows / l3 by
// reach.
template <class T> SPLAT2D_FN Cutoff<T> cutoff_of(T cutoff, T weight) {
  const T radius = root(T(2) * cutoff);
  const T room = root(greatest(T(2) * (T(kDeepest) - cutoff), T(0)));
  return {radius, greatest(room - radius, T(0)), weight, T(-kLog2E) * cutoff};
}

template <class T> SPLAT2D_FN int recurrence_rows(T l3, T reach) {
  const T rows = least(reach * l3, T(kRestart));
  return rows < T(4) ? 0 : int(rows);  // two exponentials per restart must pay
}

// mean, limited log-Cholesky (l1 = e^a, b, l3 = e^c), q = e^(-1 / l3^2) -> Splat
template <class T> SPLAT2D_FN Splat<T> make_splat(T mx, T my, T l1, T b, T l3, T q, const Cutoff<T>& cutoff) {
  Splat<T> s;
  s.mx = clamp(mx, T(-kFarAway), T(kFarAway));
  s.my = clamp(my, T(-kFarAway), T(kFarAway));
  T i1 = T(1) / l1, i3 = T(1) / l3;
  T sd_y = root(b * b + l3 * l3);
  s.k = b * i1;
  s.n1 = T(-0.5 * kLog2E) * i1 * i1;
  s.n3 = T(-0.5 * kLog2E) * i3 * i3;
  s.q = q;
  s.hx = cutoff.radius * l1;
  s.hy = cutoff.radius * sd_y;
  s.top_dx = s.hx * (b / sd_y);
  s.i1 = i1;
  s.l3 = l3;
  s.radius = cutoff.radius;
  s.rows = recurrence_rows(l3, cutoff.reach);
  return s;
}

// Upper end of the cut-off ellipse at column offset dx, as dy.
template <class T> SPLAT2D_FN T upper(const Splat<T>& s, T dx) {
  const T z = dx * s.i1;
  return s.k * dx + s.l3 * root(greatest(s.radius * s.radius - z * z, T(0)));
}

// As clamp, but NaN becomes low, so that the result may be cast to an integer.
template <class T> SPLAT2D_FN T within(T x, T low, T high) { return x > low ? (x < high ? x : high) : low; }

struct Range {
  int first, last;  // inclusive; empty if first > last
};

// Columns whose pixel centres can lie inside the ellipse, clipped to [low, high].
template <class T> SPLAT2D_FN Range columns_of(const Splat<T>& s, int low, int high) {
  const T left = s.mx - s.hx - T(0.5), right = s.mx + s.hx - T(0.5);
  return {int(up(within(left - T(kSlack), T(low), T(high + 1)))),
          int(down(within(right + T(kSlack), T(low - 1), T(high))))};
}

// The same for rows, whatever the column.
template <class T> SPLAT2D_FN Range rows_of(const Splat<T>& s, int low, int high) {
  const T top = s.my + s.hy - T(0.5), bottom = s.my - s.hy - T(0.5);
  return {int(up(within(bottom - T(kSlack), T(low), T(high + 1)))),
          int(down(within(top + T(kSlack), T(low - 1), T(high))))};
}

// Rows whose pixel centres can lie inside the ellipse for the columns first..last, clipped to [low, high]. Free of
// branches, so that compilers can treat several strips of columns at once.
template <class T> SPLAT2D_FN Range rows_of(const Splat<T>& s, int first, int last, int low, int high) {
  const T da = greatest(T(first) + T(0.5) - s.mx, -s.hx), db = least(T(last) + T(0.5) - s.mx, s.hx);
  // upper() is concave with its maximum at top_dx, and the lower end is -upper(-dx).
  const T top = s.my + upper(s, clamp(s.top_dx, da, db)) - T(0.5);
  const T bottom = s.my - upper(s, clamp(s.top_dx, -db, -da)) - T(0.5);
  const int end = int(down(within(top + T(kSlack), T(low - 1), T(high))));
  return {int(up(within(bottom - T(kSlack), T(low), T(high + 1)))), da <= db ? end : low - 1};
}

// Sums over the pixels of one splat of v dx, v e, v dx^2, v dx e, v e^2, where v = w * (colour . dL/dimage).
template <class T> struct Moments {
  T x, e, xx, xe, ee;
};

// dL/d(mean x, mean y, a, b, c). With z = L^-1 (dx, dy) = (dx / e^a, e / e^c): dL/dmean = L^-T sum v z and
// dL/dL = L^-T sum v z z^T (lower triangle), by q = z^T z. Working in (dx, e) rather than (dx, dy) keeps long thin
// splats free of cancellation.
template <class T> struct Gradient {
  T mx, my, a, b, c;
};

template <class T> SPLAT2D_FN Gradient<T> chain_rule(const Moments<T>& m, T l1, T b, T l3) {
  T i1 = T(1) / l1, i3 = T(1) / l3;
  T z0 = m.x * i1, z1 = m.e * i3;
  T z01 = m.xe * i1 * i3;
  Gradient<T> d;
  d.my = z1 * i3;
  d.mx = (z0 - b * d.my) * i1;
  d.b = z01 * i3;
  d.a = m.xx * i1 * i1 - b * d.b;
  d.c = m.ee * i3 * i3;
  return d;
}

// Counter-based random numbers (the finaliser of SplitMix64, Steele et al. 2014): a value per (seed, index), whatever
// the order of evaluation.
SPLAT2D_FN unsigned long long random_bits(unsigned long long seed, unsigned long long index) {
  unsigned long long z = seed + 0x9E3779B97F4A7C15ull * (index + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}
SPLAT2D_FN double random_unit(unsigned long long seed, unsigned long long index) {  // [0, 1)
  return double(random_bits(seed, index) >> 11) * (1.0 / 9007199254740992.0);
}

}  // namespace splat2d
