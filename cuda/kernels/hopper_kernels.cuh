// The tile kernels of 16-bit operands for compute capability 9.0: the formulas, bytes and grids of negatives.cuh,
// probabilities.cuh and products.cuh on the main loop of hopper.cuh. Each sum and each element has one writer and a fixed
// order: no atomics, the same bits every time. Elements are added up along the inner dimension in the same order as
// there; a row's sum over classes is split between the consumers, alternate tiles each.
#pragma once

#include "cuda/kernels/hopper.cuh"
#include "cuda/kernels/negatives.cuh"
#include "cuda/kernels/probabilities.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace marginfc {

// As mask_tile: the rows' own classes and padding to -infinity.
__device__ __forceinline__ void mask_tile(HopperSums<>& sums, const int32_t* labels, int32_t first, int32_t classes) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3;
  // The 32 rows of a warp: 16 of each half of the tile.
  const int32_t label = __ldg(labels + (lane >> 4) * 64 + warp * 16 + (lane & 15));
  const int32_t left = classes - first;  // classes of this tile, or more
  if (!__any_sync(0xffffffff, static_cast<uint32_t>(label - first) < kTileSide) && left >= kTileSide) return;
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int32_t own = __ldg(labels + HopperSums<>::row(i, h)) - first;
#pragma unroll
      for (int j = 0; j < 16; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int32_t column = HopperSums<>::column(j) + e;
          if (column == own || column >= left) sums.value[i][4 * j + 2 * h + e] = -INFINITY;
        }
    }
}

// As mma's: of value[i][4 * j + 2 * h] and [4 * j + 2 * h + 1].
__device__ __forceinline__ void keep_negatives(HopperSums<>& sums, int i, int h, const int32_t* labels, int32_t slot,
                                               const SubCenterColumns& p) {
  const int32_t label = __ldg(labels + HopperSums<>::row(i, h));
#pragma unroll
  for (int group = 0; group < kTileSide / kGroupSlots; group++)
    keep_negatives(p, slot, group, label,
                   [&](int n) -> float& { return sums.value[i][32 * group + n / 2 * 4 + 2 * h + n % 2]; });
}

// A block's split of the tiles of classes against its tile of rows.
template <class T, class Parameters>
struct HopperClasses {
  __device__ __forceinline__ HopperClasses(const Mapped<Parameters>& p, uint8_t* shared)
      : first(blockIdx.x * p.of.tiles_per_split),
        count(min(p.of.tiles_per_split, (p.of.classes + kTileSide - 1) / kTileSide - first)),
        row0(blockIdx.y * kTileSide),
        tiles(p.left, {p.left_row + row0, 0}, p.right, {p.right_row + first * kTileSide, 0}, (p.of.steps + 1) / 2,
              count, shared) {}
  const int first, count;
  const int32_t row0;
  HopperTiles<T, Along::inner, Along::inner> tiles;
};

template <class T, NegativesMode kMode, bool kSubCenters>
__device__ __forceinline__ void hopper_negatives(const Mapped<NegativesParameters>& m) {
  extern __shared__ __align__(1024) uint8_t stages[];
  const NegativesParameters& p = m.of;
  const HopperClasses<T, NegativesParameters> classes(m, stages);
  if (classes.tiles.produce()) return;
  const int consumer = classes.tiles.consumer();
  const int32_t* labels = p.labels + classes.row0;

  float total[2][2] = {}, largest[2][2], hard[2][2] = {}, slopes[2][2] = {};
  int32_t above[2][2] = {};
#pragma unroll
  for (int i = 0; i < 2; i++) largest[i][0] = largest[i][1] = -INFINITY;
  for (int t = consumer; t < classes.count; t += classes.tiles.kNext) {
    HopperSums<> sums;
    classes.tiles.run(sums, t);
    const int32_t class0 = (classes.first + t) * kTileSide;
    if constexpr (!kSubCenters) mask_tile(sums, labels, class0, p.classes);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if constexpr (kSubCenters) keep_negatives(sums, i, h, labels, class0, p.sub_centers);
        // The tile's own sum first, in two chains, then the running one.
        constexpr bool kOneChain = kSubCenters && kSumsHard<kMode>;  // there are no more registers
        float part[2] = {};
        const int row = classes.row0 + HopperSums<>::row(i, h);
        const float offset = kMode >= NegativesMode::shifted ? __ldg(p.offset + row) : 0;
        const float threshold = kCounts<kMode> || kTransforms<kMode> ? __ldg(p.threshold + row) : 0;
        const TransformedRow transformed(p.transform, threshold, offset);
        float hard_part = 0;
        BinarySums binary;
        with_power<kMode == NegativesMode::binary>(p.binary, [&](auto first_power) {
#pragma unroll
          for (int j = 0; j < 16; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const float s = sums.value[i][4 * j + 2 * h + e];
              if constexpr (kFindsHardest<kMode>) largest[i][h] = fmaxf(largest[i][h], s);
              if constexpr (kCounts<kMode>) above[i][h] += s > threshold;
              if constexpr (kSumsHard<kMode>) hard_part += s > threshold ? s : 0;
              if constexpr (kMode == NegativesMode::binary)
                binary.add(p.binary, s, first_power);
              else if constexpr (kTransforms<kMode>)
                part[kOneChain ? 0 : j / 8] += transformed.exponential(s);
              else
                part[kOneChain ? 0 : j / 8] += exp2_fast(kMode == NegativesMode::shifted ? fmaf(s, p.factor, -offset)
                                                                                         : s);
            }
        });
        total[i][h] += kMode == NegativesMode::binary ? binary.logarithms() : part[0] + part[1];
        if constexpr (kMode == NegativesMode::binary) slopes[i][h] += binary.slopes();
        if constexpr (kSumsHard<kMode>) hard[i][h] += hard_part;
      }
  }

  // Four neighbouring lanes share a row. Each consumer leaves a partial sum, 0 of no tile.
  const int64_t partial = static_cast<int64_t>(blockIdx.x * 2 + consumer) * p.padded_rows + classes.row0;
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        total[i][h] += __shfl_xor_sync(0xffffffff, total[i][h], distance);
        if constexpr (kFindsHardest<kMode>)
          largest[i][h] = fmaxf(largest[i][h], __shfl_xor_sync(0xffffffff, largest[i][h], distance));
        if constexpr (kCounts<kMode>) above[i][h] += __shfl_xor_sync(0xffffffff, above[i][h], distance);
        if constexpr (kSumsHard<kMode>) hard[i][h] += __shfl_xor_sync(0xffffffff, hard[i][h], distance);
        if constexpr (kMode == NegativesMode::binary)
          slopes[i][h] += __shfl_xor_sync(0xffffffff, slopes[i][h], distance);
      }
      if ((threadIdx.x & 3) == 0) {
        p.sums[partial + HopperSums<>::row(i, h)] = total[i][h];
        if constexpr (kFindsHardest<kMode>) p.hardest[partial + HopperSums<>::row(i, h)] = largest[i][h];
        if constexpr (kCounts<kMode>) p.above[partial + HopperSums<>::row(i, h)] = above[i][h];
        if constexpr (kSumsHard<kMode>) p.hard[partial + HopperSums<>::row(i, h)] = hard[i][h];
        if constexpr (kMode == NegativesMode::binary) p.slopes[partial + HopperSums<>::row(i, h)] = slopes[i][h];
      }
    }
}

// Word k of lane q of each four lanes to word q of lane k, so that what were neighbours across lanes leave in one store.
__device__ __forceinline__ uint4 transpose_quad(const uint32_t (&word)[4]) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
  uint32_t a[4], b[4];
#pragma unroll
  for (int k = 0; k < 4; k += 2) {
    const uint32_t got = __shfl_xor_sync(0xffffffff, odd ? word[k] : word[k + 1], 1);
    a[k] = odd ? got : word[k];
    a[k + 1] = odd ? word[k + 1] : got;
  }
#pragma unroll
  for (int k = 0; k < 2; k++) {
    const uint32_t got = __shfl_xor_sync(0xffffffff, upper ? a[k] : a[k + 2], 2);
    b[k] = upper ? got : a[k];
    b[k + 2] = upper ? a[k + 2] : got;
  }
  return make_uint4(b[0], b[1], b[2], b[3]);
}

template <class T, ProbabilitiesMode kMode, bool kSubCenters>
__device__ __forceinline__ void hopper_probabilities(const Mapped<ProbabilitiesParameters>& m) {
  extern __shared__ __align__(1024) uint8_t stages[];
  const ProbabilitiesParameters& p = m.of;
  const HopperClasses<T, ProbabilitiesParameters> classes(m, stages);
  if (classes.tiles.produce()) return;
  const int32_t* labels = p.labels + classes.row0;

  for (int t = classes.tiles.first(); t < classes.count; t += classes.tiles.kNext) {
    HopperSums<> sums;
    classes.tiles.run(sums, t);
    const int32_t class0 = (classes.first + t) * kTileSide;
    if constexpr (!kSubCenters) mask_tile(sums, labels, p.first_class + class0, p.first_class + p.classes);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if constexpr (kSubCenters) keep_negatives(sums, i, h, labels, p.first_class + class0, p.sub_centers);
        const int row = HopperSums<>::row(i, h);
        const ProbabilitiesRow<kMode> probabilities(p, classes.row0 + row);
        uint16_t* to = p.probabilities + static_cast<int64_t>(classes.row0 + row) * p.stride + class0;
        with_power<kMode == ProbabilitiesMode::binary>(p.binary, [&](auto first_power) {
#pragma unroll
          for (int g = 0; g < 4; g++) {
            uint32_t words[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
              const float* pair = sums.value[i] + 4 * (4 * g + k) + 2 * h;
              words[k] = T::pack(probabilities.of(pair[0], first_power), probabilities.of(pair[1], first_power));
            }
            __stcg(reinterpret_cast<uint4*>(to + g * 32 + (threadIdx.x & 3) * 8), transpose_quad(words));
          }
        });
      }
  }
}

template <class T, Along kLeft, Share kShare>
__device__ __forceinline__ void hopper_product(const Mapped<ProductParameters>& m) {
  extern __shared__ __align__(1024) uint8_t stages[];
  using Tiles = HopperTiles<T, kLeft, Along::outer, kShare>;
  using Sums = HopperSums<kShare>;
  const ProductParameters& p = m.of;
  const int32_t row0 = blockIdx.y * kTileSide, first = blockIdx.x * m.tiles_per_block;
  const int count = min(m.tiles_per_block, p.width / Sums::kColumns - first);
  // In steps of 32, an even number of them.
  const int32_t step0 = blockIdx.z * p.steps_per_split, inner = step0 * kStageDepth;
  const int steps = min(p.steps_per_split, p.steps - step0) / 2;
  const typename Tiles::Corner left = kLeft == Along::inner ? typename Tiles::Corner{m.left_row + row0, inner}
                                                            : typename Tiles::Corner{row0, m.left_row + inner};
  const Tiles tiles(m.left, left, m.right, {first * Sums::kColumns, m.right_row + inner}, steps, count, stages);
  if (tiles.produce()) return;

  for (int t = tiles.first(); t < count; t += tiles.kNext) {
    Sums sums;
    tiles.run(sums, t);
    float* out = p.out + blockIdx.z * p.split_stride + static_cast<int64_t>(row0) * p.width +
                 (first + t) * Sums::kColumns;
#pragma unroll
    for (int i = 0; i < Sums::kParts; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float* to = out + static_cast<int64_t>(Sums::row(i, h)) * p.width;
#pragma unroll
        for (int j = 0; j < Sums::kColumns / 8; j++) {
          const float* pair = sums.value[i] + 4 * j + 2 * h;
          __stcg(reinterpret_cast<float2*>(to + Sums::column(j)), make_float2(pair[0], pair[1]));
        }
      }
  }
}

}  // namespace marginfc

// By name, for each operand type. A block a multiprocessor.
#define MARGINFC_HOPPER_KERNEL extern "C" __global__ void __launch_bounds__(marginfc::kHopperThreads, 1)
#define MARGINFC_HOPPER_NEGATIVES(T, mode, sub_centers, name)                                              \
  MARGINFC_HOPPER_KERNEL name(const __grid_constant__ marginfc::Mapped<marginfc::NegativesParameters> p) { \
    marginfc::hopper_negatives<T, marginfc::NegativesMode::mode, sub_centers>(p);                          \
  }
#define MARGINFC_HOPPER_PROBABILITIES(T, mode, sub_centers, name)                                              \
  MARGINFC_HOPPER_KERNEL name(const __grid_constant__ marginfc::Mapped<marginfc::ProbabilitiesParameters> p) { \
    marginfc::hopper_probabilities<T, marginfc::ProbabilitiesMode::mode, sub_centers>(p);                      \
  }
#define MARGINFC_HOPPER_PRODUCT(T, along, share, name)                                                   \
  MARGINFC_HOPPER_KERNEL name(const __grid_constant__ marginfc::Mapped<marginfc::ProductParameters> p) { \
    marginfc::hopper_product<T, marginfc::Along::along, marginfc::Share::share>(p);                      \
  }
#define MARGINFC_HOPPER_KERNELS(T, name)                                                                     \
  extern "C" __device__ int32_t hopper_threads_##name = marginfc::kHopperThreads;                            \
  extern "C" __device__ int32_t hopper_bytes_##name = marginfc::kHopperBytes;                                \
  MARGINFC_HOPPER_NEGATIVES(T, sums, false, hopper_negatives_##name)                                         \
  MARGINFC_HOPPER_NEGATIVES(T, hardest, false, hopper_negatives_hardest_##name)                              \
  MARGINFC_HOPPER_NEGATIVES(T, above, false, hopper_negatives_above_##name)                                  \
  MARGINFC_HOPPER_NEGATIVES(T, binary, false, hopper_negatives_binary_##name)                                \
  MARGINFC_HOPPER_NEGATIVES(T, shifted, false, hopper_negatives_shifted_##name)                              \
  MARGINFC_HOPPER_NEGATIVES(T, transformed, false, hopper_negatives_transformed_##name)                      \
  MARGINFC_HOPPER_NEGATIVES(T, transformed_hard, false, hopper_negatives_transformed_hard_##name)            \
  MARGINFC_HOPPER_PROBABILITIES(T, softmax, false, hopper_probabilities_##name)                              \
  MARGINFC_HOPPER_PROBABILITIES(T, transformed, false, hopper_probabilities_transformed_##name)              \
  MARGINFC_HOPPER_PROBABILITIES(T, binary, false, hopper_probabilities_binary_##name)                        \
  MARGINFC_HOPPER_NEGATIVES(T, hardest, true, hopper_negatives_hardest_sub_centers_##name)                   \
  MARGINFC_HOPPER_NEGATIVES(T, above, true, hopper_negatives_above_sub_centers_##name)                       \
  MARGINFC_HOPPER_NEGATIVES(T, binary, true, hopper_negatives_binary_sub_centers_##name)                     \
  MARGINFC_HOPPER_NEGATIVES(T, shifted, true, hopper_negatives_shifted_sub_centers_##name)                   \
  MARGINFC_HOPPER_NEGATIVES(T, transformed, true, hopper_negatives_transformed_sub_centers_##name)           \
  MARGINFC_HOPPER_NEGATIVES(T, transformed_hard, true, hopper_negatives_transformed_hard_sub_centers_##name) \
  MARGINFC_HOPPER_PROBABILITIES(T, softmax, true, hopper_probabilities_sub_centers_##name)                   \
  MARGINFC_HOPPER_PROBABILITIES(T, transformed, true, hopper_probabilities_transformed_sub_centers_##name)   \
  MARGINFC_HOPPER_PROBABILITIES(T, binary, true, hopper_probabilities_binary_sub_centers_##name)             \
  MARGINFC_HOPPER_PRODUCT(T, inner, turns, hopper_features_product_##name)                                   \
  MARGINFC_HOPPER_PRODUCT(T, outer, turns, hopper_weights_product_##name)                                    \
  MARGINFC_HOPPER_PRODUCT(T, inner, halves, hopper_features_product_wide_##name)                             \
  MARGINFC_HOPPER_PRODUCT(T, outer, halves, hopper_weights_product_wide_##name)

MARGINFC_HOPPER_KERNELS(marginfc::Float16, float16)
MARGINFC_HOPPER_KERNELS(marginfc::Bfloat16, bfloat16)

#endif
