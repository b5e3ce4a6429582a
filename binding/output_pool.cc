#include "binding/output_pool.h"

#include <algorithm>

namespace marginfc::binding {
namespace {

// From here on page faults matter, and a program is unlikely to want to transfer the array to another thread,
// which external memory does not allow.
constexpr size_t kSmallestBlock = size_t{1} << 20;  // floats: 4 MiB
// Blocks come in steps of this size, so that a slightly different problem can use them too.
constexpr size_t kStep = size_t{1} << 19;  // floats: a huge page
// Memory that waits for the next call is at most this.
constexpr size_t kMostIdle = size_t{1} << 28;  // floats: 1 GiB

struct Lease {
  std::shared_ptr<OutputPool> pool;
  FloatBuffer block;
};

}  // namespace

Napi::Float32Array OutputPool::allocate(Napi::Env env, size_t length) {
  if (length < kSmallestBlock) return Napi::Float32Array::New(env, length);
  const size_t size = (length + kStep - 1) / kStep * kStep;
  auto lease = std::make_unique<Lease>();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    // The newest block is the warmest.
    const auto found = std::find_if(idle_.rbegin(), idle_.rend(),
                                    [size](const FloatBuffer& block) { return block.size() == size; });
    if (found != idle_.rend()) {
      lease->block = std::move(*found);
      idle_.erase(std::next(found).base());
    }
  }
  if (!lease->block && !lease->block.allocate(size)) {
    trim();
    if (!lease->block.allocate(size))
      throw make_error(env, Status::failure(Code::out_of_memory,
                                            "not enough memory for a result of " + std::to_string(length) + " floats"));
  }
  lease->pool = shared_from_this();

  napi_value buffer;
  const napi_status status = napi_create_external_arraybuffer(
      env, lease->block.data(), length * sizeof(float),
      [](napi_env, void*, void* hint) {
        const std::unique_ptr<Lease> done(static_cast<Lease*>(hint));
        done->pool->give_back(std::move(done->block));
      },
      lease.get(), &buffer);
  if (status != napi_ok) {
    give_back(std::move(lease->block));
    return Napi::Float32Array::New(env, length);
  }
  lease.release();
  return Napi::Float32Array::New(env, length, Napi::ArrayBuffer(env, buffer), 0);
}

void OutputPool::give_back(FloatBuffer block) {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(block));
  size_t total = 0;
  for (const FloatBuffer& idle : idle_) total += idle.size();
  while (total > kMostIdle) {
    total -= idle_.front().size();
    idle_.erase(idle_.begin());
  }
}

void OutputPool::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.clear();
}

}  // namespace marginfc::binding
