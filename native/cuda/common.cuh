// What the kernels share: the layout of arrays, block-wide sums and scans. Compiled by NVRTC with -DCHANNELS=n.
#pragma once

#include "../coding.h"
#include "inner.h"

namespace splat2d {

typedef unsigned long long u64;

constexpr int kFields = kGeometry + CHANNELS;  // parameters of a splat: params, first and second are [N][kFields]
// Pictures are stored in planes of up to four channels, [group][pixel][kLanes]; lanes past the last channel are 0.
constexpr int kLanes = CHANNELS <= 2 ? CHANNELS : 4;
constexpr int kActive = CHANNELS <= 4 ? CHANNELS : 4;
constexpr int kGroups = (CHANNELS + 3) / 4;
// Colours ride in the second float4 of a splat where they fit, and else in [N][kGroups] of float4.
constexpr bool kColorsInside = CHANNELS <= 3;
constexpr int kRecord = kGeometry + 4 * kGroups;  // sums over the footprint of a splat
constexpr int kSplatChunk = 32, kSuper = 1024;    // splats under one box
constexpr int kSegment = 256;                     // pixels under one sum of the draw
constexpr unsigned kAll = 0xFFFFFFFFu;
constexpr float kLog2Limit = float(-kLog2E * kCutoff);

// The second moment of x of a splat that is drawn but never changed; of all others it is at least 0.
constexpr float kFrozen = -1;
__device__ __forceinline__ bool is_frozen(const float* second, int i) { return second[size_t(i) * kFields] < 0; }

struct State {
  int count;         // splats
  int narrow, wide;  // work items of the update, see plan()
  int cursor;        // steps done in this run
  unsigned arrived;  // blocks of the running reduction that are done
  unsigned padding;
  double sums[4];  // results of reductions
  double scale;    // of flatten()
};

struct Pixel {
  float v[kActive];
};
__device__ __forceinline__ Pixel load_pixel(const float* plane, size_t p) {
  Pixel r;
  if constexpr (kLanes == 1) {
    r.v[0] = plane[p];
  } else if constexpr (kLanes == 2) {
    const float2 q = reinterpret_cast<const float2*>(plane)[p];
    r.v[0] = q.x, r.v[1] = q.y;
  } else {
    const float4 q = reinterpret_cast<const float4*>(plane)[p];
    r.v[0] = q.x, r.v[1] = q.y, r.v[2] = q.z;
    if constexpr (kActive == 4) r.v[3] = q.w;
  }
  return r;
}
__device__ __forceinline__ void store_pixel(float* plane, size_t p, const Pixel& v) {
  if constexpr (kLanes == 1) {
    plane[p] = v.v[0];
  } else if constexpr (kLanes == 2) {
    reinterpret_cast<float2*>(plane)[p] = make_float2(v.v[0], v.v[1]);
  } else {
    float last = 0;
    if constexpr (kActive == 4) last = v.v[3];
    reinterpret_cast<float4*>(plane)[p] = make_float4(v.v[0], v.v[1], v.v[2], last);
  }
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Lets the next kernel of the stream start its blocks, and waits for all that the kernel before has written. Both do
// nothing unless the launch asked for it.
__device__ __forceinline__ void overlap_launches() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ unsigned lanes_below() {
  unsigned mask;
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(mask));
  return mask;
}

// Atomic limits of floats by the order of their bits.
__device__ __forceinline__ void atomic_least(float* at, float v) {
  if (v >= 0)
    atomicMin(reinterpret_cast<int*>(at), __float_as_int(v));
  else
    atomicMax(reinterpret_cast<unsigned*>(at), __float_as_uint(v));
}
__device__ __forceinline__ void atomic_greatest(float* at, float v) {
  if (v >= 0)
    atomicMax(reinterpret_cast<int*>(at), __float_as_int(v));
  else
    atomicMin(reinterpret_cast<unsigned*>(at), __float_as_uint(v));
}
__device__ __forceinline__ void widen(Box* box, const Box& by) {
  const float4 now = __ldcg(reinterpret_cast<const float4*>(box));
  if (by.x0 < now.x) atomic_least(&box->x0, by.x0);
  if (by.y0 < now.y) atomic_least(&box->y0, by.y0);
  if (by.x1 > now.z) atomic_greatest(&box->x1, by.x1);
  if (by.y1 > now.w) atomic_greatest(&box->y1, by.y1);
}

template <class T> __device__ __forceinline__ T warp_sum(T v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(kAll, v, o);
  return v;
}

__device__ __forceinline__ int warp_most(int v) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(kAll, v);
#else
  for (int o = 16; o; o >>= 1) v = greatest(v, __shfl_xor_sync(kAll, v, o));
  return v;
#endif
}

// Sum over the block, in every thread. The order does not depend on the schedule. All threads must call.
template <class T> __device__ T block_sum(T v) {
  __shared__ T parts[32];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  v = warp_sum(v);
  __syncthreads();
  if (lane == 0) parts[warp] = v;
  __syncthreads();
  return warp_sum(lane < int(blockDim.x + 31) / 32 ? parts[lane] : T(0));
}

// Sum of the threads before this one; total: over the block. All threads must call; the block is whole warps.
template <class T> __device__ T block_scan(T v, T& total) {
  __shared__ T parts[32];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  T up = v;
  for (int o = 1; o < 32; o <<= 1) {
    const T other = __shfl_up_sync(kAll, up, o);
    if (lane >= o) up += other;
  }
  __syncthreads();
  if (lane == 31) parts[warp] = up;
  __syncthreads();
  const int warps = blockDim.x >> 5;
  T mine = lane < warps ? parts[lane] : T(0), scan = mine;
  for (int o = 1; o < 32; o <<= 1) {
    const T other = __shfl_up_sync(kAll, scan, o);
    if (lane >= o) scan += other;
  }
  total = __shfl_sync(kAll, scan, 31);
  return up - v + __shfl_sync(kAll, scan - mine, warp);
}

// Sums values of all blocks into out[K], in a fixed order, by the block that arrives last; true in that block.
template <int K> __device__ bool grid_sum(State* state, double* partials, const double (&values)[K], double* out) {
  __shared__ bool last;
  const int blocks = gridDim.x;
  for (int k = 0; k < K; ++k) {
    const double s = block_sum(values[k]);
    if (threadIdx.x == 0) partials[k * size_t(blocks) + blockIdx.x] = s;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&state->arrived, 1u) == unsigned(blocks) - 1;
    if (last) state->arrived = 0;
  }
  __syncthreads();
  if (!last) return false;
  __threadfence();
  for (int k = 0; k < K; ++k) {
    double s = 0;
    for (int b = threadIdx.x; b < blocks; b += blockDim.x) s += __ldcg(partials + k * size_t(blocks) + b);
    s = block_sum(s);
    if (threadIdx.x == 0) out[k] = s;
  }
  return true;
}

}  // namespace splat2d
