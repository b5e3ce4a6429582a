// A row's negatives where each logit has a cross-entropy of its own (docs/numerics.md#a-binary-cross-entropy-of-each-logit). With
// E = 2^-|z|, z in log2 units, which neither overflows nor needs an offset:
//
//   log2(1 + 2^z) = max(z, 0) + log2(1 + E),   sigmoid = 1 / (1 + E) where z > 0, else E / (1 + E)
//
// The logarithms of a row and tile are that of the product of 1 + E, kept as the product less 1, in which no small E is lost:
// (1 + product) (1 + E) - 1 = product (1 + E) + E. Masked accumulators are -infinity, as which the first power leaves them; of
// others z is not a number.
#pragma once

#include "cuda/kernels/instructions.cuh"
#include "cuda/parameters.h"

namespace marginfc {

// Of q >= 0 below 2^126, to a part of 3e-6 of the result however small q is.
__device__ __forceinline__ float log2_of_one_plus(float q) {
  constexpr float kLog2OfE = 1.44269504f;
  // Where q is small 1 + q has not its digits; the series leaves q^7 / 7 out.
  float series = fmaf(q, -1.0f / 6, 1.0f / 5);
  series = fmaf(q, series, -1.0f / 4);
  series = fmaf(q, series, 1.0f / 3);
  series = fmaf(q, series, -1.0f / 2);
  series = fmaf(q, series, 1.0f);
  return q < 0.0625f ? q * series * kLog2OfE : log2_fast(1 + q);
}

// As a type: whether z is of the first power, for which no powers are made and no masked accumulators looked for.
template <bool kValue>
struct FirstPower {
  static constexpr bool value = kValue;
};

// Calls `use` with what it is of a kernel's elements, all of which have the same power: a branch outside of their loop.
template <bool kBinary, class Use>
__device__ __forceinline__ void with_power(const AccumulatorBinary& of, const Use& use) {
  if (kBinary && of.exponent == 0)
    use(FirstPower<true>());
  else
    use(FirstPower<false>());
}

// z, and the power that the gradient's factor is made of.
template <bool kFirstPower>
struct BinaryLogit;

template <>
struct BinaryLogit<true> {
  __device__ __forceinline__ BinaryLogit(const AccumulatorBinary& of, float s)
      : power(1), z(fmaf(s, of.root_unit, of.constant)) {}
  float power, z;
};

template <>
struct BinaryLogit<false> {
  __device__ __forceinline__ BinaryLogit(const AccumulatorBinary& of, float s) {
    const float root = fmaf(s, of.root_unit, of.root_zero);
    float square = root;
    power = of.exponent & 1 ? root : 1;
#pragma unroll
    for (int bit = 2; bit <= kMostBinaryExponent; bit *= 2) {
      square *= square;
      power = of.exponent & bit ? power * square : power;
    }
    z = fmaf(power, root, of.constant);
  }
  float power, z;
};

struct Softplus {
  __device__ __forceinline__ explicit Softplus(float z)
      : bounded(fmaxf(z, 0)), small(exp2_fast(-fabsf(z))), sigmoid((z > 0 ? 1 : small) * reciprocal_fast(1 + small)) {}
  float bounded;  // max(z, 0)
  float small;    // E
  float sigmoid;
};

// Of some of a row's negatives: the sums of log2(1 + 2^z) and of its derivatives.
class BinarySums {
 public:
  template <bool kFirstPower>
  __device__ __forceinline__ void add(const AccumulatorBinary& of, float s, FirstPower<kFirstPower>) {
    const float z = BinaryLogit<kFirstPower>(of, s).z;
    const Softplus softplus(!kFirstPower && s == -INFINITY ? s : z);
    product_ = fmaf(product_, 1 + softplus.small, softplus.small);
    bounded_ += softplus.bounded;
    slopes_ += softplus.sigmoid;
  }
  __device__ __forceinline__ float logarithms() const { return bounded_ + log2_of_one_plus(product_); }
  __device__ __forceinline__ float slopes() const { return slopes_; }

 private:
  // Of 32 elements at most, each 2 at most.
  float product_ = 0, bounded_ = 0, slopes_ = 0;
};

// The gradient's factors of a row, times `scale`.
class BinaryRow {
 public:
  __device__ __forceinline__ BinaryRow(const AccumulatorBinary& of, float scale)
      : of_(of), factor_(of.slope_factor * scale), constant_(of.slope_constant * scale) {}

  // 0 of masked ones.
  template <bool kFirstPower>
  __device__ __forceinline__ float gradient(float s, FirstPower<kFirstPower>) const {
    const BinaryLogit<kFirstPower> logit(of_, s);
    const float slope = Softplus(logit.z).sigmoid * fmaf(logit.power, factor_, constant_);
    return !kFirstPower && s == -INFINITY ? 0 : slope;
  }

 private:
  const AccumulatorBinary& of_;
  const float factor_, constant_;
};

}  // namespace marginfc
