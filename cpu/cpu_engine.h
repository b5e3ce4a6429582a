// The CPU engine: engine.h on this machine's cores. cpu/ may include engine/ and the system, nothing else.
//
//   cpu_engine   the engine: kernels, threads, shards
//   shard        a class range: weights, optimiser state
//   pass         a batch against a shard: the phases
//   buffer_pool  workspaces and results that stay warm from call to call
//   class_block  a few dozen class rows made ready for the kernels
//   kernels      the inner loops, one object per instruction set (kernels.h first)
#pragma once

#include "cpu/buffer_pool.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "engine/engine.h"

namespace marginfc {

class CpuEngine final : public Engine {
 public:
  // `kernels` from choose_kernels(). Threads start on first use.
  CpuEngine(const Kernels& kernels, int threads) : kernels_(kernels), pool_(threads) {}

  Status borrow(ClassRange range, int32_t dim, const float* weights, std::unique_ptr<ClassShard>* shard) override;
  Status own(ClassRange range, int32_t dim, const Optimizer& optimizer, std::unique_ptr<ClassShard>* shard) override;
  size_t keep_bytes(int64_t rows, int64_t classes) const override;

  const Kernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  BufferPool& buffers() { return buffers_; }

 private:
  const Kernels& kernels_;
  ThreadPool pool_;
  BufferPool buffers_;
};

}  // namespace marginfc
