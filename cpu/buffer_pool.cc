#include "cpu/buffer_pool.h"

#include <algorithm>

namespace marginfc {
namespace {

constexpr size_t kHugePage = size_t{1} << 19;  // floats: 2 MiB
// Smaller blocks are the allocator's business; larger ones it may give back to the system and fetch anew in each call.
constexpr size_t kSmallest = size_t{1} << 12;  // floats: 16 KiB
// Blocks that wait for the next call are at most this together.
constexpr size_t kMostIdle = size_t{1} << 28;  // floats: 1 GiB

}  // namespace

bool BufferPool::take(size_t size, FloatBuffer* block) {
  size = std::max<size_t>(size, 1);
  // In steps, so that a slightly different problem finds the block too.
  if (size >= kHugePage) size = (size + kHugePage - 1) / kHugePage * kHugePage;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto best = idle_.end();
    for (auto it = idle_.begin(); it != idle_.end(); ++it)
      if (it->size() >= size && it->size() <= size + size / 2 && (best == idle_.end() || it->size() <= best->size()))
        best = it;
    if (best != idle_.end()) {
      *block = std::move(*best);
      idle_.erase(best);
      lent_ += block->size();
      return true;
    }
  }
  if (!block->allocate(size)) {
    trim();
    if (!block->allocate(size)) return false;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  lent_ += block->size();
  return true;
}

void BufferPool::give(FloatBuffer block) {
  std::lock_guard<std::mutex> lock(mutex_);
  lent_ -= block.size();
  idle_.push_back(std::move(block));
  size_t total = 0;
  for (const FloatBuffer& idle : idle_) total += idle.size();
  while (total > kMostIdle) {
    total -= idle_.front().size();
    idle_.erase(idle_.begin());
  }
}

size_t BufferPool::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t total = 0;
  for (const FloatBuffer& idle : idle_) total += idle.size();
  idle_.clear();
  return total;
}

size_t BufferPool::lent() {
  std::lock_guard<std::mutex> lock(mutex_);
  return lent_;
}

bool PooledBuffer::allocate(BufferPool& pool, size_t size) {
  if (block_ && block_.size() >= size) return true;
  release();
  pool_ = &pool;
  return size < kSmallest ? block_.allocate(size) : pool.take(size, &block_);
}

void PooledBuffer::release() {
  if (block_.size() >= kSmallest)
    pool_->give(std::move(block_));
  else
    block_.release();
}

}  // namespace marginfc
