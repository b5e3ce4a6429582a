// Phase 2 of a pass: sums over negatives, and the offsets that keep exponentials in float32's range.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/pass.h"
#include "engine/transform.h"

namespace marginfc {
namespace {

constexpr double kLn2 = 0.6931471805599453;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

Status CpuPass::negatives(const GradientPlan& plan, const Negatives& result) {
  const int64_t lanes = panels_ * kernels_.panel;
  if (batch_.workspace == Workspace::keep &&
      !kept_.allocate(engine_.buffers(), floats_of(stride_ * round_up(classes_, kernels_.tile_classes))))
    return Status::no_workspace();
  if (batch_.workspace == Workspace::keep && !inverse_norms_.allocate(engine_.buffers(), classes_))
    return Status::no_workspace();
  ordinary_.assign(blocks_, 0);
  bad_class_ = INT64_MAX;
  transforms_ = result.transform != nullptr;
  if (transforms_) MARGINFC_TRY(set_transform(*result.transform));
  binary_ = result.binary != nullptr;
  if (binary_) set_binary(*result.binary);
  const OffsetChoice choice = binary_ ? OffsetChoice{} : choose_offset(result.transform, batch_.scale);
  const Offsets offsets = choice.kind;
  MARGINFC_TRY(set_offset(choice.offset));
  if (offsets == Offsets::measured || result.hardest) {
    if (!hardest_.allocate(engine_.buffers(), chunks_ * lanes)) return Status::no_workspace();
    std::fill_n(hardest_.data(), chunks_ * lanes, -kInfinity);
  }
  unit_sums_.assign(result.cosine_sum ? std::max<int64_t>(chunks_, 1) * dim_ : 0, 0.0);
  if (result.above) {
    const size_t size = chunks_ * lanes;
    if (!thresholds_.allocate(engine_.buffers(), size) || !above_.allocate(engine_.buffers(), size))
      return Status::no_workspace();
    std::fill_n(above_.data(), size, 0.0f);
    std::fill_n(thresholds_.data(), size, kInfinity);
    for (int64_t chunk = 0; chunk < chunks_; chunk++)
      for (int64_t i = 0; i < rows_; i++)
        thresholds_.data()[chunk * lanes + i] = static_cast<float>(result.target_cosine[i] * feature_scale());
  }

  Sweep sweep;
  sweep.sums = true;
  sweep.unit_sum = result.cosine_sum;
  sweep.hardest = result.hardest;
  sweep.above = result.above;
  sweep.hard = result.hard_sum;
  sweep.binary = binary_;
  sweep.features = plan.features;
  if (offsets == Offsets::measured) MARGINFC_TRY(measure_offsets(&sweep));
  MARGINFC_TRY(sweep_negatives(sweep));
  if (offsets == Offsets::tried && underflows()) {
    sweep.hardest = sweep.above = false;
    MARGINFC_TRY(measure_offsets(&sweep));
    MARGINFC_TRY(sweep_negatives(sweep));
  }

  for (int64_t i = 0; i < rows_; i++) {
    double total = 0;
    float hardest = -kInfinity;
    for (int64_t chunk = 0; chunk < chunks_; chunk++) {
      const double sum = sums_[chunk * lanes + i];
      total += binary_ ? std::log1p(sum) + more_sums_[chunk * lanes + i] * kLn2 : sum;
      if (result.hardest) hardest = std::max(hardest, hardest_.data()[chunk * lanes + i]);
    }
    result.sum[i] = total;
    result.offset[i] = offsets_ ? offsets_.data()[i] * kLn2 : 0;
    if (result.hardest) result.hardest[i] = std::max(-2.0f, static_cast<float>(hardest / feature_scale()));
    if (result.above) {
      float above = 0;
      for (int64_t chunk = 0; chunk < chunks_; chunk++)
        above += std::min(above_.data()[chunk * lanes + i], kCountedAbove);
      result.above[i] = static_cast<int32_t>(above);
    }
    if (result.hard_sum) {
      result.hard_sum[i] = result.hard_count[i] = 0;
      for (int64_t chunk = 0; chunk < chunks_; chunk++) {
        result.hard_sum[i] += more_sums_[chunk * lanes + i] / feature_scale();
        result.hard_count[i] += more_sums_[(chunks_ + chunk) * lanes + i];
      }
    }
    if (binary_) {
      result.slope_sum[i] = 0;
      for (int64_t chunk = 0; chunk < chunks_; chunk++)
        result.slope_sum[i] += more_sums_[(chunks_ + chunk) * lanes + i];
    }
  }
  if (result.cosine_sum) {
    for (int64_t chunk = 1; chunk < chunks_; chunk++)
      for (int32_t d = 0; d < dim_; d++) unit_sums_[d] += unit_sums_[chunk * dim_ + d];
    for_rows([&](int64_t i, int) {
      const float* x = batch_.features + i * dim_;
      result.cosine_sum[i] = kernels_.exact_product(unit_sums_.data(), x, dim_) * norms_[i].inverse;
    });
  }
  return {};
}

Status CpuPass::sweep_negatives(const Sweep& sweep) {
  const int64_t lanes = panels_ * kernels_.panel;
  if (sweep.features && !reserve_accumulators()) return Status::no_workspace();
  sums_.assign(chunks_ * lanes, 0);
  more_sums_.assign(sweep.hard || sweep.binary ? 2 * chunks_ * lanes : 0, 0);
  MARGINFC_TRY(run(sweep));
  features_gathered_ = sweep.features;
  return check_weights();
}

Status CpuPass::set_transform(const NegativesTransform& transform) {
  const int64_t lanes = panels_ * kernels_.panel;
  if (!transform_thresholds_.allocate(engine_.buffers(), lanes)) return Status::no_workspace();
  std::fill_n(transform_thresholds_.data(), lanes, kInfinity);
  for (int64_t i = 0; i < rows_; i++)
    transform_thresholds_.data()[i] = static_cast<float>(transform.threshold[i] * feature_scale());
  transform_.below = of_exponents(transform.below, feature_scale());
  transform_.above = of_exponents(transform.above, feature_scale());
  return {};
}

void CpuPass::set_binary(const BinaryReduction& binary) {
  const auto narrow = [](double value) { return static_cast<float>(value); };
  const double unit = feature_scale(), constant = unit * binary.shift + binary.bias / kLn2;
  elements_.power = binary.power;
  elements_.half_unit = narrow(0.5 / unit);
  elements_.factor = narrow(2 * unit);
  elements_.constant = narrow(binary.power > 1 ? constant - unit : constant);
  elements_.slope_factor = binary.straight_through ? 0.0f : narrow(binary.power);
  elements_.slope_constant = binary.straight_through ? 1.0f : 0.0f;
}

Status CpuPass::set_offset(double offset) {
  if (offset == 0) {
    offsets_.release();
    return {};
  }
  const int64_t lanes = panels_ * kernels_.panel;
  if (!offsets_.allocate(engine_.buffers(), lanes)) return Status::no_workspace();
  std::fill_n(offsets_.data(), lanes, static_cast<float>(offset / kLn2));
  return {};
}

bool CpuPass::underflows() const {
  const int64_t lanes = panels_ * kernels_.panel;
  for (int64_t i = 0; i < rows_; i++) {
    double total = 0;
    for (int64_t chunk = 0; chunk < chunks_; chunk++) total += sums_[chunk * lanes + i];
    if (loses_digits(total, classes_)) return true;
  }
  return false;
}

// Its own product, so this costs 2 BCD more.
Status CpuPass::measure_offsets(Sweep* sweep) {
  const int64_t lanes = panels_ * kernels_.panel;
  if (!offsets_.allocate(engine_.buffers(), lanes)) return Status::no_workspace();
  std::fill_n(offsets_.data(), lanes, 0.0f);
  if (transforms_) {
    if (!largest_.allocate(engine_.buffers(), chunks_ * lanes)) return Status::no_workspace();
    std::fill_n(largest_.data(), chunks_ * lanes, -kInfinity);
  }
  Sweep maxima;
  maxima.hardest = sweep->hardest || !transforms_;
  maxima.above = sweep->above;
  maxima.largest = transforms_;
  MARGINFC_TRY(run(maxima));
  sweep->hardest = sweep->above = false;
  const PooledBuffer& exponents = transforms_ ? largest_ : hardest_;
  for (int64_t i = 0; i < lanes; i++) {
    float largest = -kInfinity;
    for (int64_t chunk = 0; chunk < chunks_; chunk++) largest = std::max(largest, exponents.data()[chunk * lanes + i]);
    offsets_.data()[i] = std::isfinite(largest) ? largest : 0.0f;
  }
  return {};
}

}  // namespace marginfc
