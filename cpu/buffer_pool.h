// Blocks that are used again. The page faults of fresh memory cost more than any detail of a kernel, and a short
// call would allocate and clear its small ones each time, so workspaces and results are kept warm for the next call.
#pragma once

#include <mutex>
#include <vector>

#include "cpu/memory.h"

namespace marginfc {

class BufferPool {
 public:
  // A block of at least `size` floats with any contents: an idle one that is not much larger, else a new one. False when
  // there is not enough memory even after idle blocks are given back.
  [[nodiscard]] bool take(size_t size, FloatBuffer* block);
  // The newest blocks stay, up to a total; the rest goes back to the system.
  void give(FloatBuffer block);
  // Gives all idle blocks back to the system; returns how many floats they were.
  size_t trim();
  // Floats in blocks that were taken and not yet given back.
  size_t lent();

 private:
  std::mutex mutex_;
  std::vector<FloatBuffer> idle_;  // guarded by mutex_; oldest first
  size_t lent_ = 0;                // guarded by mutex_
};

// A block that returns to its pool.
class PooledBuffer {
 public:
  PooledBuffer() = default;
  ~PooledBuffer() { release(); }
  PooledBuffer(PooledBuffer&& other) noexcept : pool_(other.pool_), block_(std::move(other.block_)) {}
  PooledBuffer& operator=(PooledBuffer&&) = delete;

  // `size` floats with any contents; as it is when it has them already. The pool must outlive this.
  [[nodiscard]] bool allocate(BufferPool& pool, size_t size);
  void release();

  float* data() { return block_.data(); }
  const float* data() const { return block_.data(); }
  explicit operator bool() const { return static_cast<bool>(block_); }

 private:
  BufferPool* pool_ = nullptr;
  FloatBuffer block_;
};

}  // namespace marginfc
