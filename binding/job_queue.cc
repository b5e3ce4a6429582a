#include "binding/job_queue.h"

#include <system_error>

namespace marginfc::binding {
namespace {

struct Guard {
  JobQueue* queue;
  int64_t job;  // its number
  char byte;    // something to make an array of
};

}  // namespace

// On the first asynchronous call.
void JobQueue::start(Napi::Env env) {
  notify_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "marginfc",
                                          0, 1);
  // An idle addon must not hold the event loop open.
  notify_.Unref(env);
  // Hooks run last in, first out: ours before the one that takes `notify_` away.
  env.AddCleanupHook([this] { shut_down(); });
  try {
    thread_ = std::thread([this] { serve(); });
  } catch (const std::system_error&) {
    notify_.Release();
    throw make_error(env, Status::failure(Code::out_of_memory, "the system has no thread left for asynchronous calls"));
  }
}

// When a worker is terminated, arrays of external memory (our own large results, or another addon's) go first, the
// youngest before the others; cleanup hooks run too late to stop a job that uses them. So each job gets an external
// array of its own, younger than all it works on.
void JobQueue::guard(Napi::Env env, Job& job) {
  auto guard = std::make_unique<Guard>(Guard{this, enqueued_, 0});
  napi_value array;
  const napi_status status = napi_create_external_arraybuffer(
      env, &guard->byte, sizeof guard->byte,
      [](napi_env, void*, void* hint) {
        const std::unique_ptr<Guard> guard(static_cast<Guard*>(hint));
        // An unsettled job keeps its array from being collected.
        if (guard->job >= guard->queue->settled_) guard->queue->shut_down();
      },
      guard.get(), &array);
  if (status != napi_ok) return;  // a runtime without external memory (Electron)
  guard.release();
  job.keep(Napi::Value(env, array));
}

Napi::Promise JobQueue::enqueue(Napi::Env env, std::unique_ptr<Job> job) {
  if (!thread_.joinable()) start(env);
  guard(env, *job);
  job->hold_arguments();
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

void JobQueue::serve() {
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
void JobQueue::settle(Napi::Env env) {
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

void JobQueue::shut_down() {
  if (thread_.joinable()) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      if (running_) running_->cancel();
    }
    wake_.notify_one();
    thread_.join();
    notify_.Release();
  }
  waiting_.clear();
  finished_.clear();
}

}  // namespace marginfc::binding
