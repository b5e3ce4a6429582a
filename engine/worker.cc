#include "engine/worker.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

namespace marginfc {

Worker::~Worker() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool Worker::start(const std::function<void()>& work) {
  const std::lock_guard<std::mutex> lock(mutex_);
  try {
    if (!thread_.joinable()) thread_ = std::thread([this] { serve(); });
    waiting_.push_back(work);
  } catch (const std::system_error&) {
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  wake_.notify_one();
  return true;
}

void Worker::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    const std::function<void()> work = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    work();
    lock.lock();
  }
}

namespace {

std::vector<Worker*> distinct_of(const std::vector<Worker*>& workers) {
  std::vector<Worker*> distinct;
  for (Worker* worker : workers)
    if (worker && std::find(distinct.begin(), distinct.end(), worker) == distinct.end()) distinct.push_back(worker);
  return distinct;
}

}  // namespace

bool run_together(const std::vector<Worker*>& workers) { return distinct_of(workers).size() > 1; }

Status run_each(const std::vector<Worker*>& workers, const std::function<Status(size_t)>& body) {
  const size_t count = workers.size();
  const std::vector<Worker*> distinct = distinct_of(workers);
  if (distinct.size() < 2) {
    for (size_t n = 0; n < count; n++) MARGINFC_TRY(body(n));
    return {};
  }

  std::vector<Status> results(count);
  const auto run_those_of = [&](const Worker* worker) {
    for (size_t n = 0; n < count; n++) {
      if (workers[n] != worker) continue;
      results[n] = body(n);
      if (!results[n].ok()) return;
    }
  };
  std::mutex mutex;
  std::condition_variable done;
  size_t running = distinct.size();
  // All memory first: once a worker has begun, nothing here may throw.
  std::vector<std::function<void()>> tasks;
  for (Worker* worker : distinct)
    tasks.emplace_back([&, worker] {
      run_those_of(worker);
      // Under the lock to the end: the waiting thread takes both away.
      const std::lock_guard<std::mutex> lock(mutex);
      running--;
      done.notify_one();
    });
  for (size_t d = 0; d < distinct.size(); d++)
    if (!distinct[d]->start(tasks[d])) tasks[d]();
  run_those_of(nullptr);
  std::unique_lock<std::mutex> lock(mutex);
  done.wait(lock, [&] { return running == 0; });
  for (const Status& result : results)
    if (!result.ok()) return result;
  return {};
}

}  // namespace marginfc
