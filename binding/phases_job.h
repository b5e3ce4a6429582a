// The work of class Evaluation's calls: what each reads from its arguments on the main thread, does on another, and answers. Included
// by binding/evaluation_object.cc only.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "binding/arguments.h"
#include "binding/environment.h"
#include "binding/evaluation_state.h"
#include "binding/job.h"
#include "binding/terms.h"

namespace marginfc::binding {

class TargetsJob final : public Job {
 public:
  TargetsJob(std::shared_ptr<EvaluationState> state, const Napi::CallbackInfo& info) : state_(std::move(state)) {
    const auto result = info[1].As<Napi::Object>();
    const Span<double> cosine = double_array(result.Get("cosine"), "cosine");
    const Span<double> norm = double_array(result.Get("featureNorm"), "featureNorm");
    require_size(info.Env(), cosine.size, state_->batch.rows, "cosine");
    require_size(info.Env(), norm.size, state_->batch.rows, "featureNorm");
    cosine_ = cosine.data;
    norm_ = norm.data;
    keep(result.Get("cosine"));
    keep(result.Get("featureNorm"));
  }

  Status run() override {
    MARGINFC_TRY(state_->evaluation->targets());
    const std::vector<Target>& rows = state_->evaluation->target_rows();
    for (size_t i = 0; i < rows.size(); i++) {
      cosine_[i] = rows[i].cosine;
      norm_[i] = rows[i].feature_norm;
    }
    return {};
  }
  void cancel() override { state_->cancel->store(1); }

 private:
  const std::shared_ptr<EvaluationState> state_;
  double* cosine_ = nullptr;
  double* norm_ = nullptr;
};

// Any of the phases, in their order.
class PhasesJob final : public Job {
 public:
  explicit PhasesJob(std::shared_ptr<EvaluationState> state) : state_(std::move(state)) {}

  // Phases 0 to 2, for gradients that read_gradients() has read if it has. `negatives`: what becomes of their logits, or of each
  // one's part in the loss, if anything.
  void read_negatives(const Napi::Value& negatives) {
    negatives_ = true;
    if (!present(negatives)) return;
    if (is_binary(negatives)) {
      binary_ = read_binary(negatives);
      negatives_options_.binary = &binary_;
      return;
    }
    transform_ = read_transform(negatives, state_->batch.rows);
    negatives_options_.transform = &transform_;
    keep(negatives);
  }

  // What phase 2 leaves to be read, or phase 3 to be told.
  void read_statistics(const Napi::Value& value) {
    if (!value.IsObject()) throw make_error(value.Env(), Status::failure(Code::type, "statistics must be an object"));
    const auto object = value.As<Napi::Object>();
    const int64_t count = state_->batch.rows;
    const auto doubles = [&](const char* name) { return row_doubles(object, name, count); };
    statistics_ = {doubles("cosine"), doubles("sine"), doubles("logNegatives"), row_array(object, "hardest", count)};
    if (state_->options.label_smoothing > 0) statistics_.cosine_sum = doubles("cosineSum");
    if (state_->options.top_five) {
      statistics_.above = doubles("above");
      if (present(object.Get("targetCosine"))) negatives_options_.target_cosine = doubles("targetCosine");
    }
    if (present(object.Get("hardSum"))) {
      negatives_options_.hard = true;
      statistics_.hard_sum = doubles("hardSum");
      statistics_.hard_count = doubles("hardCount");
    }
    if (present(object.Get("slopeSum"))) statistics_.slope_sum = doubles("slopeSum");
  }

  // Phase 3.
  void read_epilogue(const Napi::Value& margin, const Napi::Value& rows) {
    const Napi::Env env = margin.Env();
    const int64_t count = state_->batch.rows;
    margin_ = read_margin(margin, count, state_->classes);
    if (!rows.IsObject()) throw make_error(env, Status::failure(Code::type, "rows must be an object"));
    const auto object = rows.As<Napi::Object>();
    rows_.loss = row_array(object, "rowLoss", count);
    rows_.log_sum_exp = row_array(object, "logSumExp", count);
    rows_.target_cosine = row_array(object, "targetCosine", count);
    if (present(object.Get("hardestCosine"))) rows_.hardest = row_array(object, "hardestCosine", count);
    if (present(object.Get("logNegatives"))) rows_.log_negatives = row_doubles(object, "logNegatives", count);
    if (present(object.Get("targetGradient"))) rows_.target_gradient = row_doubles(object, "targetGradient", count);
    if (present(object.Get("biasGradient"))) rows_.bias_gradient = row_doubles(object, "biasGradient", count);
    // The margin's own arrays hang on its object.
    keep(margin);
    epilogue_ = true;
  }

  void read_gradients(const Napi::Value& value) {
    const Napi::Env env = value.Env();
    if (!value.IsObject()) throw make_error(env, Status::failure(Code::type, "gradients must be an object"));
    const auto object = value.As<Napi::Object>();
    const int64_t rows = state_->batch.rows, dim = state_->batch.dim;
    const Napi::Value outer = object.Get("dLoss");
    if (outer.IsNumber()) {
      gradients_.loss_gradient = outer.As<Napi::Number>().DoubleValue();
    } else {
      const Span<float> values = float_array(outer, "dLoss");
      require_size(env, values.size, rows, "dLoss");
      gradients_.row_loss_gradient = values.data;
      keep(outer);
    }
    if (const Napi::Value features = object.Get("dFeatures"); present(features)) {
      const Floats values = result_array(features, "dFeatures");
      require_size(env, values.size, rows * dim, "dFeatures");
      state_->require_followed(env, values.place, "dFeatures");
      gradients_.features = {values.data, values.place};
      keep(features);
    }
    gradients_.tolerance = state_->tolerance;
    if (const Napi::Value rate = object.Get("centerRate"); present(rate)) center_rate_ = number(object, "centerRate");
    read_sink(object.Get("weightGradient"));
    if (const Napi::Value adds = object.Get("addsKept"); present(adds))
      gradients_.adds_kept = boolean(object, "addsKept");
  }
  // Memory for phases 4 and 5, or these phases; after read_gradients().
  void read_reserve() { reserve_ = true; }
  // The sum of squares of the weights' gradient; likewise.
  void read_measure() { measure_ = true; }
  void read_finish() { finish_ = true; }

  Status run() override {
    if (negatives_) {
      MARGINFC_TRY(negatives());
      if (statistics_.cosine) state_->evaluation->read_statistics(statistics_);
      state_->summed = true;
    }
    if (epilogue_) {
      if (!state_->summed) return Status::failure(Code::internal, "the epilogue needs the negatives first");
      if (statistics_.cosine) state_->evaluation->write_statistics(statistics_);
      MARGINFC_TRY(state_->evaluation->epilogue(margin_, rows_, &result_));
      state_->forwarded = true;
    }
    if (!measure_ && !reserve_ && !finish_) return {};
    if (!state_->forwarded) return Status::failure(Code::internal, "gradients need the epilogue first");
    if (gradients_.weights.kind == WeightSink::Kind::update) gradients_.weights.step = state_->head->step_count() + 1;
    if (measure_) MARGINFC_TRY(state_->evaluation->measure(gradients_, &square_));
    if (reserve_ && clip_.wants_measure()) {
      double square = 0;
      MARGINFC_TRY(state_->evaluation->measure(gradients_, &square));
      clip_.take(square);
    }
    gradients_.weights.clip = clip_.clip;
    if (reserve_) {
      MARGINFC_TRY(state_->evaluation->reserve(gradients_));
      state_->reserved = true;
    }
    if (!finish_) return {};
    if (!state_->reserved) return Status::failure(Code::internal, "gradients need their memory first");
    MARGINFC_TRY(state_->evaluation->finish(gradients_, &skipped_mass_));
    if (state_->feature_terms && gradients_.weights.kind != WeightSink::Kind::none && center_rate_ != 0)
      state_->feature_terms->move_centers(center_rate_);
    if (gradients_.weights.kind == WeightSink::Kind::update) state_->head->count_step();
    if (gradients_.weights.kind == WeightSink::Kind::accumulate) state_->head->mark_accumulated();
    return {};
  }

  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("skippedMass", skipped_mass_);
    object.Set("square", square_);
    if (negatives_ && !finish_) state_->held.set(state_->workspace_bytes);
    if (!epilogue_) return object;
    object.Set("loss", result_.loss);
    object.Set("accuracy", result_.accuracy);
    object.Set("classes", static_cast<double>(state_->evaluation->classes()));
    object.Set("accuracyTop5", result_.accuracy_top_five);
    object.Set("workspace", state_->workspace == Workspace::keep ? "keep" : "recompute");
    if (state_->has_terms) object.Set("terms", term_values(env, result_.terms, result_.feature_terms));
    return object;
  }
  void cancel() override { state_->cancel->store(1); }

 private:
  // Workspace 'auto' keeps where that fits the caller's limit; where it does not fit the machine, it recomputes.
  Status negatives() {
    const GradientPlan plan = gradients_.plan();
    const Status status = state_->evaluation->negatives(plan, negatives_options_);
    if (status.code != Code::out_of_memory || !state_->automatic || state_->workspace != Workspace::keep) return status;
    state_->workspace = state_->batch.workspace = Workspace::recompute;
    state_->workspace_bytes = 0;
    state_->evaluation = std::make_unique<Evaluation>(state_->shards, state_->batch, state_->options);
    return state_->evaluation->negatives(plan, negatives_options_);
  }

  // Of all weights that this process has.
  int64_t own_elements() const {
    return (state_->head ? state_->head->range().size() : state_->classes) * state_->shape.size();
  }

  float* row_array(const Napi::Object& object, const char* name, int64_t count) {
    return kept_rows(object.Get(name), float_array, name, count);
  }

  double* row_doubles(const Napi::Object& object, const char* name, int64_t count) {
    return kept_rows(object.Get(name), double_array, name, count);
  }

  template <typename T>
  T* kept_rows(const Napi::Value& value, Span<T> (*array_of)(const Napi::Value&, const char*), const char* name,
               int64_t count) {
    const Span<T> values = array_of(value, name);
    require_size(value.Env(), values.size, count, name);
    keep(value);
    return values.data;
  }

  void read_sink(const Napi::Value& value) {
    const Napi::Env env = value.Env();
    if (!value.IsObject()) throw make_error(env, Status::failure(Code::type, "weightGradient must be an object"));
    const auto object = value.As<Napi::Object>();
    const std::string kind = text(object, "kind");
    WeightSink& sink = gradients_.weights;
    if (kind == "write") {
      const Napi::Value destination = object.Get("dWeights");
      const Floats values = result_array(destination, "dWeights");
      require_size(env, values.size, own_elements(), "dWeights");
      state_->require_followed(env, values.place, "dWeights");
      sink.kind = WeightSink::Kind::write;
      sink.gradient = values.data;
      sink.place = values.place;
      keep(destination);
    } else if (kind == "keep") {
      sink.kind = WeightSink::Kind::write;
      gradients_.keeps = true;
    } else if (kind == "update" || kind == "accumulate") {
      if (!state_->head) throw make_error(env, Status::failure(Code::type, kind + " needs a head"));
      sink.kind = kind == "update" ? WeightSink::Kind::update : WeightSink::Kind::accumulate;
      if (kind == "update") {
        sink.learning_rate = number(object, "learningRate");
        clip_ = read_clip(object.Get("clip"));
      }
    }
  }

  const std::shared_ptr<EvaluationState> state_;
  Margin margin_;
  RowResults rows_;
  ForwardResult result_;
  double center_rate_ = 0;
  double skipped_mass_ = 0;
  Gradients gradients_;
  RowStatistics statistics_;
  NegativesTransform transform_;
  BinaryReduction binary_;
  NegativesOptions negatives_options_;
  bool negatives_ = false;
  bool epilogue_ = false;
  ClipChoice clip_;
  double square_ = 0;
  bool measure_ = false;
  bool reserve_ = false;
  bool finish_ = false;
};

}  // namespace marginfc::binding
