// What engines make of a NegativesTransform: quadratics of exponents, and the offset that keeps exponentials in float32's range.
#pragma once

#include "engine/engine.h"
#include "engine/exponent_quadratic.h"

namespace marginfc {

// Of exponents, `unit` times cosines; the result is `factor` times that.
ExponentQuadratic of_exponents(const Quadratic& g, double unit, double factor = 1);

// Where logits are taken from before they become exponentials: from the same everywhere; from what holds unless loses_digits()
// says otherwise of a row's sum; or from each row's largest.
enum class Offsets { fixed, tried, measured };
struct OffsetChoice {
  Offsets kind = Offsets::fixed;
  double offset = 0;  // with which nothing overflows
  double least = 0;   // with which nothing underflows, where that is less
};
// `transform`: null where there is none.
OffsetChoice choose_offset(const NegativesTransform* transform, double scale);

// Whether a sum of `classes` exponentials, each 2^-126 at least, may have lost digits to underflow.
bool loses_digits(double sum, int64_t classes);

}  // namespace marginfc
