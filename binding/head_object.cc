#include "binding/head_object.h"

#include <limits>

#include "binding/arguments.h"
#include "binding/environment.h"

namespace marginfc::binding {
namespace {

void require(Napi::Env env, const Status& status) {
  if (!status.ok()) throw make_error(env, status);
}

void require_range(Napi::Env env, int64_t start, int64_t count, ClassRange own) {
  if (start < own.start || count < 0 || start > own.end - count)
    throw make_error(
        env, Status::failure(Code::shape, "classes " + std::to_string(start) + " to " + std::to_string(start + count) +
                                              " must lie in [" + std::to_string(own.start) + ", " +
                                              std::to_string(own.end) + "]"));
}

ClassArray read_array(const Napi::Value& value, const Head& head) {
  const std::string name = value.ToString().Utf8Value();
  ClassArray array = ClassArray::weights;
  if (name == "momentum") array = ClassArray::momentum;
  if (name == "variance") array = ClassArray::variance;
  if (name == "accumulated") array = ClassArray::accumulated;
  if (!head.keeps(array))
    throw make_error(value.Env(), Status::failure(Code::shape, "this head's optimiser keeps no " + name));
  return array;
}

Sampling read_sampling(const Napi::Value& value) {
  if (!value.IsObject()) throw make_error(value.Env(), Status::failure(Code::type, "sampling must be an object"));
  const auto options = value.As<Napi::Object>();
  Sampling sampling;
  sampling.rate = number(options, "sampleRate");
  sampling.seed = static_cast<uint64_t>(number(options, "seed"));
  sampling.updates_all = text(options, "sampledUpdate") == "all";
  return sampling;
}

class NearestJob final : public Job {
 public:
  NearestJob(std::shared_ptr<Head> head, const Napi::CallbackInfo& info) : head_(std::move(head)) {
    const Napi::Env env = info.Env();
    const Span<float> features = float_array(info[1], "features");
    k_ = info[2].As<Napi::Number>().Int64Value();
    const auto result = info[3].As<Napi::Object>();
    const Span<int32_t> classes = int_array(result.Get("classes"), "classes");
    const Span<float> cosines = float_array(result.Get("cosines"), "cosines");
    batch_.dim = head_->shape().dim;
    batch_.rows = features.size / batch_.dim;
    require_size(env, features.size, batch_.rows * batch_.dim, "features");
    const int64_t most = head_->range().size();
    if (k_ < 1 || k_ > most)
      throw make_error(env, Status::failure(Code::shape, "k must be in [1, " + std::to_string(most) + "], received " +
                                                             std::to_string(k_)));
    require_size(env, classes.size, batch_.rows * k_, "classes");
    require_size(env, cosines.size, batch_.rows * k_, "cosines");
    labels_.assign(batch_.rows, -1);
    batch_.features = features.data;
    batch_.labels = labels_.data();
    batch_.scale = 1;
    if (present(info[4])) {
      const Span<int32_t> cancel = int_array(info[4], "cancel");
      require_size(env, cancel.size, 1, "cancel");
      cancel_ = reinterpret_cast<std::atomic<int32_t>*>(cancel.data);
      keep(info[4]);
    }
    batch_.cancel = cancel_;
    classes_ = classes.data;
    cosines_ = cosines.data;
    keep(info.This());
    keep(info[1]);
    keep(result.Get("classes"));
    keep(result.Get("cosines"));
  }

  Status run() override { return head_->nearest(batch_, k_, classes_, cosines_); }
  void cancel() override { cancel_->store(1); }

 private:
  const std::shared_ptr<Head> head_;
  Batch batch_;
  std::vector<int32_t> labels_;
  int64_t k_ = 0;
  int32_t* classes_ = nullptr;
  float* cosines_ = nullptr;
  std::atomic<int32_t> own_cancel_{0};
  std::atomic<int32_t>* cancel_ = &own_cancel_;
};

class InitializeJob final : public Job {
 public:
  InitializeJob(std::shared_ptr<Head> head, const Napi::CallbackInfo& info)
      : head_(std::move(head)),
        std_(info[1].As<Napi::Number>().DoubleValue()),
        seed_(static_cast<uint64_t>(info[2].As<Napi::Number>().Int64Value())) {
    classes_.start = info[3].As<Napi::Number>().Int64Value();
    classes_.end = info[4].As<Napi::Number>().Int64Value();
    require_range(info.Env(), classes_.start, classes_.size(), head_->range());
    keep(info.This());
  }

  Status run() override { return head_->initialize(std_, seed_, classes_); }

 private:
  const std::shared_ptr<Head> head_;
  const double std_;
  const uint64_t seed_;
  ClassRange classes_;
};

class ApplyJob final : public Job {
 public:
  ApplyJob(std::shared_ptr<Head> head, const Napi::CallbackInfo& info)
      : head_(std::move(head)), learning_rate_(info[1].As<Napi::Number>().DoubleValue()) {
    clip_ = read_clip(info[2]);
    keep(info.This());
  }

  Status run() override {
    applied_ = head_->accumulated();
    if (!applied_) return {};
    if (clip_.wants_measure()) {
      double square = 0;
      MARGINFC_TRY(head_->measure(&square));
      clip_.take(square);
    }
    return head_->apply(learning_rate_, clip_.clip);
  }
  Napi::Value result(Napi::Env env) override { return Napi::Boolean::New(env, applied_); }

 private:
  const std::shared_ptr<Head> head_;
  const double learning_rate_;
  ClipChoice clip_;
  bool applied_ = false;
};

class MeasureJob final : public Job {
 public:
  MeasureJob(std::shared_ptr<Head> head, const Napi::CallbackInfo& info) : head_(std::move(head)) { keep(info.This()); }

  Status run() override { return head_->measure(&square_); }
  Napi::Value result(Napi::Env env) override { return Napi::Number::New(env, square_); }

 private:
  const std::shared_ptr<Head> head_;
  double square_ = 0;
};

}  // namespace

void HeadObject::install(Napi::Env env, Napi::Object exports) {
  const Napi::Function constructor = DefineClass(env, "Head",
                                                 {
                                                     InstanceMethod<&HeadObject::initialize>("initialize"),
                                                     InstanceMethod<&HeadObject::write>("write"),
                                                     InstanceMethod<&HeadObject::read>("read"),
                                                     InstanceMethod<&HeadObject::resume>("resume"),
                                                     InstanceMethod<&HeadObject::nearest>("nearest"),
                                                     InstanceMethod<&HeadObject::measure>("measure"),
                                                     InstanceMethod<&HeadObject::apply>("apply"),
                                                     InstanceAccessor<&HeadObject::step_count>("stepCount"),
                                                     InstanceAccessor<&HeadObject::accumulated>("accumulated"),
                                                     InstanceMethod<&HeadObject::dispose>("dispose"),
                                                 });
  Environment::of(env).head_constructor = Napi::Persistent(constructor);
  exports.Set("Head", constructor);
}

bool HeadObject::is(const Napi::Value& value) {
  return value.IsObject() && value.As<Napi::Object>().InstanceOf(Environment::of(value.Env()).head_constructor.Value());
}

HeadObject::HeadObject(const Napi::CallbackInfo& info) : ObjectWrap(info), held_(info.Env()) {
  const Napi::Env env = info.Env();
  if (!info[0].IsObject()) throw make_error(env, Status::failure(Code::type, "options must be an object"));
  const auto options = info[0].As<Napi::Object>();
  const auto dim = static_cast<int64_t>(number(options, "dim"));
  const auto classes = static_cast<int64_t>(number(options, "classes"));
  const auto shards = static_cast<int64_t>(number(options, "shards"));
  const ClassRange range{static_cast<int64_t>(number(options, "start")), static_cast<int64_t>(number(options, "end"))};
  if (dim < 1 || dim > INT32_MAX || classes < 1 || classes > INT32_MAX || shards < 1)
    throw make_error(env, Status::failure(Code::shape, "dim, classes and shards must be positive"));
  require_range(env, range.start, range.size(), {0, classes});
  const ClassShape shape{static_cast<int32_t>(dim), read_sub_centers(options.Get("subCenters"), classes)};
  std::unique_ptr<Head> head;
  const std::vector<std::shared_ptr<Engine>> engines = Environment::of(env).engines(options.Get("engines"));
  std::vector<Engine*> places;
  for (const std::shared_ptr<Engine>& engine : engines) places.push_back(engine.get());
  const Optimizer optimizer = read_optimizer(options.Get("optimizer"));
  require(env, Head::create(places, classes, range, shape, shards, optimizer, &head));
  head->sample(read_sampling(options.Get("sampling")));
  // The engines go after the last holder of the head.
  head_ = std::shared_ptr<Head>(head.release(), [engines](Head* last) { delete last; });
  const int floats = optimizer.kind == Optimizer::Kind::adamw ? 2 : optimizer.momentum != 0 ? 1 : 0;
  const size_t bytes = byte_size(optimizer.storage) + floats * sizeof(float);
  held_.set(range.size() * shape.size() * static_cast<int64_t>(bytes));
}

std::shared_ptr<Head> HeadObject::head(Napi::Env env) const {
  if (!head_) throw make_error(env, Status::failure(Code::disposed, "the head has been disposed of"));
  return head_;
}

Napi::Value HeadObject::initialize(const Napi::CallbackInfo& info) {
  return dispatch(info[0], std::make_unique<InitializeJob>(head(info.Env()), info));
}

void HeadObject::write(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto head = this->head(env);
  const ClassArray array = read_array(info[0], *head);
  const int64_t start = info[1].As<Napi::Number>().Int64Value();
  const Span<float> values = float_array(info[2], "values");
  const int64_t count = values.size / head->shape().size();
  require_size(env, values.size, count * head->shape().size(), "values");
  require_range(env, start, count, head->range());
  require(env, head->write(start, count, values.data, array));
}

void HeadObject::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto head = this->head(env);
  const ClassArray array = read_array(info[0], *head);
  const int64_t start = info[1].As<Napi::Number>().Int64Value();
  const int64_t end = info[2].As<Napi::Number>().Int64Value();
  const Span<float> values = float_array(info[3], "values");
  require_range(env, start, end - start, head->range());
  require_size(env, values.size, (end - start) * head->shape().size(), "values");
  require(env, head->read(start, end - start, values.data, array));
}

void HeadObject::resume(const Napi::CallbackInfo& info) {
  head(info.Env())->resume(info[0].As<Napi::Number>().Int64Value(), info[1].As<Napi::Boolean>());
}

Napi::Value HeadObject::nearest(const Napi::CallbackInfo& info) {
  return dispatch(info[0], std::make_unique<NearestJob>(head(info.Env()), info));
}

Napi::Value HeadObject::measure(const Napi::CallbackInfo& info) {
  return dispatch(info[0], std::make_unique<MeasureJob>(head(info.Env()), info));
}

Napi::Value HeadObject::apply(const Napi::CallbackInfo& info) {
  return dispatch(info[0], std::make_unique<ApplyJob>(head(info.Env()), info));
}

Napi::Value HeadObject::step_count(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(head(info.Env())->step_count()));
}

Napi::Value HeadObject::accumulated(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), head(info.Env())->accumulated());
}

void HeadObject::dispose(const Napi::CallbackInfo&) {
  head_.reset();
  held_.set(0);
}

}  // namespace marginfc::binding
