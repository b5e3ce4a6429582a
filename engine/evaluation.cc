#include "engine/evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "engine/row_epilogue.h"

namespace marginfc {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double lookup(const Parameter& parameter, int64_t row, int64_t label) {
  if (parameter.per_row) return parameter.per_row[row];
  if (parameter.per_class) return parameter.per_class[label];
  return parameter.value;
}

// Sum over shards of sum_r * exp(offset_r), as a logarithm.
double log_total(const std::vector<std::vector<double>>& sums, const std::vector<std::vector<double>>& offsets,
                 int64_t row) {
  double largest = kMinusInfinity;
  // Unlike > 0, != 0 lets a NaN through, which the caller asked for.
  for (size_t r = 0; r < sums.size(); r++)
    if (sums[r][row] != 0) largest = std::max(largest, offsets[r][row]);
  if (largest == kMinusInfinity) return kMinusInfinity;
  double total = 0;
  for (size_t r = 0; r < sums.size(); r++)
    if (sums[r][row] != 0) total += sums[r][row] * std::exp(offsets[r][row] - largest);
  return largest + std::log(total);
}

}  // namespace

Evaluation::Evaluation(std::vector<ClassShard*> shards, const Batch& batch, const LossOptions& options)
    : shards_(std::move(shards)), batch_(batch), options_(options) {}

Evaluation::~Evaluation() = default;

Status Evaluation::targets() try {
  if (!passes_.empty()) return {};
  targets_.assign(batch_.rows, {});
  std::vector<std::unique_ptr<ShardPass>> passes(shards_.size());
  for (size_t r = 0; r < shards_.size(); r++) {
    MARGINFC_TRY(shards_[r]->begin(batch_, &passes[r]));
    MARGINFC_TRY(passes[r]->targets(targets_.data()));
  }
  passes_ = std::move(passes);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status Evaluation::forward(const Margin& margin, bool feature_gradient, const RowResults& rows,
                           ForwardResult* result) try {
  MARGINFC_TRY(targets());
  const size_t shards = shards_.size();
  sums_.assign(shards, std::vector<double>(batch_.rows));
  offsets_.assign(shards, std::vector<double>(batch_.rows));
  if (options_.diagnostics) hardest_.assign(shards, std::vector<float>(batch_.rows));
  for (size_t r = 0; r < shards; r++) {
    float* hardest = options_.diagnostics ? hardest_[r].data() : nullptr;
    MARGINFC_TRY(passes_[r]->negatives(feature_gradient, {sums_[r].data(), offsets_[r].data(), hardest}));
  }
  return epilogue(margin, rows, result);
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status Evaluation::epilogue(const Margin& margin, const RowResults& rows, ForwardResult* result) {
  const int64_t count = batch_.rows;
  log_sum_exp_.assign(count, 0);
  shortfall_.assign(count, 0);
  derivative_.assign(count, 0);
  row_scale_.assign(count, 0);
  norm_derivative_.clear();
  if (margin.kind == MarginKind::custom && margin.norm_derivative) norm_derivative_.assign(count, 0);

  double total_loss = 0, total_weight = 0;
  int64_t counted = 0, correct = 0;
  for (int64_t i = 0; i < count; i++) {
    const int32_t label = batch_.labels[i];
    const double log_negatives = log_total(sums_, offsets_, i);
    if (label < 0) {
      log_sum_exp_[i] = log_negatives;
      rows.loss[i] = 0;
      rows.target_cosine[i] = 0;
      rows.log_sum_exp[i] = static_cast<float>(log_negatives);
      continue;
    }

    const Target& target = targets_[i];
    TargetLogit logit;
    if (margin.kind == MarginKind::custom) {
      logit = {margin.target[i], options_.straight_through ? 1.0 : margin.target_derivative[i]};
      if (!norm_derivative_.empty()) norm_derivative_[i] = margin.norm_derivative[i];
    } else {
      RowMargin row_margin;
      row_margin.kind = margin.kind;
      row_margin.overflow = options_.overflow;
      row_margin.straight_through = options_.straight_through;
      for (int p = 0; p < kMaxMarginParameters; p++) row_margin.p[p] = lookup(margin.parameters[p], i, label);
      logit = apply_margin(row_margin, target.cosine, target.sine);
      // A NaN in the features was let through on request; one in a parameter never is.
      if (!std::isfinite(logit.value) && std::isfinite(target.cosine))
        return Status::failure(Code::margin, "the margin's parameters must give a finite target logit, row " +
                                                 std::to_string(i) + " (label " + std::to_string(label) + ") gave " +
                                                 std::to_string(logit.value));
    }

    const RowLoss row = row_loss(log_negatives, batch_.scale * logit.value);
    log_sum_exp_[i] = row.log_sum_exp;
    shortfall_[i] = row.target_shortfall;
    derivative_[i] = logit.derivative;
    row_scale_[i] = options_.row_weights ? options_.row_weights[i] : 1.0;
    total_weight += row_scale_[i];
    total_loss += row_scale_[i] * row.loss;
    rows.loss[i] = static_cast<float>(row.loss);
    rows.log_sum_exp[i] = static_cast<float>(row.log_sum_exp);
    rows.target_cosine[i] = static_cast<float>(target.cosine);
    counted++;
    if (options_.diagnostics) {
      float hardest = -2;
      for (const auto& shard : hardest_) hardest = std::max(hardest, shard[i]);
      if (target.cosine >= hardest) correct++;
    }
  }

  if (options_.reduction == Reduction::mean) {
    // No counted row, or only weights of zero: the loss is 0 and so is every gradient.
    const double inverse = total_weight > 0 ? 1.0 / total_weight : 0.0;
    for (double& scale : row_scale_) scale *= inverse;
    total_loss *= inverse;
  }
  result->loss = options_.reduction == Reduction::none ? kNaN : total_loss;
  result->accuracy = options_.diagnostics && counted > 0 ? static_cast<double>(correct) / static_cast<double>(counted)
                                                         : kNaN;
  return {};
}

Status Evaluation::backward(const Gradients& gradients, double* skipped_mass) try {
  const int64_t count = batch_.rows, dim = batch_.dim;
  std::vector<double> kappa(count), gamma(count), radial;
  if (!norm_derivative_.empty()) radial.assign(count, 0);

  // dLoss/dcos of a row before its probabilities: 0 for ignored rows.
  std::vector<double> weight(count);
  double largest_weight = 0, total_weight = 0;
  for (int64_t i = 0; i < count; i++) {
    const double outer = gradients.row_loss_gradient ? gradients.row_loss_gradient[i] : gradients.loss_gradient;
    weight[i] = batch_.labels[i] < 0 ? 0.0 : outer * row_scale_[i] * batch_.scale;
    largest_weight = std::max(largest_weight, std::fabs(weight[i]));
    total_weight += std::fabs(weight[i]);
  }
  int64_t classes = 0;
  for (const ClassShard* shard : shards_) classes += shard->range().size();
  double skipped = 0;
  WeightSink sink = gradients.weights;
  sink.skipped_mass_per_class = gradients.tolerance * total_weight / static_cast<double>(classes);
  sink.skipped_mass = &skipped;
  std::vector<float> part;
  if (gradients.features && shards_.size() > 1) part.resize(count * dim);
  // The last point where an update can still fail or be cancelled: from here every shard makes its own.
  for (const auto& pass : passes_) MARGINFC_TRY(pass->reserve(gradients.features != nullptr, sink));
  if (batch_.cancel && batch_.cancel->load(std::memory_order_relaxed)) return Status::aborted();

  if (gradients.features && shards_.empty()) std::fill_n(gradients.features, count * dim, 0.0f);
  for (size_t r = 0; r < shards_.size(); r++) {
    for (int64_t i = 0; i < count; i++) {
      // An exact 0 where there is nothing to multiply: exp(offset - lse) may be infinite there.
      const bool counts = weight[i] != 0 && sums_[r][i] != 0;
      kappa[i] = !counts ? 0.0 : weight[i] * std::exp(offsets_[r][i] - log_sum_exp_[i]);
      gamma[i] = -weight[i] * shortfall_[i] * derivative_[i];
      if (!radial.empty()) radial[i] = -weight[i] * shortfall_[i] * norm_derivative_[i];
    }
    if (sink.kind == WeightSink::Kind::write)
      sink.gradient = gradients.weights.gradient + shards_[r]->range().start * dim;
    float* destination = gradients.features && r > 0 ? part.data() : gradients.features;
    const RowCoefficients coefficients{kappa.data(), gamma.data(), radial.empty() ? nullptr : radial.data(),
                                       largest_weight};
    MARGINFC_TRY(passes_[r]->gradients(coefficients, destination, sink));
    if (gradients.features && r > 0)
      for (int64_t e = 0; e < count * dim; e++) gradients.features[e] += part[e];
  }
  if (skipped_mass) *skipped_mass = total_weight > 0 ? skipped / total_weight : 0;
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc
