// Phase 2: each row's sum of exp2(exponent) over the classes of the shard without its own, which is masked inside the
// tile.
//
//   S = X W^T in 128 x 128 tiles; E = exp2(S) (shifted: exp2(S factor - offset), transformed: exp2(G(S) - offset), binary:
//   log2(1 + exp2(z(S))), angles: arccos(S factor));
//   sums[2 x + half, i] = sum_j E_ij
//
// Reads X once and W once per 128 rows of the batch, both 16-bit (split: 2 x 16); writes 8 bytes per row and split.
// Grid (splits, row tiles): a block stays on its rows and walks over tiles_per_split tiles of classes, so that sums stay
// in registers and the next tile's loads run under this one's epilogue; two blocks a multiprocessor hide the rest. Each
// partial sum has one writer and a fixed order: no atomics, the same bits every time.
#pragma once

#include "cuda/kernels/angles.cuh"
#include "cuda/kernels/binary.cuh"
#include "cuda/kernels/sub_centers.cuh"
#include "cuda/kernels/transform.cuh"

namespace marginfc {

enum class NegativesMode { sums, hardest, above, binary, angles, shifted, transformed, transformed_hard };
template <NegativesMode kMode>
constexpr bool kTransforms = kMode >= NegativesMode::transformed;
template <NegativesMode kMode>
constexpr bool kFindsHardest = kMode == NegativesMode::hardest || kMode == NegativesMode::above ||
                               kMode == NegativesMode::binary || kMode == NegativesMode::transformed;
template <NegativesMode kMode>
constexpr bool kSumsHard = kMode == NegativesMode::transformed_hard;
template <NegativesMode kMode>
constexpr bool kCounts = kMode == NegativesMode::above || kSumsHard<kMode>;

// Sets the sums of padding classes and of the rows' own classes to -infinity, whose exponential is 0. `labels` are of
// the block's rows, `first` is the tile's first class. Most tiles hold neither, which costs a warp two loads (labels stay
// in the first-level cache; shared memory is left to the stages) and a vote.
template <class Shape>
__device__ __forceinline__ void mask_tile(TileSums<Shape>& sums, const int32_t* labels, int32_t first,
                                          int32_t classes) {
  bool own = false;
#pragma unroll
  for (int r = 0; r < Shape::warp_rows; r += 32)
    own |= static_cast<uint32_t>(__ldg(labels + TileSums<Shape>::warp_row() + r + (threadIdx.x & 31)) - first) <
           kTileSide;
  const int32_t left = classes - first;  // classes of this tile, or more
  if (!__any_sync(0xffffffff, own) && left >= kTileSide) return;
#pragma unroll
  for (int i = 0; i < TileSums<Shape>::kFragments; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int32_t label = __ldg(labels + TileSums<Shape>::row(i, h)) - first;
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int32_t column = TileSums<Shape>::template column<true>(j) + e;
          if (column == label || column >= left) sums.value[i][j][2 * h + e] = -INFINITY;
        }
    }
}

template <class T, NegativesMode kMode, bool kSubCenters>
__device__ __forceinline__ void negatives(const NegativesParameters& p) {
  extern __shared__ __align__(1024) uint8_t stages[];
  using Sums = TileSums<TileShape<T>>;
  constexpr int kFragments = Sums::kFragments;

  ClassTiles<T, true> tiles(p, stages);
  const int32_t* labels = p.labels + tiles.row0;

  float total[kFragments][2] = {}, largest[kFragments][2];
  uint32_t above = 0;  // counts up to kMostCounted in four bits for each row: there are no more registers
  // Of hard ones; numbers in 16 bits for each row, which hold those of 4095 tiles.
  float hard[kFragments][2] = {};
  uint32_t hard_count[kFragments] = {};
  float slopes[kFragments][2] = {};
#pragma unroll
  for (int i = 0; i < kFragments; i++) largest[i][0] = largest[i][1] = -INFINITY;
  for (int t = 0; t < tiles.count; t++) {
    Sums sums;
    tiles.loop.run(sums);
    const int32_t class0 = (tiles.first + t) * kTileSide;
    if constexpr (!kSubCenters) mask_tile(sums, labels, class0, p.classes);
#pragma unroll
    for (int i = 0; i < kFragments; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if constexpr (kSubCenters) keep_negatives(sums, i, h, labels, class0, p.sub_centers);
        // The tile's own sum first, then the running one: fewer roundings in a row.
        float part = 0;
        uint32_t count = 0;
        const int row = tiles.row0 + Sums::row(i, h);
        const float offset = kMode >= NegativesMode::shifted ? __ldg(p.offset + row) : 0;
        const float threshold = kCounts<kMode> || kTransforms<kMode> ? __ldg(p.threshold + row) : 0;
        const TransformedRow transformed(p.transform, threshold, offset);
        float hard_part = 0;
        BinarySums binary;
        with_power<kMode == NegativesMode::binary>(p.binary, [&](auto first_power) {
#pragma unroll
          for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const float s = sums.value[i][j][2 * h + e];
              if constexpr (kFindsHardest<kMode>) largest[i][h] = fmaxf(largest[i][h], s);
              if constexpr (kCounts<kMode>) count += s > threshold;
              if constexpr (kSumsHard<kMode>) hard_part += s > threshold ? s : 0;
              if constexpr (kMode == NegativesMode::binary)
                binary.add(p.binary, s, first_power);
              else if constexpr (kMode == NegativesMode::angles)
                part += angle_of(s, p.factor);
              else if constexpr (kTransforms<kMode>)
                part += transformed.exponential(s);
              else
                part += exp2_fast(kMode == NegativesMode::shifted ? fmaf(s, p.factor, -offset) : s);
            }
        });
        total[i][h] += kMode == NegativesMode::binary ? binary.logarithms() : part;
        if constexpr (kMode == NegativesMode::binary) slopes[i][h] += binary.slopes();
        if constexpr (kSumsHard<kMode>) {
          hard[i][h] += hard_part;
          hard_count[i] += count << 16 * h;
        }
        if constexpr (kMode == NegativesMode::above) {
          const uint32_t before = above >> 4 * (2 * i + h) & 15;
          above += (min(before + count, static_cast<uint32_t>(kMostCounted)) - before) << 4 * (2 * i + h);
        }
      }
  }

  // Four neighbouring lanes share a row.
  const int64_t partial = static_cast<int64_t>(blockIdx.x * 2 + Sums::warp_column() / 64) * p.padded_rows + tiles.row0;
#pragma unroll
  for (int i = 0; i < kFragments; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      uint32_t count = kSumsHard<kMode> ? hard_count[i] >> 16 * h & 0xffff : above >> 4 * (2 * i + h) & 15;
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        total[i][h] += __shfl_xor_sync(0xffffffff, total[i][h], distance);
        if constexpr (kFindsHardest<kMode>)
          largest[i][h] = fmaxf(largest[i][h], __shfl_xor_sync(0xffffffff, largest[i][h], distance));
        if constexpr (kCounts<kMode>) count += __shfl_xor_sync(0xffffffff, count, distance);
        if constexpr (kSumsHard<kMode>) hard[i][h] += __shfl_xor_sync(0xffffffff, hard[i][h], distance);
        if constexpr (kMode == NegativesMode::binary)
          slopes[i][h] += __shfl_xor_sync(0xffffffff, slopes[i][h], distance);
      }
      if ((threadIdx.x & 3) == 0) {
        p.sums[partial + Sums::row(i, h)] = total[i][h];
        if constexpr (kFindsHardest<kMode>) p.hardest[partial + Sums::row(i, h)] = largest[i][h];
        if constexpr (kCounts<kMode>) p.above[partial + Sums::row(i, h)] = static_cast<int32_t>(count);
        if constexpr (kSumsHard<kMode>) p.hard[partial + Sums::row(i, h)] = hard[i][h];
        if constexpr (kMode == NegativesMode::binary) p.slopes[partial + Sums::row(i, h)] = slopes[i][h];
      }
    }
}

}  // namespace marginfc
