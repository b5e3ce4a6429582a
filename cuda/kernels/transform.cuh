// A row's negatives as a transform leaves them (docs/numerics.md#negatives-transform): two quadratics of accumulators, of
// which the row's threshold decides. Masked accumulators are -infinity, of which a quadratic knows nothing.
#pragma once

#include "cuda/kernels/instructions.cuh"
#include "cuda/parameters.h"

namespace marginfc {

class TransformedRow {
 public:
  // `away` is taken off exponents.
  __device__ __forceinline__ TransformedRow(const AccumulatorTransform& transform, float threshold, float away)
      : transform_(transform),
        threshold_(threshold),
        below_(transform.below.value[0] - away),
        above_(transform.above.value[0] - away) {}

  // E, and E G'; 0 of masked ones.
  __device__ __forceinline__ float exponential(float s) const { return exp2_fast(s == -INFINITY ? s : value(s)); }
  __device__ __forceinline__ float gradient(float s) const {
    return s == -INFINITY ? 0 : exp2_fast(value(s)) * slope(s);
  }

 private:
  __device__ __forceinline__ float value(float s) const {
    const bool above = s > threshold_;
    const float *low = transform_.below.value, *high = transform_.above.value;
    return fmaf(fmaf(above ? high[2] : low[2], s, above ? high[1] : low[1]), s, above ? above_ : below_);
  }
  __device__ __forceinline__ float slope(float s) const {
    const bool above = s > threshold_;
    const float *low = transform_.below.slope, *high = transform_.above.slope;
    return fmaf(above ? high[1] : low[1], s, above ? high[0] : low[0]);
  }

  const AccumulatorTransform& transform_;
  const float threshold_, below_, above_;
};

}  // namespace marginfc
