#include "engine/evaluation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <new>

#include "engine/row_epilogue.h"

namespace marginfc {
namespace {

constexpr float kNoCosine = -2;
constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

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

Batch with_diagnostics(Batch batch, const LossOptions& options) {
  batch.hardest = options.diagnostics;
  batch.above = options.top_five;
  return batch;
}

}  // namespace

Evaluation::Evaluation(std::vector<ClassShard*> shards, const Batch& batch, const LossOptions& options)
    : shards_(std::move(shards)), batch_(with_diagnostics(batch, options)), options_(options) {
  for (ClassShard* shard : shards_) workers_.push_back(shard->worker());
}

Evaluation::~Evaluation() = default;

Status Evaluation::targets() try {
  if (!passes_.empty()) return {};
  targets_.assign(batch_.rows, {});
  std::vector<std::unique_ptr<ShardPass>> passes(shards_.size());
  // Shards that run at the same time must not write the same rows; each row has one owner. The first one's are all rows' norms.
  std::vector<std::vector<Target>> others(shards_.size());
  for (size_t r = 1; r < shards_.size(); r++) others[r].resize(batch_.rows);
  std::vector<double> prepared(shards_.size());
  const Clock::time_point start = Clock::now();
  MARGINFC_TRY(run_each(workers_, [&](size_t r) {
    const Clock::time_point begin = Clock::now();
    MARGINFC_TRY(shards_[r]->begin(batch_, &passes[r]));
    prepared[r] = since(begin);
    return passes[r]->targets(r == 0 ? targets_.data() : others[r].data());
  }));
  for (const double seconds : prepared) seconds_.prepare = std::max(seconds_.prepare, seconds);
  seconds_.targets = since(start) - seconds_.prepare;
  for (size_t r = 1; r < shards_.size(); r++) {
    const ClassRange range = shards_[r]->range();
    for (int64_t i = 0; i < batch_.rows; i++)
      if (const int32_t label = batch_.labels[i]; label >= range.start && label < range.end) targets_[i] = others[r][i];
  }
  passes_ = std::move(passes);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

int64_t Evaluation::classes() const {
  int64_t classes = 0;
  for (const auto& pass : passes_) classes += pass->classes();
  return classes;
}

Status Evaluation::negatives(const GradientPlan& plan, const NegativesOptions& options) try {
  MARGINFC_TRY(targets());
  const size_t shards = shards_.size();
  const bool hardest = options_.diagnostics;
  sums_.assign(shards, std::vector<double>(batch_.rows));
  offsets_.assign(shards, std::vector<double>(batch_.rows));
  const bool smooth = options_.label_smoothing > 0, top_five = options_.top_five;
  const bool hard = options.transform && options.hard;
  std::vector<std::vector<float>> hardest_of(hardest ? shards : 0, std::vector<float>(batch_.rows));
  std::vector<std::vector<double>> cosine_sum_of(smooth ? shards : 0, std::vector<double>(batch_.rows));
  std::vector<std::vector<int32_t>> above_of(top_five ? shards : 0, std::vector<int32_t>(batch_.rows));
  std::vector<std::vector<double>> hard_sum_of(hard ? shards : 0, std::vector<double>(batch_.rows));
  std::vector<std::vector<double>> hard_count_of(hard_sum_of);
  binary_ = options.binary ? std::make_unique<BinaryReduction>(*options.binary) : nullptr;
  if (binary_) binary_->straight_through = options_.straight_through;
  std::vector<std::vector<double>> slope_sum_of(binary_ ? shards : 0, std::vector<double>(batch_.rows));
  std::vector<double> targets(top_five ? batch_.rows : 0);
  for (size_t i = 0; i < targets.size(); i++)
    targets[i] = batch_.labels[i] < 0 ? 2.0 : options.target_cosine ? options.target_cosine[i] : targets_[i].cosine;
  log_negatives_.assign(batch_.rows, kMinusInfinity);
  hardest_.assign(hardest ? batch_.rows : 0, kNoCosine);
  cosine_sum_.assign(smooth ? batch_.rows : 0, 0.0);
  above_.assign(top_five ? batch_.rows : 0, 0.0);
  hard_sum_.assign(hard ? batch_.rows : 0, 0.0);
  hard_count_.assign(hard_sum_.size(), 0.0);
  slope_sum_.assign(binary_ ? batch_.rows : 0, 0.0);
  const Clock::time_point start = Clock::now();
  MARGINFC_TRY(run_each(workers_, [&](size_t r) {
    Negatives result{sums_[r].data(), offsets_[r].data()};
    if (hardest) result.hardest = hardest_of[r].data();
    if (smooth) result.cosine_sum = cosine_sum_of[r].data();
    if (top_five) {
      result.above = above_of[r].data();
      result.target_cosine = targets.data();
    }
    result.transform = options.transform;
    if (hard) {
      result.hard_sum = hard_sum_of[r].data();
      result.hard_count = hard_count_of[r].data();
    }
    if (binary_) {
      result.binary = binary_.get();
      result.slope_sum = slope_sum_of[r].data();
    }
    return passes_[r]->negatives(plan, result);
  }));
  for (int64_t i = 0; i < batch_.rows; i++) log_negatives_[i] = log_total(sums_, offsets_, i);
  for (const std::vector<float>& shard : hardest_of)
    for (int64_t i = 0; i < batch_.rows; i++) hardest_[i] = std::max(hardest_[i], shard[i]);
  for (const std::vector<double>& shard : cosine_sum_of)
    for (int64_t i = 0; i < batch_.rows; i++) cosine_sum_[i] += shard[i];
  for (const std::vector<int32_t>& shard : above_of)
    for (int64_t i = 0; i < batch_.rows; i++) above_[i] += shard[i];
  for (size_t r = 0; r < hard_sum_of.size(); r++)
    for (int64_t i = 0; i < batch_.rows; i++) {
      hard_sum_[i] += hard_sum_of[r][i];
      hard_count_[i] += hard_count_of[r][i];
    }
  for (const std::vector<double>& shard : slope_sum_of)
    for (int64_t i = 0; i < batch_.rows; i++) slope_sum_[i] += shard[i];
  seconds_.negatives = since(start);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

void Evaluation::read_statistics(const RowStatistics& to) const {
  for (int64_t i = 0; i < batch_.rows; i++) {
    to.cosine[i] = targets_[i].cosine;
    to.sine[i] = targets_[i].sine;
    to.log_negatives[i] = log_negatives_[i];
  }
  if (options_.diagnostics) std::copy(hardest_.begin(), hardest_.end(), to.hardest);
  if (to.cosine_sum) std::copy(cosine_sum_.begin(), cosine_sum_.end(), to.cosine_sum);
  if (to.above) std::copy(above_.begin(), above_.end(), to.above);
  if (to.hard_sum) std::copy(hard_sum_.begin(), hard_sum_.end(), to.hard_sum);
  if (to.hard_count) std::copy(hard_count_.begin(), hard_count_.end(), to.hard_count);
  if (to.slope_sum) std::copy(slope_sum_.begin(), slope_sum_.end(), to.slope_sum);
}

void Evaluation::write_statistics(const RowStatistics& from) {
  for (int64_t i = 0; i < batch_.rows; i++) {
    targets_[i].cosine = from.cosine[i];
    targets_[i].sine = from.sine[i];
    log_negatives_[i] = from.log_negatives[i];
  }
  if (options_.diagnostics) std::copy_n(from.hardest, batch_.rows, hardest_.begin());
  if (from.cosine_sum) std::copy_n(from.cosine_sum, cosine_sum_.size(), cosine_sum_.begin());
  if (from.above) std::copy_n(from.above, above_.size(), above_.begin());
  if (from.slope_sum) std::copy_n(from.slope_sum, slope_sum_.size(), slope_sum_.begin());
}

Status Evaluation::epilogue(const Margin& margin, const RowResults& rows, ForwardResult* result) try {
  const Clock::time_point start = Clock::now();
  const int64_t count = batch_.rows;
  log_sum_exp_.assign(count, 0);
  shortfall_.assign(count, 0);
  derivative_.assign(count, 0);
  row_scale_.assign(count, 0);
  reduction_scale_.assign(count, 0);
  norm_derivative_.clear();
  if (margin.kind == MarginKind::custom && margin.norm_derivative) norm_derivative_.assign(count, 0);

  // Smoothing moves `smoothing` of the target's mass to all classes, `each` to each of them.
  const double smoothing = options_.label_smoothing;
  const double each = smoothing > 0 ? smoothing / static_cast<double>(options_.classes) : 0;
  double total_loss = 0, total_weight = 0;
  int64_t counted = 0, correct = 0, correct_in_five = 0;
  for (int64_t i = 0; i < count; i++) {
    const int32_t label = batch_.labels[i];
    const double log_negatives = log_negatives_[i];
    const double negatives = binary_ ? binary_->negative * std::exp(log_negatives) : 0;
    if (rows.hardest) rows.hardest[i] = hardest_[i];
    if (label < 0) {
      log_sum_exp_[i] = log_negatives;
      rows.loss[i] = 0;
      rows.target_cosine[i] = 0;
      rows.log_sum_exp[i] = static_cast<float>(binary_ ? negatives : log_negatives);
      continue;
    }

    if (batch_.angles) {
      // The loss is the sum of angles itself, and has no part in the own class.
      row_scale_[i] = 1;
      rows.loss[i] = static_cast<float>(std::exp(log_negatives));
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

    RowLoss row;
    if (binary_) {
      const BinaryLoss positive = binary_loss(-(batch_.scale * logit.value + binary_->bias));
      row.loss = binary_->positive * positive.loss + negatives;
      row.log_sum_exp = negatives;
      row.target_shortfall = binary_->positive * positive.slope;
    } else {
      row = row_loss(log_negatives, batch_.scale * logit.value);
    }
    if (smoothing > 0) {
      const double cosines = cosine_sum_[i] - target.cosine +
                             logit.value;  // of all classes, the own one with its margin
      row.loss += batch_.scale * (smoothing * logit.value - each * cosines);
      row.target_shortfall -= smoothing - each;
    }
    const RowValue value = options_.row_function(row.loss, row.target_shortfall);
    log_sum_exp_[i] = row.log_sum_exp;
    shortfall_[i] = row.target_shortfall;
    derivative_[i] = logit.derivative;
    const double weight = options_.row_weights ? options_.row_weights[i] : 1.0;
    reduction_scale_[i] = weight;
    row_scale_[i] = weight * value.slope;
    total_weight += weight;
    total_loss += weight * value.loss;
    rows.loss[i] = static_cast<float>(value.loss);
    rows.log_sum_exp[i] = static_cast<float>(row.log_sum_exp);
    rows.target_cosine[i] = static_cast<float>(target.cosine);
    counted++;
    if (options_.diagnostics) {
      const bool best = target.cosine >= hardest_[i];
      if (best) correct++;
      // The best is among the five best, however rounding counts a negative that is as near.
      if (options_.top_five && (best || above_[i] < kMostAbove)) correct_in_five++;
    }
  }

  if (options_.reduction == Reduction::mean) {
    // No counted row, or only weights of zero: the loss is 0 and so is every gradient.
    const double inverse = total_weight > 0 ? 1.0 / total_weight : 0.0;
    for (std::vector<double>* scales : {&row_scale_, &reduction_scale_})
      for (double& scale : *scales) scale *= inverse;
    total_loss *= inverse;
  }
  if (rows.log_negatives) std::copy(log_negatives_.begin(), log_negatives_.end(), rows.log_negatives);
  if (rows.target_gradient)
    for (int64_t i = 0; i < count; i++) rows.target_gradient[i] = -row_scale_[i] * batch_.scale * shortfall_[i];
  if (rows.bias_gradient && binary_)
    for (int64_t i = 0; i < count; i++)
      rows.bias_gradient[i] = row_scale_[i] * (binary_->negative * slope_sum_[i] - shortfall_[i]);
  result->loss = options_.reduction == Reduction::none ? kNaN : total_loss;
  result->terms = row_terms(options_.terms, targets_, reduction_scale_, &term_slopes_);
  if (FeatureTerms* terms = options_.feature_terms) {
    if (float* features = terms->wanted_features()) MARGINFC_TRY(passes_[0]->load_features(features));
    MARGINFC_TRY(terms->find(reduction_scale_, options_.reduction == Reduction::mean, &result->feature_terms));
  }
  const auto share = [&](bool wanted, int64_t hits) {
    return wanted && counted > 0 ? static_cast<double>(hits) / static_cast<double>(counted) : kNaN;
  };
  result->accuracy = share(options_.diagnostics, correct);
  result->accuracy_top_five = share(options_.top_five, correct_in_five);
  seconds_.epilogue = since(start);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

std::vector<double> Evaluation::row_gradients(const Gradients& gradients) const {
  std::vector<double> weight(batch_.rows);
  for (int64_t i = 0; i < batch_.rows; i++) {
    const double outer = gradients.row_loss_gradient ? gradients.row_loss_gradient[i] : gradients.loss_gradient;
    weight[i] = batch_.labels[i] < 0 ? 0.0 : outer * row_scale_[i] * batch_.scale;
  }
  return weight;
}

Evaluation::Coefficients Evaluation::no_coefficients() const {
  const auto room = [&](bool wanted) { return std::vector<double>(wanted ? batch_.rows : 0); };
  const bool radial = !norm_derivative_.empty() || !term_slopes_.by_norm.empty();
  return {room(true), room(true), room(radial), room(!cosine_sum_.empty())};
}

void Evaluation::coefficients(size_t r, const std::vector<double>& weight, Coefficients* rows) const {
  for (int64_t i = 0; i < batch_.rows; i++) {
    // An exact 0 where there is nothing to multiply: exp(offset - lse) may be infinite there.
    const bool counts = weight[i] != 0 && sums_[r][i] != 0;
    if (batch_.angles)
      rows->kappa[i] = -weight[i] / batch_.scale;
    else if (binary_)
      rows->kappa[i] = weight[i] * binary_->negative;
    else
      rows->kappa[i] = !counts ? 0.0 : weight[i] * std::exp(offsets_[r][i] - log_sum_exp_[i]);
    rows->gamma[i] = -weight[i] * shortfall_[i] * derivative_[i];
    if (!rows->radial.empty()) rows->radial[i] = 0;
    if (!norm_derivative_.empty()) rows->radial[i] = -weight[i] * shortfall_[i] * norm_derivative_[i];
    if (!term_slopes_.by_cosine.empty()) rows->gamma[i] += loss_gradient_ * term_slopes_.by_cosine[i];
    if (!term_slopes_.by_norm.empty()) rows->radial[i] += loss_gradient_ * term_slopes_.by_norm[i];
    if (!rows->uniform.empty()) {
      // The own class is among all of them, but its logit is the margin's, whose share gamma has.
      rows->uniform[i] = -weight[i] * options_.label_smoothing / static_cast<double>(options_.classes);
      rows->gamma[i] -= rows->uniform[i];
    }
    rows->largest_weight = std::max(rows->largest_weight, std::fabs(weight[i]));
  }
}

WeightSink Evaluation::weight_sink(const Gradients& gradients) {
  weight_ = row_gradients(gradients);
  loss_gradient_ = gradients.loss_gradient;
  double total_weight = 0;
  for (const double weight : weight_) total_weight += std::fabs(weight);
  WeightSink sink = gradients.weights;
  sink.skipped_mass_per_class = gradients.tolerance * total_weight / static_cast<double>(options_.classes);
  return sink;
}

Status Evaluation::aim(const Gradients& gradients, size_t r, WeightSink* sink) {
  if (sink->gradient) sink->gradient += elements_before(r);
  if (!gradients.keeps && !gradients.adds_kept) return {};
  float* kept;
  Place place;
  MARGINFC_TRY(shards_[r]->kept_gradient(&kept, &place));
  if (gradients.adds_kept) sink->added = kept;
  if (!gradients.keeps) return {};
  sink->gradient = kept;
  sink->place = place;
  return {};
}

Status Evaluation::class_rows(const int32_t* classes, int64_t count, float* rows) {
  return run_each(workers_, [&](size_t r) { return shards_[r]->gather(classes, count, rows); });
}

Status Evaluation::add_to_kept(const float* rows) {
  return run_each(workers_, [&](size_t r) { return shards_[r]->add_to_kept(batch_.labels, batch_.rows, rows); });
}

Status Evaluation::measure(const Gradients& gradients, double* square) try {
  WeightSink measured = weight_sink(gradients);
  measured.kind = WeightSink::Kind::measure;
  measured.clip = {};
  std::vector<double> squares(shards_.size());
  std::vector<Coefficients> rows(shards_.size(), no_coefficients());
  MARGINFC_TRY(run_each(workers_, [&](size_t r) {
    WeightSink sink = measured;
    MARGINFC_TRY(aim(gradients, r, &sink));
    sink.square = &squares[r];
    MARGINFC_TRY(passes_[r]->reserve({}, sink));
    coefficients(r, weight_, &rows[r]);
    return passes_[r]->gradients(rows[r].rows(), {}, sink);
  }));
  for (const double part : squares) *square += part;
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status Evaluation::reserve(const Gradients& gradients) try {
  const int64_t count = batch_.rows, dim = batch_.dim;
  const WeightSink sink = weight_sink(gradients);
  parts_.clear();
  parts_.resize(shards_.size());
  for (size_t r = 0; r < parts_.size(); r++) {
    Part& part = parts_[r];
    part.rows = no_coefficients();
    part.sink = sink;
    part.sink.skipped_mass = &part.skipped_mass;
    MARGINFC_TRY(aim(gradients, r, &part.sink));
  }
  // The first shard writes dX to the result and the others' parts are added to it: at once where shards run one after the
  // other and one part is enough, else at the end. Several parts for a GPU's memory, or one and terms, are added up here first.
  if (gradients.features.gradient)
    for (size_t r = 1; r < (run_together(workers_) ? parts_.size() : std::min<size_t>(parts_.size(), 2)); r++)
      parts_[r].features.resize(count * dim);
  feature_sum_.resize(sums_features_apart(gradients.features) ? count * dim : 0);
  // The last point where an update can still fail or be cancelled: from here every shard makes its own.
  MARGINFC_TRY(run_each(workers_, [&](size_t r) {
    // The first one's engine also looks at memory that the sum is stored to.
    return passes_[r]->reserve(r == 0 ? gradients.features : part_of(r, gradients.features), parts_[r].sink);
  }));
  if (batch_.cancel && batch_.cancel->load(std::memory_order_relaxed)) return Status::aborted();
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

bool Evaluation::sums_features_apart(const FeatureSink& features) const {
  return features.gradient && features.place == Place::device && (shards_.size() > 1 || options_.feature_terms);
}

FeatureSink Evaluation::part_of(size_t r, const FeatureSink& features) {
  if (!features.gradient) return {};
  return {parts_[run_together(workers_) ? r : 1].features.data(), Place::host};
}

Status Evaluation::finish(const Gradients& gradients, double* skipped_mass) {
  const Clock::time_point start = Clock::now();
  double total_weight = 0;
  for (const double weight : weight_) total_weight += std::fabs(weight);
  const bool together = run_together(workers_), apart = sums_features_apart(gradients.features);
  const FeatureSink result = apart ? FeatureSink{feature_sum_.data(), Place::host} : gradients.features;
  // Either way in the order of the shards.
  const auto add = [&](size_t r) {
    const FeatureSink part = part_of(r, gradients.features);
    if (part.gradient)
      for (int64_t e = 0; e < batch_.rows * batch_.dim; e++) result.gradient[e] += part.gradient[e];
  };
  if (result.gradient && shards_.empty()) std::fill_n(result.gradient, batch_.rows * batch_.dim, 0.0f);
  MARGINFC_TRY(run_each(workers_, [&](size_t r) {
    Part& part = parts_[r];
    part.skipped_mass = 0;
    WeightSink sink = part.sink;
    if (gradients.weights.kind == WeightSink::Kind::none) sink.kind = WeightSink::Kind::none;
    coefficients(r, weight_, &part.rows);
    const FeatureSink features = r == 0 ? result : part_of(r, gradients.features);
    MARGINFC_TRY(passes_[r]->gradients(part.rows.rows(), features, sink));
    if (!together && r > 0) add(r);
    return Status{};
  }));
  double skipped = 0;
  for (size_t r = 0; r < parts_.size(); r++) {
    if (together && r > 0) add(r);
    skipped += parts_[r].skipped_mass;
  }
  if (options_.feature_terms && result.gradient)
    options_.feature_terms->add_gradient(gradients.loss_gradient, result.gradient);
  if (apart) MARGINFC_TRY(passes_[0]->store_features(feature_sum_.data(), gradients.features.gradient));
  if (skipped_mass) *skipped_mass = total_weight > 0 ? skipped / total_weight : 0;
  seconds_.gradients = since(start);
  return {};
}

}  // namespace marginfc
