#include "binding/job.h"

#include <new>

#include "binding/environment.h"

namespace marginfc::binding {
namespace {

const char* code_name(Code code) {
  switch (code) {
    case Code::aborted: return "ERR_ABORTED";
    case Code::out_of_memory: return "ERR_OUT_OF_MEMORY";
    case Code::not_finite: return "ERR_NOT_FINITE";
    case Code::label_range: return "ERR_LABEL_RANGE";
    case Code::margin: return "ERR_MARGIN";
    case Code::shape: return "ERR_SHAPE";
    case Code::type: return "ERR_TYPE";
    case Code::unavailable: return "ERR_ENGINE_UNAVAILABLE";
    case Code::disposed: return "ERR_DISPOSED";
    case Code::group: return "ERR_GROUP";
    case Code::group_timeout: return "ERR_GROUP_TIMEOUT";
    case Code::ok:
    case Code::internal: break;
  }
  return "ERR_INTERNAL";
}

}  // namespace

Napi::Error make_error(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message);
  error.Set("nativeCode", Napi::String::New(env, code_name(status.code)));
  return error;
}

Status Job::execute() noexcept try { return run(); } catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

void Job::hold_arguments() {
  for (const Napi::Value& value : arguments_)
    if (value.IsObject()) held_.push_back(Napi::Persistent(value.As<Napi::Object>()));
  arguments_.clear();
}

Napi::Value dispatch(const Napi::Value& mode, std::unique_ptr<Job> job) {
  const Napi::Env env = mode.Env();
  if (mode.IsString() && mode.As<Napi::String>().Utf8Value() == "async")
    return Environment::of(env).calls().enqueue(env, std::move(job));
  const Status status = job->execute();
  if (!status.ok()) throw make_error(env, status);
  return job->result(env);
}

}  // namespace marginfc::binding
