// A tile of a picture, drawn by a block of 32 * kWarps threads. No kernels here: step.cuh and pictures.cuh have them.
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

// One comparison where begin is 0.
__device__ __forceinline__ bool within_range(int i, int begin, int end) {
  return unsigned(i - begin) < unsigned(end - begin);
}

// Sums splats begin..end-1 over a tile, for a group of channels, and calls use(pixel, sums) at each of its pixels
// inside the picture. The other splats under the same boxes may belong to other pictures.
template <class Use>
__device__ __forceinline__ void draw_tile(int begin, int end, const float4* __restrict__ splats,
                                          const Box* __restrict__ boxes, const float* __restrict__ colors,
                                          const Box* __restrict__ chunks, const Box* __restrict__ supers,
                                          int tile_index, int group, int width, int height, const Use& use) {
  __shared__ int found[kWarps][kFound], together[kWarps * kFound], mine[kWarps][kFound];
  __shared__ int found_count[kWarps];
  __shared__ unsigned near_words[kWarps];
  __shared__ int near_supers[32 * kWarps];
  const int tiles_x = (width + kTileX - 1) / kTileX;
  const int tile_x = tile_index % tiles_x, tile_y = tile_index / tiles_x;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int x = tile_x * kTileX + warp % kSubsX * kSub + (lane & 7);
  const int y = tile_y * kTileY + warp / kSubsX * kSub + (lane >> 3);
  const float px = x + 0.5f, py = y + 0.5f;
  const Box tile = {tile_x * kTileX + 0.5f, tile_y * kTileY + 0.5f, tile_x * kTileX + kTileX - 0.5f,
                    tile_y * kTileY + kTileY - 0.5f};
  const Box sub = {tile.x0 + warp % kSubsX * kSub, tile.y0 + warp / kSubsX * kSub,
                   tile.x0 + warp % kSubsX * kSub + kSub - 1, tile.y0 + warp / kSubsX * kSub + kSub - 1};
  const bool visible = sub.x0 < width && sub.y0 < height;

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
  const int first_chunk = begin / kSplatChunk, chunks_end = (end + kSplatChunk - 1) / kSplatChunk;
  const int supers_end = (end + kSuper - 1) / kSuper;
  for (int first = begin / kSuper; first < supers_end; first += 32 * kWarps) {
    const int super = first + int(threadIdx.x);
    const bool near = super < supers_end && overlap(supers[super], tile);
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
          chunk = slot < total ? near_supers[slot] * 32 + lane % kTurn * kWarps + warp : chunks_end;
          nearer = __ballot_sync(kAll, within_range(chunk, first_chunk, chunks_end) && overlap(chunks[chunk], tile));
          next += kWarps;
        } else {
          const int i = __shfl_sync(kAll, chunk, __ffs(nearer) - 1) * kSplatChunk + lane;
          nearer &= nearer - 1;
          const bool hit = within_range(i, begin, end) && overlap(boxes[i], tile);
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

  for (int r = 0; r < 2; ++r)
    if (x < width && y + 4 * r < height) use(size_t(y + 4 * r) * width + x, sum[r]);
}

}  // namespace splat2d
