// Memory for results: large arrays are made from pooled blocks that come back when their array is collected.
#pragma once

#include <cstddef>
#include <memory>

#include "binding/napi_setup.h"
#include "cpu/buffer_pool.h"

namespace marginfc::binding {

// `length` floats, contents unspecified. Small arrays, and all where the runtime allows no external memory
// (Electron), are plain ones. Arrays may outlive the environment that made them, hence the shared pool.
Napi::Float32Array allocate_output(Napi::Env env, const std::shared_ptr<BufferPool>& pool, size_t length);

}  // namespace marginfc::binding
