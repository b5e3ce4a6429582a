// class Group: processes that exchange arrays; see NativeGroup in src/native.ts.
#pragma once

#include <memory>

#include "binding/napi_setup.h"
#include "group/communicator.h"

namespace marginfc::binding {

class JobQueue;

class GroupObject : public Napi::ObjectWrap<GroupObject> {
 public:
  static void install(Napi::Env env, Napi::Object exports);

  explicit GroupObject(const Napi::CallbackInfo& info);

 private:
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value run(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  void close_at_exit(const Napi::CallbackInfo& info);

  JobQueue& queue_;  // collectives do not wait for calls that compute, nor these for them
  std::shared_ptr<group::Communicator> communicator_;
};

// Name and version of MPI, or why it is missing, of the shim at the path in info[0].
Napi::Value describe_mpi(const Napi::CallbackInfo& info);

// See Addon in src/native.ts.
Napi::Value describe_nccl(const Napi::CallbackInfo& info);
Napi::Value nccl_missing(const Napi::CallbackInfo& info);
Napi::Value make_nccl_id(const Napi::CallbackInfo& info);

}  // namespace marginfc::binding
