// The CPU engine's threads, one pool per JavaScript environment. Owned by the environment and joined with
// it: worker threads load the addon too, and none may outlive the code it runs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace marginfc {

class ThreadPool {
 public:
  // `threads` counts the calling thread: a pool of 1 starts none. Threads start on first use.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls task(index, thread) for each index in [0, count), on all threads, and returns when all are done.
  // Each thread starts on its own contiguous part, in order, so that the same indices meet the same caches in
  // every call; who is done takes from the end of the others' parts. Tasks must not throw. Calls from
  // several threads take turns.
  void run(int64_t count, const std::function<void(int64_t index, int thread)>& task);

 private:
  // One thread's part: next index low, end high, in one word so that taking from both ends is one CAS.
  struct alignas(64) Part {
    std::atomic<uint64_t> bounds{0};
  };

  void start();
  void begin_round();
  void worker(int thread);
  void work(int thread);
  static bool take_front(Part& part, int64_t* index);
  static bool take_back(Part& part, int64_t* index);

  const int threads_;
  std::mutex turn_;  // one run() at a time
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> workers_;
  std::vector<Part> parts_;
  const std::function<void(int64_t, int)>* task_ = nullptr;
  std::atomic<uint64_t> round_{0};
  std::atomic<int> active_{0};
  // Who sleeps, so that nobody takes the mutex to wake nobody. All of these are in one order with round_ and active_: whoever goes to
  // sleep says so first and looks at those again.
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stopping_{false};
};

// Cores this process may use, or MARGINFC_THREADS.
int default_thread_count();

}  // namespace marginfc
