#include "binding/environment.h"

namespace marginfc::binding {

void Environment::install(Napi::Env env) { env.SetInstanceData(new Environment(env)); }

Environment::Environment(Napi::Env) {}

Environment::~Environment() { shut_down(); }

const std::shared_ptr<CpuEngine>& Environment::engine(Napi::Env env) {
  if (!kernels_.plain) throw make_error(env, Status::failure(Code::unavailable, kernels_.why));
  if (!engine_) engine_ = std::make_shared<CpuEngine>(kernels_, default_thread_count());
  return engine_;
}

// On the first asynchronous call.
void Environment::start(Napi::Env env) {
  notify_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "marginfc",
                                          0, 1);
  // An idle addon must not hold the event loop open.
  notify_.Unref(env);
  // Hooks run last in, first out: ours before the one that takes `notify_` away.
  env.AddCleanupHook([this] { shut_down(); });
  dispatcher_ = std::thread([this] { serve(); });
}

Napi::Promise Environment::enqueue(Napi::Env env, std::unique_ptr<Job> job) {
  if (!dispatcher_.joinable()) start(env);
  job->deferred_.emplace(env);
  const Napi::Promise promise = job->deferred_->Promise();
  if (unsettled_++ == 0) notify_.Ref(env);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(job));
  }
  wake_.notify_one();
  return promise;
}

void Environment::serve() {
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
    job->status_ = job->run();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      running_ = nullptr;
      finished_.push_back(std::move(job));
      if (stopping_) return;
    }
    notify_.NonBlockingCall([this](Napi::Env env, Napi::Function) { settle(env); });
  }
}

void Environment::settle(Napi::Env env) {
  const Napi::HandleScope scope(env);
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (finished_.empty()) break;
      job = std::move(finished_.front());
      finished_.pop_front();
    }
    if (--unsettled_ == 0) notify_.Unref(env);
    if (job->status_.ok())
      job->deferred_->Resolve(job->result(env));
    else
      job->deferred_->Reject(make_error(env, job->status_).Value());
  }
}

void Environment::shut_down() {
  if (dispatcher_.joinable()) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      if (running_) running_->cancel();
    }
    wake_.notify_one();
    dispatcher_.join();
    notify_.Release();
  }
  waiting_.clear();
  finished_.clear();
}

}  // namespace marginfc::binding
