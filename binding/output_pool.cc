#include "binding/output_pool.h"

namespace marginfc::binding {
namespace {

// From here on page faults matter, and a program is unlikely to want to transfer the array to another thread,
// which external memory does not allow.
constexpr size_t kSmallestBlock = size_t{1} << 20;  // floats: 4 MiB
// Blocks of arrays that nobody uses any more come back when the event loop turns. Where it does not, as in a loop of
// blocking calls, they must not pile up: with this much in use, further arrays are plain ones, which go at once.
constexpr size_t kMostLent = size_t{1} << 28;  // floats: 1 GiB

struct Lease {
  std::shared_ptr<BufferPool> pool;
  FloatBuffer block;
};

[[noreturn]] void fail(Napi::Env env, size_t length) {
  throw make_error(env, Status::failure(Code::out_of_memory,
                                        "not enough memory for a result of " + std::to_string(length) + " floats"));
}

// Through JavaScript's constructor: Node-API's own functions end the process when there is not enough memory.
Napi::Float32Array plain_array(Napi::Env env, size_t length) try {
  const auto constructor = env.Global().Get("Float32Array").As<Napi::Function>();
  return constructor.New({Napi::Number::New(env, static_cast<double>(length))}).As<Napi::Float32Array>();
} catch (const Napi::Error&) {
  fail(env, length);
}

}  // namespace

Napi::Float32Array allocate_output(Napi::Env env, const std::shared_ptr<BufferPool>& pool, size_t length) {
  if (length < kSmallestBlock || pool->lent() + length > kMostLent) return plain_array(env, length);
  auto lease = std::make_unique<Lease>();
  lease->pool = pool;
  if (!pool->take(length, &lease->block)) fail(env, length);
  napi_value buffer;
  const napi_status status = napi_create_external_arraybuffer(
      env, lease->block.data(), length * sizeof(float),
      [](napi_env, void*, void* hint) {
        const std::unique_ptr<Lease> done(static_cast<Lease*>(hint));
        done->pool->give(std::move(done->block));
      },
      lease.get(), &buffer);
  if (status != napi_ok) {
    pool->give(std::move(lease->block));
    return plain_array(env, length);
  }
  lease.release();
  return Napi::Float32Array::New(env, length, Napi::ArrayBuffer(env, buffer), 0);
}

}  // namespace marginfc::binding
