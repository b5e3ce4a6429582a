#include "cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>

namespace marginfc {
namespace {

// How often a worker looks for the next round before it sleeps: phases follow each other within
// microseconds, and waking a sleeper costs more than a small problem's whole phase.
constexpr int kSpins = 4000;

uint64_t pack(uint32_t next, uint32_t end) { return (static_cast<uint64_t>(end) << 32) | next; }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

int default_thread_count() {
  if (const char* text = std::getenv("MARGINFC_THREADS")) {
    const long value = std::strtol(text, nullptr, 10);
    if (value >= 1) return static_cast<int>(std::min(value, 1024L));
  }
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
  return std::max(1u, std::thread::hardware_concurrency());
}

ThreadPool::ThreadPool(int threads) : threads_(std::max(1, threads)), parts_(threads_) {}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  begin_round();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::start() {
  workers_.reserve(threads_ - 1);
  // A system that refuses a thread leaves fewer workers; the rest take its part.
  try {
    while (static_cast<int>(workers_.size()) < threads_ - 1) {
      const int thread = static_cast<int>(workers_.size()) + 1;
      workers_.emplace_back([this, thread] { worker(thread); });
    }
  } catch (const std::system_error&) {
  }
}

bool ThreadPool::take_front(Part& part, int64_t* index) {
  uint64_t bounds = part.bounds.load(std::memory_order_relaxed);
  for (;;) {
    const auto next = static_cast<uint32_t>(bounds), end = static_cast<uint32_t>(bounds >> 32);
    if (next >= end) return false;
    if (part.bounds.compare_exchange_weak(bounds, pack(next + 1, end), std::memory_order_relaxed)) {
      *index = next;
      return true;
    }
  }
}

bool ThreadPool::take_back(Part& part, int64_t* index) {
  uint64_t bounds = part.bounds.load(std::memory_order_relaxed);
  for (;;) {
    const auto next = static_cast<uint32_t>(bounds), end = static_cast<uint32_t>(bounds >> 32);
    if (next >= end) return false;
    if (part.bounds.compare_exchange_weak(bounds, pack(next, end - 1), std::memory_order_relaxed)) {
      *index = end - 1;
      return true;
    }
  }
}

void ThreadPool::work(int thread) {
  int64_t index;
  while (take_front(parts_[thread], &index)) (*task_)(index, thread);
  for (int step = 1; step < threads_; step++)
    while (take_back(parts_[(thread + step) % threads_], &index)) (*task_)(index, thread);
}

void ThreadPool::worker(int thread) {
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (round_.load(std::memory_order_acquire) == seen && spins < kSpins) {
      pause();
      spins++;
    }
    if (round_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_++;
      wake_.wait(lock, [&] { return round_ != seen; });
      sleepers_--;
    }
    seen = round_.load(std::memory_order_acquire);
    if (stopping_) return;
    work(thread);
    if (--active_ == 0 && caller_sleeps_) {
      std::lock_guard<std::mutex> lock(mutex_);  // the caller is either before its check or asleep
      done_.notify_one();
    }
  }
}

void ThreadPool::begin_round() {
  round_++;
  if (sleepers_ == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);  // a sleeper is either before its check or asleep
  wake_.notify_all();
}

void ThreadPool::run(int64_t count, const std::function<void(int64_t, int)>& task) {
  if (count <= 0) return;
  std::lock_guard<std::mutex> turn(turn_);
  if (threads_ == 1 || count == 1) {
    for (int64_t index = 0; index < count; index++) task(index, 0);
    return;
  }
  if (workers_.empty()) start();
  const int active = static_cast<int>(workers_.size());
  for (int t = 0; t < threads_; t++) {
    const auto first = static_cast<uint32_t>(count * t / threads_);
    const auto last = static_cast<uint32_t>(count * (t + 1) / threads_);
    parts_[t].bounds.store(pack(first, last), std::memory_order_relaxed);
  }
  task_ = &task;
  active_.store(active, std::memory_order_relaxed);
  begin_round();
  work(0);
  for (int spins = 0; active_.load(std::memory_order_acquire) != 0 && spins < kSpins; spins++) pause();
  if (active_.load(std::memory_order_acquire) != 0) {
    std::unique_lock<std::mutex> lock(mutex_);
    caller_sleeps_ = true;
    done_.wait(lock, [&] { return active_ == 0; });
    caller_sleeps_ = false;
  }
}

}  // namespace marginfc
