// Native memory that hangs on a JavaScript object, as the garbage collector is told: it would otherwise see an object
// of a few bytes and be in no hurry to collect it. Main thread only.
#pragma once

#include <cstdint>

#include "binding/napi_setup.h"

namespace marginfc::binding {

class HeldMemory {
 public:
  explicit HeldMemory(Napi::Env env) : env_(env) {}
  ~HeldMemory() { set(0); }
  HeldMemory(const HeldMemory&) = delete;
  HeldMemory& operator=(const HeldMemory&) = delete;

  void set(int64_t bytes) {
    if (bytes != bytes_) Napi::MemoryManagement::AdjustExternalMemory(env_, bytes - bytes_);
    bytes_ = bytes;
  }

 private:
  const Napi::Env env_;
  int64_t bytes_ = 0;
};

}  // namespace marginfc::binding
