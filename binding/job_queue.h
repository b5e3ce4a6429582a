// A thread that runs jobs in the order they came; their promises settle in that order. The thread starts with the first
// job. Main thread only, but for the thread itself.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "binding/job.h"

namespace marginfc::binding {

// Lives until the JavaScript environment ends: arrays of finished jobs still refer to it.
class JobQueue {
 public:
  JobQueue() = default;
  ~JobQueue() { shut_down(); }
  JobQueue(const JobQueue&) = delete;
  JobQueue& operator=(const JobQueue&) = delete;

  Napi::Promise enqueue(Napi::Env env, std::unique_ptr<Job> job);
  bool idle() const { return enqueued_ == settled_; }
  // Cancels the job that runs, forgets the others and joins the thread, before anything they use goes away.
  void shut_down();

 private:
  void start(Napi::Env env);
  void serve();
  void settle(Napi::Env env);
  // Sees to it that shut_down() is called before Node frees memory of the job's arrays.
  void guard(Napi::Env env, Job& job);

  std::thread thread_;
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
