// A few dozen neighbouring class rows, made ready for the kernels just before they use them, so that the rows'
// norms are taken while the rows come into the cache.
#pragma once

#include <cstdint>

#include "cpu/buffer_pool.h"
#include "cpu/kernels.h"
#include "engine/engine.h"

namespace marginfc {

// Most classes a block may have.
constexpr int32_t kMostBlockClasses = 256;

// One thread's memory for one block at a time.
class ClassBlock {
 public:
  // `gathers`: gather() will be called.
  [[nodiscard]] bool allocate(BufferPool& pool, const Kernels& kernels, Precision operands, Precision storage,
                              int32_t most_classes, int32_t dim, bool gathers);

  // Copies the rows `indexes` [classes] of an array of the storage type, for begin() or load_ordinary(): they lie one
  // behind the other, and in the cache.
  const void* gather(const void* weights, const int32_t* indexes, int32_t classes);

  // Rows `weights` [classes, dim] of the storage type, from shard index `first` on, without operands yet.
  //
  // Rows of ordinary length are used as they are and inverse_norm() carries 1 / |w|. From the first on that is so short or so
  // long that exp(z) / |w| might leave float32's range, or from some class before it, they are a normalised copy with
  // inverse_norm() 1; with float16 operands, whose range is short, all are.
  //
  // Without `for_gradient` gradient_operand() need not be there.
  void begin(const void* weights, int64_t first, int32_t classes, bool for_gradient);
  // Whether a product can make operands on its way; else make() has to.
  bool made_in_parts() const { return (operands_ == Precision::float32 || paired()) && kernels_->is_short(dim_); }
  // What the first product of the block is to make: no rows once all is made.
  UnmadeOperands unmade();
  // Classes between the one that is multiplied and the one whose row is read, at most.
  int32_t read_ahead() const;
  // Makes the operands at once, but for rows of no ordinary length: the number of classes before those.
  int32_t make();
  // After the first product, or make(), which got as far as class `done`, an even one or the last: the rest are a normalised copy,
  // with operands. Returns the index of the first row that holds a NaN or infinity, or -1.
  int64_t finish(int32_t done);
  // The same rows again for a gradient alone, stored in float32 and all ordinary() before: no operands, and the inverse_norm() of
  // then, [classes].
  void load_ordinary(const void* weights, int64_t first, int32_t classes, const float* inverse_norm);
  // Classes that are used as they are, the first ones: what finish() was told.
  int32_t ordinary() const { return ordinary_; }

  int64_t first() const { return first_; }
  int32_t classes() const { return classes_; }

  // The rows in float32, or unit rows of the copy, [classes, dim]: what gradients are projected with.
  const float* row(int32_t c) const { return rows_ + static_cast<int64_t>(c) * dim_; }

  // What the products multiply: see NegativesTask and FeatureGradientTask.
  const float* product_operand() const { return operand_; }
  int64_t product_stride() const { return operand_stride_; }
  const float* gradient_operand() const { return gradient_operand_; }
  int64_t gradient_stride() const { return gradient_stride_; }
  const float* gradient_tail() const { return has_tails() ? tails_.data() : nullptr; }
  const float* inverse_norm() const { return inverse_norm_.data(); }

  // The tangent gradient of a class is (sum - beta * row(c)) * inverse, where `sum` runs over rows of E * kappa * xh,
  // and `dot` is sum . row(c).
  void tangent(int32_t c, float dot, float* beta, float* inverse) const;
  // 1 / max(|w|, 1e-12) of a row as it is stored.
  double true_inverse(int32_t c) const { return is_unit(c) ? true_inverse_norm_[c] : inverse_norm_.data()[c]; }
  // What E was divided by: turns a sum over E into one over exp(z).
  double mass_scale(int32_t c) const { return 1.0 / inverse_norm_.data()[c]; }
  // False for rows too short to have a direction: w / 1e-12 is not projected.
  bool has_direction(int32_t c) const { return !is_unit(c) || has_direction_[c]; }

 private:
  // Whether operands are words of two bfloat16.
  bool paired() const { return operands_ == Precision::bfloat16 && kernels_->pairs; }
  // Whether the feature gradient's operand has columns behind its last full panel.
  bool has_tails() const { return !paired() && dim_ % panel_ != 0; }
  // Whether row(c) is normalised.
  bool is_unit(int32_t c) const { return c >= ordinary_; }
  void normalise(int32_t from);

  const Kernels* kernels_ = nullptr;
  Precision operands_ = Precision::float32;
  Precision storage_ = Precision::float32;
  int32_t dim_ = 0;
  int panel_ = 0;
  int64_t depth_ = 0, width_ = 0;  // of paired operands, in words
  int64_t first_ = 0;
  int32_t classes_ = 0;
  bool for_gradient_ = false;
  bool made_ = false;
  int32_t ordinary_ = 0;
  const float* rows_ = nullptr;
  float* words_ = nullptr;  // in rounded_
  const float* operand_ = nullptr;
  int64_t operand_stride_ = 0;
  const float* gradient_operand_ = nullptr;
  int64_t gradient_stride_ = 0;
  PooledBuffer gathered_;  // [most_classes, dim] of the storage type
  PooledBuffer wide_;      // [most_classes, dim]; rows of 16-bit storage in float32
  PooledBuffer copy_;      // [most_classes, dim]; the rows where some are unit rows
  PooledBuffer rounded_;  // 16-bit operands: [most_classes, dim] rounded, or words of the first product and half a line
  PooledBuffer interleaved_;   // paired operands: the words of the feature gradient
  PooledBuffer tails_;         // [most_classes, panel]
  PooledBuffer inverse_norm_;  // [most_classes]
  // Of unit rows:
  double true_inverse_norm_[kMostBlockClasses];
  bool has_direction_[kMostBlockClasses];
};

inline void ClassBlock::tangent(int32_t c, float dot, float* beta, float* inverse) const {
  if (is_unit(c)) {
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
