#include "engine/row_terms.h"

#include <algorithm>
#include <cmath>

#include "engine/margin.h"

namespace marginfc {

RowTermValues row_terms(const RowTerms& terms, const std::vector<Target>& targets, const std::vector<double>& row_scale,
                        RowTermSlopes* slopes) {
  const size_t rows = targets.size();
  slopes->by_cosine.assign(terms.intra ? rows : 0, 0.0);
  slopes->by_norm.assign(terms.ring ? rows : 0, 0.0);
  RowTermValues values;
  if (terms.intra)
    for (size_t i = 0; i < rows; i++) {
      if (row_scale[i] == 0) continue;
      const Target& target = targets[i];
      values.intra += row_scale[i] * std::atan2(target.sine, target.cosine) / kPi;
      slopes->by_cosine[i] = -row_scale[i] * *terms.intra / (kPi * std::max(target.sine, kSineFloor));
    }
  if (!terms.ring) return values;
  values.radius = terms.radius;
  if (std::isnan(terms.radius)) {
    double total = 0, weight = 0;
    for (size_t i = 0; i < rows; i++) {
      if (row_scale[i] == 0) continue;
      total += row_scale[i] * targets[i].feature_norm;
      weight += row_scale[i];
    }
    values.radius = total / weight;
  }
  for (size_t i = 0; i < rows; i++) {
    if (row_scale[i] == 0) continue;
    const double away = targets[i].feature_norm - values.radius;
    values.ring += row_scale[i] * away * away;
    values.radius_gradient -= 2 * row_scale[i] * away;
    slopes->by_norm[i] = row_scale[i] * *terms.ring * 2 * away;
  }
  return values;
}

}  // namespace marginfc
