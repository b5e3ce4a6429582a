// A few dozen neighbouring class rows, made ready for the kernels just before they use them, so that the rows'
// norms are taken while the rows come into the cache.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/memory.h"

namespace marginfc {

// Most classes a block may have.
constexpr int32_t kMostBlockClasses = 128;

// One thread's memory for one block at a time.
class ClassBlock {
 public:
  [[nodiscard]] bool allocate(int32_t most_classes, int32_t dim, int panel);

  // Rows `weights`[classes, dim] from shard index `first` on. Returns the index of the first row that holds a
  // NaN or infinity, or -1.
  //
  // Rows of ordinary length are used as they are and inverse_norm() carries 1 / |w|. A row so short or so long
  // that exp(z) / |w| might leave float32's range makes the whole block a normalised copy with inverse_norm() 1.
  int64_t load(const Kernels& kernels, const float* weights, int64_t first, int32_t classes);

  int64_t first() const { return first_; }
  int32_t classes() const { return classes_; }
  // [classes, dim]: the rows, or unit rows of the copy.
  const float* rows() const { return rows_; }
  const float* row(int32_t c) const { return rows_ + static_cast<int64_t>(c) * dim_; }
  // [classes, panel], the columns behind the last full panel, zero padded; null if there are none.
  const float* tail() const { return tail_width_ ? tail_.data() : nullptr; }
  const float* inverse_norm() const { return inverse_norm_.data(); }

  // The tangent gradient of a class is (sum - beta * row(c)) * inverse, where `sum` runs over rows of E * kappa * xh
  // and `dot` is sum . row(c).
  void tangent(int32_t c, float dot, float* beta, float* inverse) const;
  // 1 / max(|w|, 1e-12).
  double true_inverse_norm(int32_t c) const { return true_inverse_norm_[c]; }
  // False for rows too short to have a direction: w / 1e-12 is not projected.
  bool has_direction(int32_t c) const { return has_direction_[c]; }

 private:
  void normalise(const float* weights);

  int32_t dim_ = 0;
  int panel_ = 0;
  int32_t tail_width_ = 0;
  int64_t first_ = 0;
  int32_t classes_ = 0;
  bool copied_ = false;
  const float* rows_ = nullptr;
  FloatBuffer copy_;          // [most_classes, dim]
  FloatBuffer tail_;          // [most_classes, panel]
  FloatBuffer inverse_norm_;  // [most_classes]
  double true_inverse_norm_[kMostBlockClasses];
  bool has_direction_[kMostBlockClasses];
};

}  // namespace marginfc
