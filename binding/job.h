// A call's work, from its arguments to its result. A Job owns references to every JavaScript array whose memory
// it uses, so that no garbage collection can take it in the middle.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "binding/napi_setup.h"

namespace marginfc::binding {

class JobQueue;

class Job {
 public:
  virtual ~Job() = default;

  // Off the main thread when the call is asynchronous: must not touch JavaScript.
  virtual Status run() = 0;
  // run(), with memory that runs out as a failure like any other.
  Status execute() noexcept;
  // On the main thread, after a successful run().
  virtual Napi::Value result(Napi::Env env) { return env.Undefined(); }
  // Makes run() return soon, if it can.
  virtual void cancel() {}

  // Keeps `value`, an argument or found in one, alive as long as the job.
  void keep(const Napi::Value& value) { arguments_.push_back(value); }

 private:
  friend class JobQueue;

  // What a blocking call keeps its own handles to is held for one that outlives them.
  void hold_arguments();

  std::vector<Napi::Value> arguments_;  // handles of the call
  std::vector<Napi::ObjectReference> held_;
  std::optional<Napi::Promise::Deferred> deferred_;
  Status status_;
};

// Runs `job` now and returns its result or throws (mode 'sync'), or queues it and returns a promise ('async').
Napi::Value dispatch(const Napi::Value& mode, std::unique_ptr<Job> job);

}  // namespace marginfc::binding
