// What the addon exports; src/native.ts has the types.
#include <algorithm>

#include "binding/arguments.h"
#include "binding/environment.h"
#include "binding/evaluation_object.h"
#include "binding/group_object.h"
#include "binding/head_object.h"
#include "cpu/peak.h"
#include "cpu/unfused.h"
#include "cuda/embedded_kernels.h"

namespace marginfc::binding {
namespace {

Napi::Object row_object(Napi::Env env, const EngineRow& row) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", row.name);
  object.Set("available", row.available);
  object.Set(row.available ? "detail" : "reason", row.available ? row.detail : row.reason);
  return object;
}

Napi::Value list_engines(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array objects = Napi::Array::New(env);
  for (const EngineRow& row : Environment::of(env).rows(env)) objects.Set(objects.Length(), row_object(env, row));
  return objects;
}

Napi::Value open_gpu(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  EngineRow row;
  row.name = info[0].ToString().Utf8Value();
  std::shared_ptr<cuda::CudaEngine> engine;
  const Status status = Environment::of(env).gpu(gpu_index(row.name), &engine);
  row.available = status.ok();
  row.reason = status.message;
  if (engine) row.detail = engine->device().description();
  Napi::Object object = row_object(env, row);
  if (engine) object.Set("bfloat16", engine->multiplies(Precision::bfloat16));
  return object;
}

// (name, true) starts, (name, false) stops and returns the times.
Napi::Value time_launches(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::shared_ptr<cuda::CudaEngine> engine;
  Status status = Environment::of(env).gpu(gpu_index(info[0].ToString().Utf8Value()), &engine);
  std::vector<cuda::LaunchTime> times;
  if (status.ok())
    status = info[1].ToBoolean() ? engine->device().start_timing() : engine->device().stop_timing(&times);
  if (!status.ok()) throw make_error(env, status);
  Napi::Array rows = Napi::Array::New(env);
  for (const cuda::LaunchTime& time : times) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("kernel", time.kernel);
    row.Set("milliseconds", time.milliseconds);
    rows.Set(rows.Length(), row);
  }
  return rows;
}

// (name, on)
void use_graphs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::shared_ptr<cuda::CudaEngine> engine;
  Status status = Environment::of(env).gpu(gpu_index(info[0].ToString().Utf8Value()), &engine);
  if (status.ok()) status = engine->device().use_graphs(info[1].ToBoolean());
  if (!status.ok()) throw make_error(env, status);
}

Napi::Value describe_cuda(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object object = Napi::Object::New(env);
  const EmbeddedKernels kernels = embedded_kernels();
  if (kernels.missing)
    object.Set("kernelsMissing", kernels.missing);
  else
    object.Set("kernels", kernels.contents);
  const cuda::Driver& driver = cuda::driver();
  if (driver.version > 0) object.Set("driver", cuda::version_text(driver.version));
  if (!driver.available()) object.Set("driverMissing", driver.reason);
  object.Set("devices", driver.devices);
  return object;
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int64_t length = info[0].As<Napi::Number>().Int64Value();
  return allocate_output(env, Environment::of(env).outputs(), static_cast<size_t>(length));
}

Napi::Value release_memory(const Napi::CallbackInfo& info) {
  Environment& environment = Environment::of(info.Env());
  const size_t bytes = environment.outputs()->trim() * sizeof(float) + environment.trim_workspaces();
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

Napi::Value describe_cpu(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  CpuEngine& engine = *Environment::of(env).cpu(env);
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
  CpuEngine& engine = *Environment::of(env).cpu(env);
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

Napi::Value unfused(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object given = info[0].ToObject();
  const Span<int32_t> labels = int_array(given.Get("labels"), "labels");
  const Span<float> weights = float_array(given.Get("weights"), "weights");
  UnfusedProblem problem;
  problem.dim = static_cast<int32_t>(std::max(number(given, "dim"), 1.0));
  problem.rows = labels.size;
  problem.classes = weights.size / problem.dim;
  problem.labels = labels.data;
  problem.weights = weights.data;
  problem.scale = number(given, "scale");
  problem.m = number(given, "m");
  for (int64_t i = 0; i < labels.size; i++)
    if (labels.data[i] < 0 || labels.data[i] >= problem.classes)
      throw make_error(env, Status::failure(Code::label_range, "labels must be class ids"));
  const auto matrix = [&](const char* name, int64_t size) {
    const Span<float> values = float_array(given.Get(name), name);
    require_size(env, values.size, size, name);
    return values.data;
  };
  problem.features = matrix("features", problem.rows * problem.dim);
  const UnfusedResult result{matrix("rowLoss", problem.rows), matrix("dFeatures", problem.rows * problem.dim),
                             matrix("dWeights", problem.classes * problem.dim)};
  const Status status = unfused_arcface(*Environment::of(env).cpu(env), problem, result);
  if (!status.ok()) throw make_error(env, status);
  return env.Undefined();
}

Napi::Object install(Napi::Env env, Napi::Object exports) {
  Environment::install(env);
  EvaluationObject::install(env, exports);
  HeadObject::install(env, exports);
  GroupObject::install(env, exports);
  exports.Set("listEngines", Napi::Function::New<list_engines>(env, "listEngines"));
  exports.Set("openGpu", Napi::Function::New<open_gpu>(env, "openGpu"));
  exports.Set("useGraphs", Napi::Function::New<use_graphs>(env, "useGraphs"));
  exports.Set("timeLaunches", Napi::Function::New<time_launches>(env, "timeLaunches"));
  exports.Set("describeCuda", Napi::Function::New<describe_cuda>(env, "describeCuda"));
  exports.Set("describeMpi", Napi::Function::New<describe_mpi>(env, "describeMpi"));
  exports.Set("describeNccl", Napi::Function::New<describe_nccl>(env, "describeNccl"));
  exports.Set("ncclMissing", Napi::Function::New<nccl_missing>(env, "ncclMissing"));
  exports.Set("makeNcclId", Napi::Function::New<make_nccl_id>(env, "makeNcclId"));
  exports.Set("allocate", Napi::Function::New<allocate>(env, "allocate"));
  exports.Set("releaseMemory", Napi::Function::New<release_memory>(env, "releaseMemory"));
  exports.Set("describeCpu", Napi::Function::New<describe_cpu>(env, "describeCpu"));
  exports.Set("measurePeak", Napi::Function::New<measure_peak>(env, "measurePeak"));
  exports.Set("unfused", Napi::Function::New<unfused>(env, "unfused"));
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, install)

}  // namespace
}  // namespace marginfc::binding
