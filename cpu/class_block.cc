#include "cpu/class_block.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/margin.h"

namespace marginfc {
namespace {

// Squared norms in between are exact enough in float32 and leave exp(z) / |w| far from its ends: e^64 * 1e6
// and e^-64 / 1e6 are both normal numbers.
constexpr float kShortest = 1e-12f;
constexpr float kLongest = 1e12f;

double norm_of(const float* row, int32_t dim) {
  double total = 0;
  for (int32_t d = 0; d < dim; d++) total += static_cast<double>(row[d]) * row[d];
  return std::sqrt(total);
}

}  // namespace

bool ClassBlock::allocate(int32_t most_classes, int32_t dim, int panel) {
  dim_ = dim;
  panel_ = panel;
  tail_width_ = dim % panel;
  return copy_.allocate(static_cast<size_t>(most_classes) * dim) &&
         tail_.allocate(static_cast<size_t>(most_classes) * panel) && inverse_norm_.allocate(most_classes);
}

int64_t ClassBlock::load(const Kernels& kernels, const float* weights, int64_t first, int32_t classes) {
  first_ = first;
  classes_ = classes;
  rows_ = weights;
  copied_ = false;
  float* inverse = inverse_norm_.data();
  kernels.square_norms(weights, dim_, classes, dim_, inverse);
  for (int32_t c = 0; c < classes; c++) copied_ |= !(inverse[c] >= kShortest && inverse[c] <= kLongest);

  int64_t bad = -1;
  if (copied_) {
    normalise(weights);
    for (int32_t c = classes - 1; c >= 0; c--)
      if (!std::isfinite(true_inverse_norm_[c])) bad = first + c;
  } else {
    for (int32_t c = 0; c < classes; c++) {
      true_inverse_norm_[c] = 1 / std::sqrt(static_cast<double>(inverse[c]));
      has_direction_[c] = true;
      inverse[c] = static_cast<float>(true_inverse_norm_[c]);
    }
  }

  if (tail_width_) {
    const int64_t start = dim_ - tail_width_;
    for (int32_t c = 0; c < classes; c++) {
      float* tail = tail_.data() + static_cast<int64_t>(c) * panel_;
      std::memcpy(tail, row(c) + start, tail_width_ * sizeof(float));
      std::fill(tail + tail_width_, tail + panel_, 0.0f);
    }
  }
  return bad;
}

void ClassBlock::normalise(const float* weights) {
  for (int32_t c = 0; c < classes_; c++) {
    const float* row = weights + static_cast<int64_t>(c) * dim_;
    const double norm = norm_of(row, dim_);
    has_direction_[c] = !(norm < kNormFloor);
    // An infinite norm must not look like a finite inverse of 0.
    true_inverse_norm_[c] = std::isfinite(norm) ? 1 / std::max(norm, kNormFloor) : std::nan("");
    float* unit = copy_.data() + static_cast<int64_t>(c) * dim_;
    for (int32_t d = 0; d < dim_; d++) unit[d] = static_cast<float>(row[d] * true_inverse_norm_[c]);
    inverse_norm_.data()[c] = 1;
  }
  rows_ = copy_.data();
}

void ClassBlock::tangent(int32_t c, float dot, float* beta, float* inverse) const {
  if (copied_) {
    *beta = has_direction_[c] ? dot : 0.0f;
    *inverse = static_cast<float>(true_inverse_norm_[c]);
  } else {
    // E carried 1 / |w| already: dW = sum - (sum . wh) wh, and the dot was taken with w.
    *beta = static_cast<float>(dot * true_inverse_norm_[c] * true_inverse_norm_[c]);
    *inverse = 1;
  }
}

}  // namespace marginfc
