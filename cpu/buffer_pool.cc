#include "cpu/buffer_pool.h"

#include <algorithm>
#include <iterator>

namespace marginfc {
namespace {

constexpr size_t kHugePage = size_t{1} << 19;  // floats: 2 MiB
// Blocks that wait for the next call are at most this together, and at most so many.
constexpr size_t kMostIdle = size_t{1} << 28;  // floats: 1 GiB
constexpr size_t kMostBlocks = 1024;

}  // namespace

bool BufferPool::take(size_t size, FloatBuffer* block) {
  size = std::max<size_t>(size, 1);
  // In steps, so that a slightly different problem finds the block too.
  if (size >= kHugePage) size = (size + kHugePage - 1) / kHugePage * kHugePage;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    // The newest first: what was taken last was given back first, so a call like the last one finds its blocks at once.
    auto best = idle_.rend();
    for (auto it = idle_.rbegin(); it != idle_.rend() && (best == idle_.rend() || best->size() != size); ++it)
      if (it->size() >= size && it->size() <= size + size / 2 && (best == idle_.rend() || it->size() < best->size()))
        best = it;
    if (best != idle_.rend()) {
      *block = std::move(*best);
      idle_.erase(std::next(best).base());
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
  while (total > kMostIdle || idle_.size() > kMostBlocks) {
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
  return pool.take(size, &block_);
}

void PooledBuffer::release() {
  if (block_) pool_->give(std::move(block_));
}

}  // namespace marginfc
