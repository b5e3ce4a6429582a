// What the addon exports; src/native.ts has the types.
#include "binding/environment.h"
#include "binding/evaluation_object.h"
#include "binding/head_object.h"

namespace marginfc::binding {
namespace {

Napi::Value list_engines(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Environment& environment = Environment::of(env);
  Napi::Object row = Napi::Object::New(env);
  row.Set("name", "cpu");
  if (const char* reason = environment.unavailable()) {
    row.Set("available", false);
    row.Set("reason", reason);
  } else {
    CpuEngine& engine = *environment.engine(env);
    row.Set("available", true);
    row.Set("detail", std::string(engine.instruction_set()) + ", " + std::to_string(engine.pool().threads()) +
                          (engine.pool().threads() == 1 ? " thread" : " threads"));
  }
  Napi::Array rows = Napi::Array::New(env);
  rows.Set(0u, row);
  return rows;
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int64_t length = info[0].As<Napi::Number>().Int64Value();
  return allocate_output(env, Environment::of(env).outputs(), static_cast<size_t>(length));
}

Napi::Value release_memory(const Napi::CallbackInfo& info) {
  Environment& environment = Environment::of(info.Env());
  const size_t floats = environment.outputs()->trim() + environment.trim_workspaces();
  return Napi::Number::New(info.Env(), static_cast<double>(floats * sizeof(float)));
}

Napi::Object install(Napi::Env env, Napi::Object exports) {
  Environment::install(env);
  EvaluationObject::install(env, exports);
  HeadObject::install(env, exports);
  exports.Set("listEngines", Napi::Function::New<list_engines>(env, "listEngines"));
  exports.Set("allocate", Napi::Function::New<allocate>(env, "allocate"));
  exports.Set("releaseMemory", Napi::Function::New<release_memory>(env, "releaseMemory"));
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, install)

}  // namespace
}  // namespace marginfc::binding
