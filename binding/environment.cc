#include "binding/environment.h"

#include <system_error>

namespace marginfc::binding {
namespace {

struct Guard {
  Environment* environment;
  int64_t job;  // its number
  char byte;    // something to make an array of
};

}  // namespace

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

Environment::~Environment() { shut_down(); }

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

// On the first asynchronous call.
void Environment::start(Napi::Env env) {
  notify_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "marginfc",
                                          0, 1);
  // An idle addon must not hold the event loop open.
  notify_.Unref(env);
  // Hooks run last in, first out: ours before the one that takes `notify_` away.
  env.AddCleanupHook([this] { shut_down(); });
  try {
    dispatcher_ = std::thread([this] { serve(); });
  } catch (const std::system_error&) {
    notify_.Release();
    throw make_error(env, Status::failure(Code::out_of_memory, "the system has no thread left for asynchronous calls"));
  }
}

// When a worker is terminated, arrays of external memory (our own large results, or another addon's) go first, the
// youngest before the others; cleanup hooks run too late to stop a job that uses them. So each job gets an external
// array of its own, younger than all it works on.
void Environment::guard(Napi::Env env, Job& job) {
  auto guard = std::make_unique<Guard>(Guard{this, enqueued_, 0});
  napi_value array;
  const napi_status status = napi_create_external_arraybuffer(
      env, &guard->byte, sizeof guard->byte,
      [](napi_env, void*, void* hint) {
        const std::unique_ptr<Guard> guard(static_cast<Guard*>(hint));
        // An unsettled job keeps its array from being collected.
        if (guard->job >= guard->environment->settled_) guard->environment->shut_down();
      },
      guard.get(), &array);
  if (status != napi_ok) return;  // a runtime without external memory (Electron)
  guard.release();
  job.keep(Napi::Value(env, array));
}

Napi::Promise Environment::enqueue(Napi::Env env, std::unique_ptr<Job> job) {
  if (!dispatcher_.joinable()) start(env);
  guard(env, *job);
  job->deferred_.emplace(env);
  const Napi::Promise promise = job->deferred_->Promise();
  if (enqueued_++ == settled_) notify_.Ref(env);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(job));
  }
  wake_.notify_one();
  return promise;
}

void Environment::serve() {
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      job = std::move(waiting_.front());
      waiting_.pop_front();
      running_ = job.get();
    }
    job->status_ = job->execute();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      running_ = nullptr;
      finished_.push_back(std::move(job));
      if (stopping_) return;
    }
    notify_.NonBlockingCall([this](Napi::Env env, Napi::Function) { settle(env); });
  }
}

// Settles one job, so that what awaits it goes on before the next one settles.
void Environment::settle(Napi::Env env) {
  std::unique_ptr<Job> job;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (finished_.empty()) return;
    job = std::move(finished_.front());
    finished_.pop_front();
  }
  const Napi::HandleScope scope(env);
  if (++settled_ == enqueued_) notify_.Unref(env);
  if (job->status_.ok())
    job->deferred_->Resolve(job->result(env));
  else
    job->deferred_->Reject(make_error(env, job->status_).Value());
}

void Environment::shut_down() {
  if (dispatcher_.joinable()) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      if (running_) running_->cancel();
    }
    wake_.notify_one();
    dispatcher_.join();
    notify_.Release();
  }
  waiting_.clear();
  finished_.clear();
}

}  // namespace marginfc::binding
