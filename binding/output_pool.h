// Memory for results. Gradients of many classes are hundreds of megabytes, and the page faults of fresh memory cost
// more than any detail of a kernel; so large arrays are made from blocks on huge pages that come back when their
// array is collected.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "binding/napi_setup.h"
#include "cpu/memory.h"

namespace marginfc::binding {

class OutputPool : public std::enable_shared_from_this<OutputPool> {
 public:
  // `length` floats, contents unspecified. Small arrays, and all where the runtime allows no external memory
  // (Electron), are plain ones.
  Napi::Float32Array allocate(Napi::Env env, size_t length);
  // Gives idle blocks back to the system.
  void trim();

 private:
  void give_back(FloatBuffer block);

  std::mutex mutex_;
  std::vector<FloatBuffer> idle_;  // guarded by mutex_; oldest first
};

}  // namespace marginfc::binding
