// class Evaluation: one batch against one set of classes; see NativeEvaluation in src/native.ts.
#pragma once

#include <memory>

#include "binding/evaluation_state.h"
#include "binding/job.h"

namespace marginfc::binding {

class EvaluationObject : public Napi::ObjectWrap<EvaluationObject> {
 public:
  static void install(Napi::Env env, Napi::Object exports);
  static bool is(const Napi::Value& value);
  explicit EvaluationObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value class_rows(const Napi::CallbackInfo& info);
  Napi::Value add_to_kept(const Napi::CallbackInfo& info);
  Napi::Value targets(const Napi::CallbackInfo& info);
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value backward(const Napi::CallbackInfo& info);
  Napi::Value value_and_grad(const Napi::CallbackInfo& info);
  Napi::Value negatives(const Napi::CallbackInfo& info);
  Napi::Value epilogue(const Napi::CallbackInfo& info);
  Napi::Value measure(const Napi::CallbackInfo& info);
  Napi::Value reserve(const Napi::CallbackInfo& info);
  Napi::Value finish(const Napi::CallbackInfo& info);
  Napi::Value phase_seconds(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<EvaluationState> state(Napi::Env env) const;

  std::shared_ptr<EvaluationState> state_;
};

}  // namespace marginfc::binding
