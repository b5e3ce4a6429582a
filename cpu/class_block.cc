#include "cpu/class_block.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/margin.h"

namespace marginfc {
namespace {

constexpr size_t kLineBytes = 64;

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
  width_ = (int64_t{dim} + panel_ - 1) / panel_ * panel_;
  depth_ = operand_words(kernels, dim);
  return rounded_.allocate(pool, static_cast<size_t>(most_classes) * depth_ + kLineBytes / (2 * sizeof(float))) &&
         interleaved_.allocate(pool, (static_cast<size_t>(most_classes) + 1) / 2 * width_);
}

const void* ClassBlock::gather(const void* weights, const int32_t* indexes, int32_t classes) {
  const size_t bytes = dim_ * byte_size(storage_);
  char* to = reinterpret_cast<char*>(gathered_.data());
  for (int32_t c = 0; c < classes; c++)
    std::memcpy(to + c * bytes, static_cast<const char*>(weights) + indexes[c] * bytes, bytes);
  return to;
}

void ClassBlock::begin(const void* weights, int64_t first, int32_t classes, bool for_gradient) {
  first_ = first;
  classes_ = ordinary_ = classes;
  for_gradient_ = for_gradient;
  made_ = false;
  rows_ = static_cast<const float*>(weights);
  if (storage_ != Precision::float32) {
    kernels_->widen(static_cast<const uint16_t*>(weights), int64_t{classes} * dim_, storage_ == Precision::float16,
                    wide_.data());
    rows_ = wide_.data();
  }
  words_ = rounded_.data();
  // As far from the beginning of a line of the cache as the numbers they are made of.
  if (paired() && made_in_parts()) words_ += reinterpret_cast<uintptr_t>(rows_) % kLineBytes / (2 * sizeof(float));
  operand_ = gradient_operand_ = operands_ == Precision::float32 ? rows_ : words_;
  operand_stride_ = gradient_stride_ = dim_;
  if (!paired()) return;
  operand_stride_ = depth_;
  gradient_operand_ = interleaved_.data();
  gradient_stride_ = width_;
}

UnmadeOperands ClassBlock::unmade() {
  if (made_) return {};
  return {rows_, dim_, words_, for_gradient_ ? interleaved_.data() : nullptr, inverse_norm_.data()};
}

int32_t ClassBlock::read_ahead() const {
  return made_in_parts() && storage_ == Precision::float32 ? std::min(kernels_->tile_classes, classes_) : classes_;
}

int32_t ClassBlock::make() {
  const UnmadeOperands to = unmade();
  if (operands_ == Precision::float16) return 0;
  const bool ordinary = paired()
                            ? kernels_->pair_classes(rows_, classes_, dim_, to.product, to.gradient, to.inverse_norm)
                            : kernels_->inverse_norms(rows_, classes_, dim_, to.inverse_norm);
  return ordinary ? classes_ : 0;
}

int64_t ClassBlock::finish(int32_t done) {
  ordinary_ = done;
  made_ = true;
  int64_t bad = -1;
  if (done < classes_) {
    normalise(done);
    for (int32_t c = classes_ - 1; c >= done; c--)
      if (!std::isfinite(true_inverse_norm_[c])) bad = first_ + c;
    if (operands_ == Precision::float32) operand_ = gradient_operand_ = rows_;
    if (paired())
      kernels_->pair_classes(row(done), classes_ - done, dim_, words_ + done * operand_stride_,
                             for_gradient_ ? interleaved_.data() + done / 2 * gradient_stride_ : nullptr, nullptr);
  }
  if (operands_ != Precision::float32 && !paired())
    kernels_->round(rows_, int64_t{classes_} * dim_, operands_ == Precision::float16, words_);
  if (for_gradient_ && has_tails()) kernels_->copy_tails(gradient_operand_, classes_, dim_, tails_.data());
  return bad;
}

void ClassBlock::load_ordinary(const void* weights, int64_t first, int32_t classes, const float* inverse_norm) {
  first_ = first;
  classes_ = ordinary_ = classes;
  made_ = true;
  rows_ = static_cast<const float*>(weights);
  std::memcpy(inverse_norm_.data(), inverse_norm, classes * sizeof(float));
}

void ClassBlock::normalise(int32_t from) {
  float* copy = copy_.data();
  std::memcpy(copy, rows_, static_cast<size_t>(from) * dim_ * sizeof(float));
  for (int32_t c = from; c < classes_; c++) {
    const float* given = row(c);
    const double norm = norm_of(given, dim_);
    has_direction_[c] = !(norm < kNormFloor);
    // An infinite norm must not look like a finite inverse of 0.
    true_inverse_norm_[c] = std::isfinite(norm) ? 1 / std::max(norm, kNormFloor) : std::nan("");
    float* unit = copy + static_cast<int64_t>(c) * dim_;
    for (int32_t d = 0; d < dim_; d++) unit[d] = static_cast<float>(given[d] * true_inverse_norm_[c]);
    inverse_norm_.data()[c] = 1;
  }
  rows_ = copy;
}

}  // namespace marginfc
