#include "engine/feature_terms.h"

#include <algorithm>
#include <new>

namespace marginfc {

float* FeatureTerms::center_of(int64_t i) const {
  const int32_t label = batch_.labels[i];
  const ClassRange range = options_.center->range;
  if (label < range.start || label >= range.end) return nullptr;
  return options_.center->centers + (label - range.start) * batch_.dim;
}

float* FeatureTerms::wanted_features() {
  if (!options_.center || batch_.place == Place::host) return nullptr;
  features_.resize(batch_.rows * batch_.dim);
  return features_.data();
}

Status FeatureTerms::find(const std::vector<double>& row_scale, bool mean, FeatureTermValues* values) try {
  row_scale_ = row_scale;
  if (options_.center) {
    owners_ = find_owners(batch_, options_.center->range);
    row_.resize(batch_.dim);
    for (int64_t i = 0; i < batch_.rows; i++) {
      const float* center = center_of(i);
      if (!center) continue;
      const float* x = feature_row(i);
      double square = 0;
      for (int32_t d = 0; d < batch_.dim; d++) {
        const double away = static_cast<double>(x[d]) - center[d];
        square += away * away;
      }
      values->center += row_scale_[i] * square / 2;
    }
  }
  if (options_.triplet) {
    MARGINFC_TRY(options_.engine->triplets(batch_, options_.triplet->rule, row_scale_, mean, &triplets_));
    values->triplet = triplets_.value;
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

void FeatureTerms::add_gradient(double factor, float* gradient) const {
  if (options_.center)
    for (int64_t i = 0; i < batch_.rows; i++) {
      const float* center = center_of(i);
      if (!center) continue;
      const float* x = feature_row(i);
      float* to = gradient + i * batch_.dim;
      const double scale = factor * options_.center->weight * row_scale_[i];
      for (int32_t d = 0; d < batch_.dim; d++)
        to[d] = static_cast<float>(to[d] + scale * (static_cast<double>(x[d]) - center[d]));
    }
  if (options_.triplet) {
    const double scale = factor * options_.triplet->weight;
    for (size_t e = 0; e < triplets_.gradient.size(); e++)
      gradient[e] = static_cast<float>(gradient[e] + scale * triplets_.gradient[e]);
  }
}

void FeatureTerms::move_centers(double rate) {
  for (size_t first = 0, last = 0; first < owners_.size(); first = last) {
    std::fill(row_.begin(), row_.end(), 0.0);
    float* center = options_.center->centers + static_cast<int64_t>(owners_[first].index) * batch_.dim;
    for (; last < owners_.size() && owners_[last].index == owners_[first].index; last++) {
      const float* x = feature_row(owners_[last].row);
      for (int32_t d = 0; d < batch_.dim; d++) row_[d] += static_cast<double>(center[d]) - x[d];
    }
    const double scale = rate / static_cast<double>(1 + last - first);
    for (int32_t d = 0; d < batch_.dim; d++) center[d] = static_cast<float>(center[d] - scale * row_[d]);
  }
}

}  // namespace marginfc
