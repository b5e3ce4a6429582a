// A row's negatives where their angles count (Batch::angles). Of an accumulator s, whose cosine c is s * unit:
//
//   theta = arccos |c|, or pi less that where c < 0;   1 / sin theta = 1 / sqrt(1 - c^2), at most 1 / kLeastSine
//
// Cosines may be off by what products of unit rows are, beyond 1 too. Masked accumulators are -infinity, and both are 0 of them.
#pragma once

#include "cuda/kernels/instructions.cuh"
#include "engine/arccos.h"

namespace marginfc {

__device__ __forceinline__ float angle_of(float s, float unit) {
  const float magnitude = fminf(fabsf(s) * unit, 1);
  const float acute = root_fast(1 - magnitude) * arccos_over_root(magnitude);
  const float angle = s < 0 ? 3.14159265f - acute : acute;
  return s == -INFINITY ? 0 : angle;
}

__device__ __forceinline__ float inverse_sine_of(float s, float unit) {
  const float cosine = s * unit;
  const float inverse = reciprocal_root_fast(fmaxf(fmaf(-cosine, cosine, 1), kLeastSine * kLeastSine));
  return s == -INFINITY ? 0 : inverse;
}

}  // namespace marginfc
