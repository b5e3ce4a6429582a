// Phase 2 of a pass with a binary cross-entropy of each logit, docs/numerics.md: what the kernels are told of it, and a product of
// its own where negatives are counted above a threshold.
#include <cmath>

#include "cuda/pass.h"

namespace marginfc::cuda {

void CudaPass::set_binary(const BinaryReduction& binary) {
  const auto narrow = [](double value) { return static_cast<float>(value); };
  const int32_t power = binary.power;
  // Of a cosine c, in log2 units: z = unit g(c) + ..., g(c) = 2 ((c + 1) / 2)^power - 1, whose factor 2 unit goes into the root.
  const double unit = operand_scale_ * factor_, root = std::pow(2 * unit, 1.0 / power);
  const double constant = unit * binary.shift + binary.bias * kLog2E;
  binary_terms_.root_unit = narrow(root / 2 / operand_scale_);
  // Of the first power the halves cancel.
  binary_terms_.root_zero = power == 1 ? 0 : narrow(root / 2);
  binary_terms_.constant = narrow(power == 1 ? constant : constant - unit);
  binary_terms_.exponent = power - 1;
  binary_terms_.slope_factor = binary.straight_through ? 0 : narrow(std::pow(root, 1 - power));
  binary_terms_.slope_constant = binary.straight_through ? 1 : 0;
  slope_unit_ = binary.straight_through ? 1 : power;
}

Status CudaPass::binary_negatives(const BinaryReduction& binary) {
  set_binary(binary);
  if (batch_.above) MARGINFC_TRY(find_apart());
  Finds finds;
  finds.hardest = finds.slopes = true;
  MARGINFC_TRY(reserve_sums(finds));
  MARGINFC_TRY(launch_negatives(logits_.negatives_binary, nullptr, nullptr, finds));
  MARGINFC_TRY(device_.download(slope_sums_host_.data(), slope_sums_, rows_ * sizeof(double)));
  return batch_.hardest && !batch_.above
             ? device_.download(largest_host_.data(), largest_, largest_host_.size() * sizeof(float))
             : Status{};
}

}  // namespace marginfc::cuda
