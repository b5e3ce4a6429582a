#include "binding/evaluation_object.h"

#include "binding/arguments.h"
#include "binding/environment.h"
#include "binding/head_object.h"
#include "binding/terms.h"

namespace marginfc::binding {
namespace {

void require_followed(Napi::Env env, const std::vector<ClassShard*>& shards, Place place, const char* name) {
  for (const ClassShard* shard : shards)
    if (!shard->follows(place))
      throw make_error(env, Status::failure(Code::type, std::string(name) + " must be in the host's memory"));
}

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

  // Phases 0 to 2, for gradients that read_gradients() has read if it has.
  void read_negatives() { negatives_ = true; }

  // Of phase 2, if there is one.
  void read_transform(const Napi::Value& value) {
    if (!present(value)) return;
    transform_ = binding::read_transform(value, state_->batch.rows);
    negatives_options_.transform = &transform_;
    keep(value);
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
      require_followed(env, state_->shards, values.place, "dFeatures");
      gradients_.features = {values.data, values.place};
      keep(features);
    }
    gradients_.tolerance = state_->tolerance;
    if (const Napi::Value rate = object.Get("centerRate"); present(rate)) center_rate_ = number(object, "centerRate");
    read_sink(object.Get("weightGradient"));
    if (const Napi::Value added = object.Get("addedWeights"); present(added)) {
      const Span<float> values = float_array(added, "addedWeights");
      require_size(env, values.size, own_elements(), "addedWeights");
      gradients_.weights.added = values.data;
      keep(added);
    }
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
      if (state_->feature_terms) {
        const bool mean = state_->options.reduction == Reduction::mean;
        MARGINFC_TRY(state_->feature_terms->find(state_->evaluation->reduction_scale(), mean, &feature_terms_));
      }
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
    if (state_->feature_terms && gradients_.features.gradient)
      state_->feature_terms->add_gradient(gradients_.loss_gradient, gradients_.features.gradient);
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
    object.Set("terms", term_values(env, result_.terms, feature_terms_));
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
    return (state_->head ? state_->head->range().size() : state_->classes) * state_->batch.dim;
  }

  float* row_array(const Napi::Object& object, const char* name, int64_t count) {
    const Napi::Value value = object.Get(name);
    const Span<float> values = float_array(value, name);
    require_size(object.Env(), values.size, count, name);
    keep(value);
    return values.data;
  }

  double* row_doubles(const Napi::Object& object, const char* name, int64_t count) {
    const Napi::Value value = object.Get(name);
    const Span<double> values = double_array(value, name);
    require_size(object.Env(), values.size, count, name);
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
      require_followed(env, state_->shards, values.place, "dWeights");
      sink.kind = WeightSink::Kind::write;
      sink.gradient = values.data;
      sink.place = values.place;
      keep(destination);
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
  FeatureTermValues feature_terms_;
  double center_rate_ = 0;
  double skipped_mass_ = 0;
  Gradients gradients_;
  RowStatistics statistics_;
  NegativesTransform transform_;
  NegativesOptions negatives_options_;
  bool negatives_ = false;
  bool epilogue_ = false;
  ClipChoice clip_;
  double square_ = 0;
  bool measure_ = false;
  bool reserve_ = false;
  bool finish_ = false;
};

RowFunction read_row_function(const Napi::Value& value) {
  const auto object = value.As<Napi::Object>();
  const std::string kind = text(object, "kind");
  const Span<double> values = double_array(object.Get("values"), "rowFunction.values");
  return {kind == "focal"    ? RowFunction::Kind::focal
          : kind == "search" ? RowFunction::Kind::search
                             : RowFunction::Kind::piecewise,
          std::vector<double>(values.data, values.data + values.size)};
}

void read_labels(EvaluationState& state, const Napi::Value& value) {
  const Span<int32_t> labels = int_array(value, "labels");
  state.labels.assign(labels.data, labels.data + labels.size);
  for (size_t i = 0; i < state.labels.size(); i++)
    if (state.labels[i] < -1 || state.labels[i] >= state.classes)
      throw make_error(value.Env(),
                       Status::failure(Code::label_range, "labels[" + std::to_string(i) + "] must be in [-1, " +
                                                              std::to_string(state.classes - 1) + "], received " +
                                                              std::to_string(state.labels[i])));
}

}  // namespace

void EvaluationObject::install(Napi::Env env, Napi::Object exports) {
  exports.Set("Evaluation", DefineClass(env, "Evaluation",
                                        {
                                            InstanceMethod<&EvaluationObject::targets>("targets"),
                                            InstanceMethod<&EvaluationObject::forward>("forward"),
                                            InstanceMethod<&EvaluationObject::backward>("backward"),
                                            InstanceMethod<&EvaluationObject::value_and_grad>("valueAndGrad"),
                                            InstanceMethod<&EvaluationObject::negatives>("negatives"),
                                            InstanceMethod<&EvaluationObject::epilogue>("epilogue"),
                                            InstanceMethod<&EvaluationObject::measure>("measure"),
                                            InstanceMethod<&EvaluationObject::reserve>("reserve"),
                                            InstanceMethod<&EvaluationObject::finish>("finish"),
                                            InstanceMethod<&EvaluationObject::phase_seconds>("phaseSeconds"),
                                            InstanceMethod<&EvaluationObject::dispose>("dispose"),
                                        }));
}

EvaluationObject::EvaluationObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject()) throw make_error(env, Status::failure(Code::type, "problem must be an object"));
  const auto problem = info[0].As<Napi::Object>();
  auto state = std::make_shared<EvaluationState>(env);

  const auto keep = [&](const Napi::Value& value) {
    state->kept.push_back(Napi::Persistent(value.As<Napi::Object>()));
  };
  Batch& batch = state->batch;
  const double dim = number(problem, "dim");
  if (!(dim >= 1 && dim <= INT32_MAX)) throw make_error(env, Status::failure(Code::shape, "dim must be positive"));
  batch.dim = static_cast<int32_t>(dim);
  const Napi::Value weights = problem.Get("weights");
  Rows borrowed;
  if (HeadObject::is(weights)) {
    state->head = HeadObject::Unwrap(weights.As<Napi::Object>())->head(env);
    state->classes = state->head->classes();
    require_size(env, batch.dim, state->head->dim(), "dim");
  } else {
    borrowed = row_array(weights, problem.Get("weightsType"), "weights");
    state->classes = borrowed.size / batch.dim;
    require_size(env, borrowed.size, state->classes * batch.dim, "weights");
  }
  state->options.classes = state->classes;
  if (state->classes < 1 || state->classes > INT32_MAX)
    throw make_error(env, Status::failure(Code::shape, "weights must hold between 1 and 2^31 - 1 classes"));
  keep(weights);
  if (state->head && boolean(problem, "sampled")) batch.sampling = state->head->sampling();

  read_labels(*state, problem.Get("labels"));
  batch.rows = static_cast<int64_t>(state->labels.size());
  batch.labels = state->labels.data();
  const Rows features = row_array(problem.Get("features"), problem.Get("featuresType"), "features");
  require_size(env, features.size, batch.rows * batch.dim, "features");
  if (features.storage == Precision::float32) {
    batch.features = static_cast<const float*>(features.data);
    batch.place = features.place;
    keep(problem.Get("features"));
  } else {
    if (features.place != Place::host)
      throw make_error(env, Status::failure(Code::type, "features in a GPU's memory must be float32"));
    state->features.resize(features.size);
    Environment::of(env).cpu(env)->kernels().widen(static_cast<const uint16_t*>(features.data), features.size,
                                                   features.storage == Precision::float16, state->features.data());
    batch.features = state->features.data();
  }
  state->tolerance = number(problem, "gradientTolerance");
  batch.operands = precision(problem.Get("precision"), "precision");
  batch.scale = number(problem, "scale");
  batch.check_finite = boolean(problem, "checkFinite");
  batch.angles = present(problem.Get("angles")) && boolean(problem, "angles");
  if (const Napi::Value cancel = problem.Get("cancel"); present(cancel)) {
    const Span<int32_t> flag = int_array(cancel, "cancel");
    require_size(env, flag.size, 1, "cancel");
    state->cancel = reinterpret_cast<std::atomic<int32_t>*>(flag.data);
    keep(cancel);
  }
  batch.cancel = state->cancel;

  LossOptions& options = state->options;
  const std::string overflow = text(problem, "onOverflow");
  options.overflow = overflow == "fallback" ? Overflow::fallback : overflow == "easy" ? Overflow::easy : Overflow::none;
  options.straight_through = boolean(problem, "straightThrough");
  const std::string reduction = text(problem, "reduction");
  options.reduction = reduction == "none" ? Reduction::none : reduction == "sum" ? Reduction::sum : Reduction::mean;
  options.diagnostics = boolean(problem, "diagnostics");
  options.top_five = boolean(problem, "topFive");
  options.label_smoothing = number(problem, "labelSmoothing");
  if (const Napi::Value function = problem.Get("rowFunction"); present(function))
    options.row_function = read_row_function(function);
  const Napi::Value terms = problem.Get("terms");
  options.terms = read_row_terms(terms);
  if (const Napi::Value row_weights = problem.Get("rowWeights"); present(row_weights)) {
    const Span<float> values = float_array(row_weights, "rowWeights");
    require_size(env, values.size, batch.rows, "rowWeights");
    options.row_weights = values.data;
    keep(row_weights);
  }

  std::vector<ClassShard*> shards;
  if (state->head) {
    shards = state->head->shards();
  } else {
    const auto count = static_cast<int64_t>(number(problem, "shards"));
    if (count < 1) throw make_error(env, Status::failure(Code::shape, "shards must be at least 1"));
    state->engines = Environment::of(env).engines(problem.Get("engines"));
    for (int64_t r = 0; r < count; r++) {
      const ClassRange range = shard_range(state->classes, count, r);
      if (range.size() == 0) break;
      std::unique_ptr<ClassShard> shard;
      const auto* start = static_cast<const char*>(borrowed.data) +
                          range.start * batch.dim * static_cast<int64_t>(byte_size(borrowed.storage));
      Engine& engine = *state->engines[r % state->engines.size()];
      const Status status = engine.borrow(range, batch.dim, {start, borrowed.storage, borrowed.place}, &shard);
      if (!status.ok()) throw make_error(env, status);
      shards.push_back(shard.get());
      state->borrowed.push_back(std::move(shard));
    }
  }
  require_followed(env, shards, batch.place, "features");
  require_followed(env, shards, borrowed.place, "weights");
  if (present(terms)) {
    state->host = Environment::of(env).cpu(env);
    state->feature_terms = read_feature_terms(terms, batch, state->host.get());
    keep(terms);
  }
  const std::string workspace = text(problem, "workspace");
  bool keeps = workspace != "recompute";
  size_t keep_bytes = 0;
  for (const ClassShard* shard : shards) {
    const size_t bytes = shard->keep_bytes(batch);
    keeps = keeps && bytes != kKeepsNothing;
    if (keeps) keep_bytes += bytes;
  }
  state->automatic = workspace == "auto";
  if (state->automatic && keep_bytes > number(problem, "workspaceBytes")) keeps = false;
  batch.workspace = keeps ? Workspace::keep : Workspace::recompute;
  state->workspace = batch.workspace;
  state->workspace_bytes = batch.workspace == Workspace::keep ? static_cast<int64_t>(keep_bytes) : 0;
  state->shards = shards;
  state->evaluation = std::make_unique<Evaluation>(std::move(shards), batch, options);
  state_ = std::move(state);
}

std::shared_ptr<EvaluationState> EvaluationObject::state(Napi::Env env) const {
  if (!state_) throw make_error(env, Status::failure(Code::disposed, "the evaluation has been disposed of"));
  return state_;
}

Napi::Value EvaluationObject::targets(const Napi::CallbackInfo& info) {
  return dispatch(info[0], std::make_unique<TargetsJob>(state(info.Env()), info));
}

Napi::Value EvaluationObject::forward(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_negatives();
  job->read_epilogue(info[1], info[2]);
  job->read_transform(info[3]);
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::backward(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_gradients(info[1]);
  job->read_reserve();
  job->read_finish();
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::value_and_grad(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_negatives();
  job->read_epilogue(info[1], info[2]);
  job->read_gradients(info[3]);
  job->read_transform(info[4]);
  job->read_reserve();
  job->read_finish();
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::negatives(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_negatives();
  job->read_statistics(info[1]);
  if (present(info[2])) job->read_gradients(info[2]);
  job->read_transform(info[3]);
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::epilogue(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_epilogue(info[1], info[2]);
  job->read_statistics(info[3]);
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::measure(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_gradients(info[1]);
  job->read_measure();
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::reserve(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_gradients(info[1]);
  job->read_reserve();
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::finish(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_gradients(info[1]);
  job->read_finish();
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::phase_seconds(const Napi::CallbackInfo& info) {
  const PhaseSeconds& seconds = state(info.Env())->evaluation->phase_seconds();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("prepare", seconds.prepare);
  object.Set("targets", seconds.targets);
  object.Set("negatives", seconds.negatives);
  object.Set("epilogue", seconds.epilogue);
  object.Set("gradients", seconds.gradients);
  return object;
}

void EvaluationObject::dispose(const Napi::CallbackInfo&) { state_.reset(); }

}  // namespace marginfc::binding
