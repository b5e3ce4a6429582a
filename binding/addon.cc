// What the addon exports; src/native.ts has the types.
#include "binding/environment.h"
#include "binding/evaluation_object.h"
#include "binding/head_object.h"
#include "cpu/peak.h"

namespace marginfc::binding {
namespace {

EngineRow cpu_row(Napi::Env env, Environment& environment) {
  if (const char* reason = environment.unavailable()) return {"cpu", false, "", reason};
  CpuEngine& engine = *environment.engine(env);
  const int threads = engine.pool().threads();
  return {
      "cpu", true,
      std::string(engine.instruction_set()) + ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads"),
      ""};
}

Napi::Value list_engines(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const EngineRow row = cpu_row(env, Environment::of(env));
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", row.name);
  object.Set("available", row.available);
  object.Set(row.available ? "detail" : "reason", row.available ? row.detail : row.reason);
  Napi::Array rows = Napi::Array::New(env);
  rows.Set(0u, object);
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

Napi::Value describe_cpu(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  CpuEngine& engine = *Environment::of(env).engine(env);
  Napi::Object cpu = Napi::Object::New(env);
  cpu.Set("instructionSet", engine.instruction_set());
  cpu.Set("threads", engine.pool().threads());
  cpu.Set("pairedBfloat16", engine.kernels(Precision::bfloat16).pairs);
#if defined(__clang__)
  cpu.Set("compiler", __VERSION__);
#else
  cpu.Set("compiler", "gcc " __VERSION__);
#endif
  return cpu;
}

Napi::Value measure_peak(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  CpuEngine& engine = *Environment::of(env).engine(env);
  const std::string kind = info[0].As<Napi::String>();
  const double seconds = info[1].As<Napi::Number>();
  double peak;
  if (kind == "read")
    peak = peak_read(engine, seconds);
  else if (kind == "copy")
    peak = peak_copy(engine, seconds);
  else
    peak = peak_operations(engine, kind == "bfloat16" ? Precision::bfloat16 : Precision::float32, seconds);
  if (peak == 0) throw make_error(env, Status::failure(Code::out_of_memory, "not enough memory to measure its speed"));
  return Napi::Number::New(env, peak);
}

Napi::Object install(Napi::Env env, Napi::Object exports) {
  Environment::install(env);
  EvaluationObject::install(env, exports);
  HeadObject::install(env, exports);
  exports.Set("listEngines", Napi::Function::New<list_engines>(env, "listEngines"));
  exports.Set("allocate", Napi::Function::New<allocate>(env, "allocate"));
  exports.Set("releaseMemory", Napi::Function::New<release_memory>(env, "releaseMemory"));
  exports.Set("describeCpu", Napi::Function::New<describe_cpu>(env, "describeCpu"));
  exports.Set("measurePeak", Napi::Function::New<measure_peak>(env, "measurePeak"));
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, install)

}  // namespace
}  // namespace marginfc::binding
