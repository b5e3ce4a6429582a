// class Head: the classes of a MarginHead; see NativeHead in src/native.ts.
#pragma once

#include <memory>

#include "binding/held_memory.h"
#include "engine/head.h"

namespace marginfc::binding {

class HeadObject : public Napi::ObjectWrap<HeadObject> {
 public:
  static void install(Napi::Env env, Napi::Object exports);
  static bool is(const Napi::Value& value);

  explicit HeadObject(const Napi::CallbackInfo& info);

  // Shared with the calls in flight, so that dispose() can let go at once.
  std::shared_ptr<Head> head(Napi::Env env) const;

 private:
  Napi::Value initialize(const Napi::CallbackInfo& info);
  void write(const Napi::CallbackInfo& info);
  void read(const Napi::CallbackInfo& info);
  void resume(const Napi::CallbackInfo& info);
  Napi::Value nearest(const Napi::CallbackInfo& info);
  Napi::Value measure(const Napi::CallbackInfo& info);
  Napi::Value apply(const Napi::CallbackInfo& info);
  Napi::Value step_count(const Napi::CallbackInfo& info);
  Napi::Value accumulated(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<Head> head_;  // holds the engine too
  HeldMemory held_;
};

}  // namespace marginfc::binding
