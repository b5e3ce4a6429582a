#include "binding/environment.h"

namespace marginfc::binding {
int32_t gpu_index(const std::string& name) {
  const std::string prefix = "cuda:";
  if (name.compare(0, prefix.size(), prefix) != 0 || name.size() == prefix.size() || name.size() > prefix.size() + 9)
    return -1;
  int32_t index = 0;
  for (size_t i = prefix.size(); i < name.size(); i++) {
    if (name[i] < '0' || name[i] > '9') return -1;
    index = 10 * index + (name[i] - '0');
  }
  return index;
}

void Environment::install(Napi::Env env) { env.SetInstanceData(new Environment(env)); }

Environment::Environment(Napi::Env) {}

const std::shared_ptr<CpuEngine>& Environment::cpu(Napi::Env env) {
  if (!kernels_.plain) throw make_error(env, Status::failure(Code::unavailable, kernels_.why));
  if (!cpu_) cpu_ = std::make_shared<CpuEngine>(kernels_, default_thread_count());
  return cpu_;
}

Status Environment::gpu(int32_t index, std::shared_ptr<cuda::CudaEngine>* engine) {
  const auto opened = gpus_.find(index);
  if (opened != gpus_.end()) {
    *engine = opened->second;
    return {};
  }
  MARGINFC_TRY(cuda::CudaEngine::create(index, engine));
  gpus_[index] = *engine;
  return {};
}

std::shared_ptr<Engine> Environment::engine(Napi::Env env, const std::string& name) {
  if (name == "cpu") return cpu(env);
  const int32_t index = gpu_index(name);
  if (index < 0) throw make_error(env, Status::failure(Code::unavailable, "there is no engine " + name));
  std::shared_ptr<cuda::CudaEngine> engine;
  const Status status = gpu(index, &engine);
  if (!status.ok()) throw make_error(env, status);
  return engine;
}

std::vector<std::shared_ptr<Engine>> Environment::engines(const Napi::Value& names) {
  const Napi::Env env = names.Env();
  std::vector<std::shared_ptr<Engine>> found;
  if (names.IsArray()) {
    const auto array = names.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); i++) found.push_back(engine(env, array.Get(i).ToString().Utf8Value()));
  }
  if (found.empty()) throw make_error(env, Status::failure(Code::type, "engines must be an array of names"));
  return found;
}

std::vector<EngineRow> Environment::rows(Napi::Env env) {
  EngineRow row;
  row.name = "cpu";
  row.available = kernels_.plain != nullptr;
  if (row.available) {
    const int threads = cpu(env)->pool().threads();
    row.detail = std::string(cpu_->instruction_set()) + ", " + std::to_string(threads) +
                 (threads == 1 ? " thread" : " threads");
  } else {
    row.reason = kernels_.why;
  }
  std::vector<EngineRow> rows = cuda::cuda_devices();
  rows.insert(rows.begin(), std::move(row));
  return rows;
}

size_t Environment::trim_workspaces() {
  size_t bytes = cpu_ ? cpu_->buffers().trim() * sizeof(float) : 0;
  for (const auto& [index, engine] : gpus_) bytes += engine->trim();
  return bytes;
}

}  // namespace marginfc::binding
