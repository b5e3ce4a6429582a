// Phase 2 of a pass with a transform of negatives, docs/numerics.md: what the kernels are told of it, offsets, and products of
// their own for what the kernels that transform do not find.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/pass.h"
#include "engine/transform.h"

namespace marginfc::cuda {
namespace {

// The least power of two that no slope of cosines is above.
int exponent_of_slopes(const NegativesTransform& transform) {
  double steepest = 0;
  for (const Quadratic* g : {&transform.below, &transform.above})
    steepest = std::max(steepest, std::fabs(g->slope[0]) + std::fabs(g->slope[1]));
  return steepest > 0 ? static_cast<int>(std::ceil(std::log2(steepest))) : 0;
}

// Offsets by which neither a row's sum overflows nor its digits are lost, between those that are known to do the one and the
// other.
class OffsetSearch {
 public:
  OffsetSearch(const OffsetChoice& choice, int64_t rows)
      : least_(rows, choice.least * kLog2E), most_(rows, choice.offset * kLog2E) {}

  // Moves the offsets [rows or more] of sums [rows or more] that did not do, to a bound that does where it is near and else
  // halfway; false where there are none.
  bool moves(const std::vector<double>& sums, int64_t classes, std::vector<float>* offsets) {
    bool moved = false;
    for (size_t i = 0; i < least_.size(); i++) {
      const bool overflowed = std::isinf(sums[i]);
      if (!overflowed && !loses_digits(sums[i], classes)) continue;
      float& offset = (*offsets)[i];
      (overflowed ? least_ : most_)[i] = offset;
      const double halfway = (least_[i] + most_[i]) / 2, bound = overflowed ? most_[i] : least_[i];
      const auto next = static_cast<float>(most_[i] - least_[i] > kNear ? halfway : bound);
      moved |= next != offset;
      offset = next;
    }
    return moved;
  }

 private:
  // No sum overflows with one offset and loses digits with another that is as near.
  static constexpr double kNear = 64 * kLog2E;
  std::vector<double> least_, most_;
};

}  // namespace

Status CudaPass::set_transform(const NegativesTransform& transform) {
  // P times a slope of 1 is what 16 bits have room for.
  const int exponent = exponent_of_slopes(transform);
  slope_unit_ = std::ldexp(1.0, exponent);
  const auto of_accumulators = [&](Quadratic g) {
    for (double& slope : g.slope) slope = std::ldexp(slope, -exponent);
    return of_exponents(g, operand_scale_, factor_);
  };
  transform_ = {of_accumulators(transform.below), of_accumulators(transform.above)};
  return upload_thresholds(transform.threshold, &transform_thresholds_);
}

Status CudaPass::launch_transformed(const Kernel& kernel, Finds finds) {
  MARGINFC_TRY(upload_offsets());
  MARGINFC_TRY(reserve_sums(finds));
  return launch_negatives(kernel, offsets_memory_.as<float>(), transform_thresholds_.as<float>(), finds);
}

Status CudaPass::transformed_negatives(const Negatives& result) {
  MARGINFC_TRY(set_transform(*result.transform));
  const bool hard = result.hard_sum;
  // The kernels count above one threshold, and the one that adds up hard negatives finds no hardest.
  const bool apart = batch_.above || (hard && batch_.hardest);
  if (apart) MARGINFC_TRY(find_apart());
  const Kernel& kernel = hard ? logits_.negatives_transformed_hard : logits_.negatives_transformed;
  const Finds finds{!hard, hard, hard};
  const OffsetChoice choice = choose_offset(result.transform, batch_.scale);
  const bool sure = choice.kind == Offsets::fixed;
  // Else the ordinary range of logits first, s <= 64.
  offsets_.assign(padded_rows_,
                  static_cast<float>((sure ? choice.offset : std::min(choice.offset, kMostPlainScale)) * kLog2E));
  OffsetSearch search(choice, batch_.rows);
  do {
    if (cancelled()) return Status::aborted();
    MARGINFC_TRY(launch_transformed(kernel, finds));
    if (sure) break;
    MARGINFC_TRY(device_.download(sums_.data(), sums_memory_, sums_.size() * sizeof(double)));
    MARGINFC_TRY(device_.settle_downloads());
  } while (search.moves(sums_, classes_, &offsets_));
  if (hard) {
    MARGINFC_TRY(device_.download(hard_sums_host_.data(), hard_sums_, rows_ * sizeof(double)));
    return device_.download(hard_counts_host_.data(), above_, rows_ * sizeof(int32_t));
  }
  return batch_.hardest && !apart ? device_.download(largest_host_.data(), largest_, rows_ * sizeof(float)) : Status{};
}

}  // namespace marginfc::cuda
