#include "cpu/class_block.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/margin.h"

namespace marginfc {
namespace {

double norm_of(const float* row, int32_t dim) {
  double total = 0;
  for (int32_t d = 0; d < dim; d++) total += static_cast<double>(row[d]) * row[d];
  return std::sqrt(total);
}

}  // namespace

bool ClassBlock::allocate(BufferPool& pool, const Kernels& kernels, Precision operands, Precision storage,
                          int32_t most_classes, int32_t dim, bool gathers) {
  kernels_ = &kernels;
  operands_ = operands;
  storage_ = storage;
  dim_ = dim;
  panel_ = kernels.panel;
  const size_t rows = static_cast<size_t>(most_classes) * dim, tails = static_cast<size_t>(most_classes) * panel_;
  if (!copy_.allocate(pool, rows) || !inverse_norm_.allocate(pool, most_classes)) return false;
  if (has_tails() && !tails_.allocate(pool, tails)) return false;
  if (gathers && !gathered_.allocate(pool, (rows * byte_size(storage) + 3) / 4)) return false;
  if (storage != Precision::float32 && !wide_.allocate(pool, rows)) return false;
  if (operands == Precision::float32) return true;
  if (!kernels.pairs) return rounded_.allocate(pool, rows);
  const size_t width = (static_cast<size_t>(dim) + panel_ - 1) / panel_ * panel_;
  depth_ = operand_words(kernels, dim);
  return rounded_.allocate(pool, static_cast<size_t>(most_classes) * depth_) &&
         interleaved_.allocate(pool, (static_cast<size_t>(most_classes) + 1) / 2 * width);
}

const void* ClassBlock::gather(const void* weights, const int32_t* indexes, int32_t classes) {
  const size_t bytes = dim_ * byte_size(storage_);
  char* to = reinterpret_cast<char*>(gathered_.data());
  for (int32_t c = 0; c < classes; c++)
    std::memcpy(to + c * bytes, static_cast<const char*>(weights) + indexes[c] * bytes, bytes);
  return to;
}

int64_t ClassBlock::load(const void* weights, int64_t first, int32_t classes, bool for_gradient) {
  first_ = first;
  classes_ = classes;
  rows_ = static_cast<const float*>(weights);
  if (storage_ != Precision::float32) {
    kernels_->widen(static_cast<const uint16_t*>(weights), int64_t{classes} * dim_, storage_ == Precision::float16,
                    wide_.data());
    rows_ = wide_.data();
  }
  float* pairs = for_gradient ? interleaved_.data() : nullptr;
  bool ordinary;
  if (paired())
    ordinary = kernels_->pair_classes(rows_, classes, dim_, rounded_.data(), pairs, inverse_norm_.data());
  else
    ordinary = kernels_->inverse_norms(rows_, dim_, classes, dim_, inverse_norm_.data());
  copied_ = operands_ == Precision::float16 || !ordinary;
  int64_t bad = -1;
  if (copied_) {
    normalise(rows_);
    for (int32_t c = classes - 1; c >= 0; c--)
      if (!std::isfinite(true_inverse_norm_[c])) bad = first + c;
    if (paired()) kernels_->pair_classes(rows_, classes, dim_, rounded_.data(), pairs, nullptr);
  }
  make_operands();
  if (for_gradient && has_tails()) kernels_->copy_tails(gradient_operand_, classes, dim_, tails_.data());
  return bad;
}

void ClassBlock::load_ordinary(const void* weights, int64_t first, int32_t classes, const float* inverse_norm) {
  first_ = first;
  classes_ = classes;
  rows_ = static_cast<const float*>(weights);
  copied_ = false;
  std::memcpy(inverse_norm_.data(), inverse_norm, classes * sizeof(float));
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

void ClassBlock::make_operands() {
  operand_ = gradient_operand_ = rows_;
  operand_stride_ = gradient_stride_ = dim_;
  if (operands_ == Precision::float32) return;
  operand_ = gradient_operand_ = rounded_.data();
  if (paired()) {
    operand_stride_ = depth_;
    gradient_operand_ = interleaved_.data();
    gradient_stride_ = (int64_t{dim_} + panel_ - 1) / panel_ * panel_;
    return;
  }
  kernels_->round(rows_, int64_t{classes_} * dim_, operands_ == Precision::float16, rounded_.data());
}

void ClassBlock::tangent(int32_t c, float dot, float* beta, float* inverse) const {
  if (copied_) {
    *beta = has_direction_[c] ? dot : 0.0f;
    *inverse = static_cast<float>(true_inverse_norm_[c]);
  } else {
    // E carried 1 / |w| already: dW = sum - (sum . wh) wh, and the dot was taken with w.
    const float inverse_norm = inverse_norm_.data()[c];
    *beta = dot * inverse_norm * inverse_norm;
    *inverse = 1;
  }
}

}  // namespace marginfc
