// Phase 4, first product: P of a chunk of classes, small enough to stay in the L2 cache until dX and dW have read it; and
// the cosines of a chunk, for nearest().
//
//   P = exp2(X W^T factor - shift), 0 for the row's own class and for padding, in the operands' type; transformed:
//   P = exp2(G(X W^T) - shift) G'(X W^T); binary: P = sigmoid(z(X W^T)) g'(X W^T) / exp2(shift); angles: P = 1 / (sin arccos(X W^T
//   factor) exp2(shift))
//
// Normalised by the row's sum over negatives (the shift), so that float16 neither overflows nor, in a confident batch,
// underflows. Reads X and W as negatives does, writes 2 bytes an element (split: 4) in stores of 16. Grid (splits, row
// tiles). Each element has one writer.
#pragma once

#include "cuda/kernels/negatives.cuh"

namespace marginfc {

template <class T>
__device__ __forceinline__ void store_probabilities(const float (&values)[8], uint16_t* to, int64_t low) {
  uint32_t high_words[4];
#pragma unroll
  for (int k = 0; k < 4; k++) high_words[k] = T::pack(values[2 * k], values[2 * k + 1]);
  __stcg(reinterpret_cast<uint4*>(to), make_uint4(high_words[0], high_words[1], high_words[2], high_words[3]));
  if constexpr (Halves<T>::count == 2) {
    uint32_t low_words[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float2 high = T::unpack(high_words[k]);
      low_words[k] = T::pack(values[2 * k] - high.x, values[2 * k + 1] - high.y);
    }
    __stcg(reinterpret_cast<uint4*>(to + low), make_uint4(low_words[0], low_words[1], low_words[2], low_words[3]));
  }
}

enum class ProbabilitiesMode { softmax, transformed, binary, angles };

// P of one row's accumulators.
template <ProbabilitiesMode kMode>
class ProbabilitiesRow {
 public:
  __device__ __forceinline__ ProbabilitiesRow(const ProbabilitiesParameters& p, int32_t row)
      : p_(p),
        shift_(__ldg(p.shift + row)),
        binary_(p.binary, kMode == ProbabilitiesMode::binary ? exp2_fast(-shift_) : 0),
        transformed_(p.transform, kMode == ProbabilitiesMode::transformed ? __ldg(p.threshold + row) : 0, shift_) {}

  // By FirstPower.
  template <class Power>
  __device__ __forceinline__ float of(float s, Power first_power) const {
    if constexpr (kMode == ProbabilitiesMode::transformed) return transformed_.gradient(s);
    if constexpr (kMode == ProbabilitiesMode::binary) return binary_.gradient(s, first_power);
    if constexpr (kMode == ProbabilitiesMode::angles) return inverse_sine_of(s, p_.factor) * exp2_fast(-shift_);
    return exp2_fast(fmaf(s, p_.factor, -shift_));
  }

 private:
  const ProbabilitiesParameters& p_;
  const float shift_;
  const BinaryRow binary_;
  const TransformedRow transformed_;
};

template <class T, ProbabilitiesMode kMode, bool kSubCenters>
__device__ __forceinline__ void probabilities(const ProbabilitiesParameters& p) {
  using Sums = TileSums<TileShape<T>>;
  extern __shared__ __align__(1024) uint8_t stages[];

  ClassTiles<T, true> tiles(p, stages);
  const int32_t* labels = p.labels + tiles.row0;

  for (int t = 0; t < tiles.count; t++) {
    Sums sums;
    tiles.loop.run(sums);
    const int32_t class0 = (tiles.first + t) * kTileSide;
    if constexpr (!kSubCenters) mask_tile(sums, labels, p.first_class + class0, p.first_class + p.classes);
#pragma unroll
    for (int i = 0; i < Sums::kFragments; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if constexpr (kSubCenters) keep_negatives(sums, i, h, labels, p.first_class + class0, p.sub_centers);
        const int row = Sums::row(i, h);
        const ProbabilitiesRow<kMode> probabilities(p, tiles.row0 + row);
        with_power<kMode == ProbabilitiesMode::binary>(p.binary, [&](auto first_power) {
#pragma unroll
          for (int g = 0; g < 2; g++) {
            // In the loop, or it has a register that sm_75 has not.
            uint16_t* to = p.probabilities + static_cast<int64_t>(tiles.row0 + row) * p.stride + class0;
            const int column = Sums::template column<true>(4 * g);
            float values[8];
#pragma unroll
            for (int k = 0; k < 8; k++)
              values[k] = probabilities.of(sums.value[i][4 * g + k / 2][2 * h + k % 2], first_power);
            store_probabilities<T>(values, to + column, p.low);
          }
        });
      }
  }
}

template <class T>
__device__ __forceinline__ void cosines(const CosinesParameters& p) {
  using Sums = TileSums<TileShape<T>>;
  extern __shared__ __align__(1024) uint8_t stages[];
  ClassTiles<T, false> tiles(p, stages);

  for (int t = 0; t < tiles.count; t++) {
    Sums sums;
    tiles.loop.run(sums);
    float* out = p.cosines + static_cast<int64_t>(tiles.row0) * p.stride + (tiles.first + t) * kTileSide;
    sums.for_pairs([&](int row, int column, float2 pair) {
      __stcg(reinterpret_cast<float2*>(out + static_cast<int64_t>(row) * p.stride + column), pair);
    });
  }
}

}  // namespace marginfc
