#include "binding/evaluation_object.h"

#include "binding/arguments.h"
#include "binding/environment.h"
#include "binding/head_object.h"
#include "binding/kept_gradient_jobs.h"
#include "binding/phases_job.h"
#include "binding/terms.h"

namespace marginfc::binding {
namespace {

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
  const Napi::Function constructor = DefineClass(env, "Evaluation",
                                                 {
                                                     InstanceMethod<&EvaluationObject::class_rows>("classRows"),
                                                     InstanceMethod<&EvaluationObject::add_to_kept>("addToKept"),
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
                                                 });
  Environment::of(env).evaluation_constructor = Napi::Persistent(constructor);
  exports.Set("Evaluation", constructor);
}

bool EvaluationObject::is(const Napi::Value& value) {
  return value.IsObject() &&
         value.As<Napi::Object>().InstanceOf(Environment::of(value.Env()).evaluation_constructor.Value());
}

EvaluationObject::EvaluationObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject()) throw make_error(env, Status::failure(Code::type, "problem must be an object"));
  const auto problem = info[0].As<Napi::Object>();
  auto state = std::make_shared<EvaluationState>(env);
  state->problem = Napi::Persistent(problem);
  Batch& batch = state->batch;
  const double dim = number(problem, "dim");
  if (!(dim >= 1 && dim <= INT32_MAX)) throw make_error(env, Status::failure(Code::shape, "dim must be positive"));
  batch.dim = static_cast<int32_t>(dim);
  const Napi::Value weights = problem.Get("weights");
  ClassShape& shape = state->shape;
  shape.dim = batch.dim;
  Rows borrowed;
  if (is(weights)) {
    state->of = Unwrap(weights.As<Napi::Object>())->state(env);
    state->head = state->of->head;
    state->classes = state->of->classes;
    shape = state->of->shape;
    require_size(env, batch.dim, shape.dim, "dim");
  } else if (HeadObject::is(weights)) {
    state->head = HeadObject::Unwrap(weights.As<Napi::Object>())->head(env);
    state->classes = state->head->classes();
    shape = state->head->shape();
    require_size(env, batch.dim, shape.dim, "dim");
  } else {
    borrowed = row_array(weights, problem.Get("weightsType"), "weights");
    shape.sub_centers = read_sub_centers(problem.Get("subCenters"), 1);
    state->classes = borrowed.size / shape.size();
    require_size(env, borrowed.size, state->classes * shape.size(), "weights");
  }
  state->options.classes = state->classes;
  if (state->classes < 1 || state->classes > INT32_MAX)
    throw make_error(env, Status::failure(Code::shape, "weights must hold between 1 and 2^31 - 1 classes"));
  if (!state->head && !state->of) read_sub_centers(problem.Get("subCenters"), state->classes);
  if (state->head && boolean(problem, "sampled")) batch.sampling = state->head->sampling();

  read_labels(*state, problem.Get("labels"));
  batch.rows = static_cast<int64_t>(state->labels.size());
  batch.labels = state->labels.data();
  const Rows features = row_array(problem.Get("features"), problem.Get("featuresType"), "features");
  require_size(env, features.size, batch.rows * batch.dim, "features");
  if (features.storage == Precision::float32) {
    batch.features = static_cast<const float*>(features.data);
    batch.place = features.place;
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
  batch.transforms = boolean(problem, "transforms");
  batch.angles = present(problem.Get("angles")) && boolean(problem, "angles");
  if (const Napi::Value cancel = info[1]; present(cancel)) {
    const Span<int32_t> flag = int_array(cancel, "cancel");
    require_size(env, flag.size, 1, "cancel");
    state->cancel = reinterpret_cast<std::atomic<int32_t>*>(flag.data);
    state->cancel_array = Napi::Persistent(cancel.As<Napi::Object>());
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
  state->has_terms = present(terms);
  options.terms = read_row_terms(terms);
  if (const Napi::Value row_weights = problem.Get("rowWeights"); present(row_weights)) {
    const Span<float> values = float_array(row_weights, "rowWeights");
    require_size(env, values.size, batch.rows, "rowWeights");
    options.row_weights = values.data;
  }

  std::vector<ClassShard*>& shards = state->shards;
  if (state->of) {
    shards = state->of->shards;
  } else if (state->head) {
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
                          range.start * shape.size() * static_cast<int64_t>(byte_size(borrowed.storage));
      Engine& engine = *state->engines[r % state->engines.size()];
      const Status status = engine.borrow(range, shape, {start, borrowed.storage, borrowed.place}, &shard);
      if (!status.ok()) throw make_error(env, status);
      shards.push_back(shard.get());
      state->borrowed.push_back(std::move(shard));
    }
  }
  state->require_followed(env, batch.place, "features");
  state->require_followed(env, borrowed.place, "weights");
  if (state->has_terms) {
    if (shards.empty()) state->host = Environment::of(env).cpu(env);
    Engine& engine = shards.empty() ? *state->host : shards[0]->engine();
    state->feature_terms = read_feature_terms(terms, batch, &engine);
    options.feature_terms = state->feature_terms.get();
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
  state->evaluation = std::make_unique<Evaluation>(shards, batch, options);
  state_ = std::move(state);
}

std::shared_ptr<EvaluationState> EvaluationObject::state(Napi::Env env) const {
  if (!state_) throw make_error(env, Status::failure(Code::disposed, "the evaluation has been disposed of"));
  return state_;
}

Napi::Value EvaluationObject::class_rows(const Napi::CallbackInfo& info) {
  return dispatch(info[0], std::make_unique<ClassRowsJob>(state(info.Env()), info));
}

Napi::Value EvaluationObject::add_to_kept(const Napi::CallbackInfo& info) {
  return dispatch(info[0], std::make_unique<AddToKeptJob>(state(info.Env()), info));
}

Napi::Value EvaluationObject::targets(const Napi::CallbackInfo& info) {
  return dispatch(info[0], std::make_unique<TargetsJob>(state(info.Env()), info));
}

Napi::Value EvaluationObject::forward(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_negatives(info[3]);
  job->read_epilogue(info[1], info[2]);
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
  job->read_negatives(info[4]);
  job->read_epilogue(info[1], info[2]);
  job->read_gradients(info[3]);
  job->read_reserve();
  job->read_finish();
  return dispatch(info[0], std::move(job));
}

Napi::Value EvaluationObject::negatives(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<PhasesJob>(state(info.Env()));
  job->read_negatives(info[3]);
  job->read_statistics(info[1]);
  if (present(info[2])) job->read_gradients(info[2]);
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
