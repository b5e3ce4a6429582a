#include "engine/transform.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace marginfc {
namespace {

// Exponentials of up to this, and down to its negative, and their sums over 10M classes stay inside float32.
constexpr double kMostExponent = 64;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Calls visit(G) of the cosines where a quadratic has its extremes on [-1, 1].
template <typename Visit>
void at_extremes(const Quadratic& g, const Visit& visit) {
  const auto at = [&](double c) { visit(g.value[0] + c * (g.value[1] + c * g.value[2])); };
  at(-1);
  at(1);
  const double turn = g.value[2] == 0 ? kInfinity : -g.value[1] / (2 * g.value[2]);
  if (turn > -1 && turn < 1) at(turn);
}

}  // namespace

ExponentQuadratic of_exponents(const Quadratic& g, double unit, double factor) {
  const auto narrow = [](double value) { return static_cast<float>(value); };
  return {{narrow(g.value[0] * unit * factor), narrow(g.value[1] * factor), narrow(g.value[2] / unit * factor)},
          {narrow(g.slope[0]), narrow(g.slope[1] / unit)}};
}

// Logits less s * largest - kMostExponent cannot overflow. They may underflow where they range over more than twice
// kMostExponent; but that takes a row of which all negatives are about orthogonal or further away.
OffsetChoice choose_offset(const NegativesTransform* transform, double scale) {
  if (!transform) return {scale > kMostExponent ? Offsets::measured : Offsets::fixed};
  double largest = -kInfinity, smallest = kInfinity;
  for (const Quadratic* g : {&transform->below, &transform->above})
    at_extremes(*g, [&](double value) {
      largest = std::max(largest, value);
      smallest = std::min(smallest, value);
    });
  const double most = scale * largest, least = scale * smallest;
  const Offsets kind = most - least <= 2 * kMostExponent ? Offsets::fixed
                       : most <= 2 * kMostExponent       ? Offsets::tried
                                                         : Offsets::measured;
  return {kind, most - kMostExponent, least + kMostExponent};
}

bool loses_digits(double sum, int64_t classes) {
  return sum < static_cast<double>(classes) * std::ldexp(1.0, 24 - 126);
}

}  // namespace marginfc
