// What engines share of angles between unit rows in place of exponentials (Batch::angles). Includes nothing, for each instruction set
// and CUDA kernels compile it for themselves.
#pragma once

namespace marginfc {

// sin(theta) is not taken smaller than this in a quotient, where theta is of a float32 cosine.
constexpr float kLeastSine = 1e-3f;

// arccos(x) / sqrt(1 - x) for 0 <= x <= 1: Abramowitz and Stegun 4.4.46, whose arccos is off by 2e-8 at most. Of a float, or of a
// vector of them.
template <class Number>
#ifdef __CUDACC__
__device__ __forceinline__
#else
inline __attribute__((always_inline))
#endif
    Number arccos_over_root(Number x) {
  Number p = -0.0012624911f * x + 0.0066700901f;
  p = p * x - 0.0170881256f;
  p = p * x + 0.0308918810f;
  p = p * x - 0.0501743046f;
  p = p * x + 0.0889789874f;
  p = p * x - 0.2145988016f;
  return p * x + 1.5707963050f;
}

}  // namespace marginfc
