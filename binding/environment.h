// What one JavaScript environment (the main thread or a worker) owns: an engine with its threads, and one thread
// that runs asynchronous calls in the order they came. Nothing is global, so environments come and go on
// their own.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "binding/job.h"
#include "binding/output_pool.h"
#include "cpu/cpu_engine.h"

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
  const std::shared_ptr<CpuEngine>& engine(Napi::Env env);
  // Gives the engine's idle workspaces back; returns how many floats they were.
  size_t trim_workspaces() { return engine_ ? engine_->buffers().trim() : 0; }
  // Why engine() would throw; null if it would not.
  const char* unavailable() const { return kernels_.why; }

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
  std::shared_ptr<CpuEngine> engine_;
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

}  // namespace marginfc::binding
