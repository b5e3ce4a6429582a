// A thread of an engine's own, so that shards on several devices run at the same time. engine/evaluation.cc and
// engine/head.cc hand it the calls of that engine's shards; an engine whose shards use all cores anyway has none.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/status.h"

namespace marginfc {

class Worker {
 public:
  Worker() = default;
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Runs `work`, which must not throw, after what was given before it. False when the system has no thread or memory left.
  [[nodiscard]] bool start(const std::function<void()>& work);

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> waiting_;  // guarded by mutex_
  bool stopping_ = false;                      // guarded by mutex_
  std::thread thread_;                         // on first use; guarded by mutex_
};

// Whether run_each() runs anything at the same time: at least two workers are named.
bool run_together(const std::vector<Worker*>& workers);

// Calls body(0) .. body(workers.size() - 1), each on its worker, those of one worker in order; null: on the caller's
// thread. Unless run_together() it calls them one after the other and stops at the first failure. Returns the failure of
// the lowest index.
Status run_each(const std::vector<Worker*>& workers, const std::function<Status(size_t)>& body);

}  // namespace marginfc
