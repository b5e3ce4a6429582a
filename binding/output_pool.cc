#include "binding/output_pool.h"

namespace marginfc::binding {
namespace {

// From here on page faults matter, and a program is unlikely to want to transfer the array to another thread,
// which external memory does not allow.
constexpr size_t kSmallestBlock = size_t{1} << 20;  // floats: 4 MiB

struct Lease {
  std::shared_ptr<BufferPool> pool;
  FloatBuffer block;
};

}  // namespace

Napi::Float32Array allocate_output(Napi::Env env, const std::shared_ptr<BufferPool>& pool, size_t length) {
  if (length < kSmallestBlock) return Napi::Float32Array::New(env, length);
  auto lease = std::make_unique<Lease>();
  lease->pool = pool;
  if (!pool->take(length, &lease->block))
    throw make_error(env, Status::failure(Code::out_of_memory,
                                          "not enough memory for a result of " + std::to_string(length) + " floats"));
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
    return Napi::Float32Array::New(env, length);
  }
  lease.release();
  return Napi::Float32Array::New(env, length, Napi::ArrayBuffer(env, buffer), 0);
}

}  // namespace marginfc::binding
