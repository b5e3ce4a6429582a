// The CPU engine: engine.h on this machine's cores. cpu/ may include engine/ and the system, nothing else.
//
//   cpu_engine   the engine: kernels, threads, shards
//   shard        a class range: weights, optimiser state
//   pass         a batch against a shard: the phases
//   buffer_pool  workspaces and results that stay warm from call to call
//   class_block  a few dozen class rows made ready for the kernels
//   kernels      the inner loops, one object per instruction set (kernels.h first)
//   peak         what this machine can do at most, for benchmarks
//   unfused      the same loss by separate passes, for benchmarks
#pragma once

#include "cpu/buffer_pool.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "engine/engine.h"

namespace marginfc {

class CpuEngine final : public Engine {
 public:
  // `choice` from choose_kernels(), with kernels. Threads start on first use.
  CpuEngine(const KernelChoice& choice, int threads) : choice_(choice), pool_(threads) {}

  Status borrow(ClassRange range, ClassShape shape, const ClassRows& weights,
                std::unique_ptr<ClassShard>* shard) override;
  Status own(ClassRange range, ClassShape shape, const Optimizer& optimizer,
             std::unique_ptr<ClassShard>* shard) override;
  Status triplets(const Batch& batch, const TripletRule& rule, const std::vector<double>& weight, bool mean,
                  Triplets* triplets) override;

  // For float32 operands, and for rows outside the products.
  const Kernels& kernels() const { return *choice_.plain; }
  // For operands of this type.
  const Kernels& kernels(Precision operands) const {
    return operands == Precision::bfloat16 && choice_.paired ? *choice_.paired : *choice_.plain;
  }
  const char* instruction_set() const { return choice_.name; }
  ThreadPool& pool() { return pool_; }
  BufferPool& buffers() { return buffers_; }

 private:
  const KernelChoice choice_;
  ThreadPool pool_;
  BufferPool buffers_;
};

}  // namespace marginfc
