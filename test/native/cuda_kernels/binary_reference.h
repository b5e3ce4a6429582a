// A binary cross-entropy of an accumulator in float64, and how far off a kernel may be that has the accumulator to
// kAccumulatorError.
#pragma once

#include <cmath>

#include "cuda/parameters.h"

namespace marginfc::check {

constexpr double kAccumulatorError = 5e-5;

// For accumulators of cosines, 64 log2 e times: powers of no, one and every bit, and logits on both sides of 0, with few and with
// most negatives on the right one.
constexpr AccumulatorBinary kBinaries[] = {
    {1, 0, -5, 0, 1, 0}, {0.03f, 2.8f, -23, 2, 0.03f, 0}, {0.0075f, 0.69f, -2, 15, 0.5f, 0.25f}};

struct BinaryReference {
  BinaryReference(const AccumulatorBinary& of, double s) {
    const double root = s * of.root_unit + of.root_zero, power = std::pow(root, of.exponent),
                 z = power * root + of.constant;
    const double steep = (of.exponent + 1) * power * of.root_unit;
    const double small = std::exp2(-std::fabs(z));
    logarithm = std::fmax(z, 0) + std::log1p(small) / std::log(2.0);
    sigmoid = (z > 0 ? 1 : small) / (1 + small);
    slope = power * of.slope_factor + of.slope_constant;
    const double rounding = (of.exponent + 2) * 0x1p-23;
    off = std::fabs(steep) * kAccumulatorError + rounding * (std::fabs(power * root) + std::fabs(of.constant));
    slope_off = of.slope_factor * (rounding * std::fabs(power) +
                                   of.exponent * std::fabs(power / root) * of.root_unit * kAccumulatorError);
  }

  double logarithm, sigmoid, slope;  // log2(1 + 2^z), its derivative, and what multiplies this in the gradient
  double off, slope_off;             // of z, and of slope
};

}  // namespace marginfc::check
