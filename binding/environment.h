// What one JavaScript environment (the main thread or a worker) owns: the CPU engine with its threads, an engine for each
// GPU that was asked for, and one thread that runs asynchronous calls in the order they came. Nothing is global but the
// loaded driver, so environments come and go on their own.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "binding/job.h"
#include "binding/output_pool.h"
#include "cpu/cpu_engine.h"
#include "cuda/cuda_engine.h"

namespace marginfc::binding {

class Environment {
 public:
  static void install(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env);
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  // The CPU engine, shared with whatever holds memory of its; throws where MARGINFC_ISA asks for one this machine lacks.
  const std::shared_ptr<CpuEngine>& cpu(Napi::Env env);
  // GPU `index`, opened on first use and kept; a failure says why it cannot be used.
  Status gpu(int32_t index, std::shared_ptr<cuda::CudaEngine>* engine);
  // By name, "cpu" or "cuda:N"; throws where there is no such engine.
  std::shared_ptr<Engine> engine(Napi::Env env, const std::string& name);
  // Of an array of names.
  std::vector<std::shared_ptr<Engine>> engines(const Napi::Value& names);
  // A row for each engine; GPUs that were not asked for are opened only to see whether they can be used.
  std::vector<EngineRow> rows(Napi::Env env);

  // Gives idle workspaces back; returns how many bytes they were.
  size_t trim_workspaces();

  const std::shared_ptr<BufferPool>& outputs() const { return outputs_; }

  Napi::Promise enqueue(Napi::Env env, std::unique_ptr<Job> job);

  Napi::FunctionReference head_constructor;

 private:
  void start(Napi::Env env);
  void serve();
  void settle(Napi::Env env);
  // Stops and joins every thread, before anything they use goes away.
  void shut_down();
  // Sees to it that shut_down() is called before Node frees memory of the job's arrays.
  void guard(Napi::Env env, Job& job);

  const KernelChoice kernels_ = choose_kernels();
  std::shared_ptr<CpuEngine> cpu_;
  std::map<int32_t, std::shared_ptr<cuda::CudaEngine>> gpus_;  // those opened, by index
  const std::shared_ptr<BufferPool> outputs_ = std::make_shared<BufferPool>();

  std::thread dispatcher_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;                      // guarded by mutex_
  Job* running_ = nullptr;                     // guarded by mutex_
  std::deque<std::unique_ptr<Job>> waiting_;   // guarded by mutex_
  std::deque<std::unique_ptr<Job>> finished_;  // guarded by mutex_
  int64_t enqueued_ = 0;                       // main thread only
  int64_t settled_ = 0;                        // main thread only; jobs settle in order
  Napi::ThreadSafeFunction notify_;
};

// The N of "cuda:N"; -1 for any other text.
int32_t gpu_index(const std::string& name);

}  // namespace marginfc::binding
