// What one JavaScript environment (the main thread or a worker) owns: the CPU engine with its threads, an engine for each
// GPU that was asked for, and one thread that runs asynchronous calls in the order they came. Nothing is global but the
// loaded driver, so environments come and go on their own.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "binding/job_queue.h"
#include "binding/output_pool.h"
#include "cpu/cpu_engine.h"
#include "cuda/cuda_engine.h"

namespace marginfc::binding {

class Environment {
 public:
  static void install(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env);
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

  // Of calls that compute.
  JobQueue& calls() { return calls_; }
  // For what must not wait for calls that compute, such as a group of processes.
  JobQueue& add_queue() { return queues_.emplace_back(); }

  Napi::FunctionReference head_constructor;
  Napi::FunctionReference evaluation_constructor;

 private:
  const KernelChoice kernels_ = choose_kernels();
  std::shared_ptr<CpuEngine> cpu_;
  std::map<int32_t, std::shared_ptr<cuda::CudaEngine>> gpus_;  // those opened, by index
  const std::shared_ptr<BufferPool> outputs_ = std::make_shared<BufferPool>();

  // Last, so that their threads end before what jobs use.
  JobQueue calls_;
  std::list<JobQueue> queues_;
};

// The N of "cuda:N"; -1 for any other text.
int32_t gpu_index(const std::string& name);

}  // namespace marginfc::binding
