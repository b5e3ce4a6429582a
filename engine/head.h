// The classes that one process has of a MarginHead: shards that own their weights, and what spans them.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/worker.h"

namespace marginfc {

class Head {
 public:
  // `range`, out of `classes` that all processes have, is split into shards, which go round the engines; these outlive the
  // head.
  static Status create(const std::vector<Engine*>& engines, int64_t classes, ClassRange range, ClassShape shape,
                       int64_t shards, const Optimizer& optimizer, std::unique_ptr<Head>* head);

  // Of all processes.
  int64_t classes() const { return classes_; }
  // Of this one.
  ClassRange range() const { return range_; }
  ClassShape shape() const { return shape_; }
  std::vector<ClassShard*> shards() const;

  // Optimiser updates made. A step reads it, and counts itself when it is done.
  int64_t step_count() const { return step_count_.load(); }
  // Goes on where another head stopped, whose arrays have been written to this one.
  void resume(int64_t step_count, bool accumulated) {
    step_count_ = step_count;
    accumulated_ = accumulated;
  }
  void count_step() { step_count_++; }
  // Of steps from now on; its own step and classes are not looked at.
  void sample(const Sampling& sampling) { sampling_ = sampling; }
  // Of the next step, and of all accumulate() until the next update.
  Sampling sampling() const {
    Sampling next = sampling_;
    next.step = step_count();
    next.classes = classes_;
    return next;
  }
  // Whether there is anything for apply() to use.
  bool accumulated() const { return accumulated_; }
  void mark_accumulated() { accumulated_ = true; }

  Status initialize(double std, uint64_t seed, ClassRange classes);
  bool keeps(ClassArray array) const { return optimizer_.keeps(array); }
  // [count, sub_centers, dim], classes first .. first + count - 1, of an array that the optimiser keeps.
  Status write(int64_t first, int64_t count, const float* values, ClassArray array = ClassArray::weights);
  Status read(int64_t first, int64_t count, float* values, ClassArray array = ClassArray::weights) const;
  // As ClassShard::nearest, over all shards; k <= range().size().
  Status nearest(const Batch& batch, int64_t k, int32_t* classes, float* cosines);
  // Adds the sum of squares of the accumulated gradient.
  Status measure(double* square);
  Status apply(double learning_rate, Clip clip = {});

 private:
  Head(int64_t classes, ClassRange range, ClassShape shape, const Optimizer& optimizer)
      : classes_(classes), range_(range), shape_(shape), optimizer_(optimizer) {}

  const int64_t classes_;
  const ClassRange range_;
  const ClassShape shape_;
  const Optimizer optimizer_;
  std::vector<std::unique_ptr<ClassShard>> shards_;
  std::vector<Worker*> workers_;  // [shards]
  Sampling sampling_;
  std::atomic<int64_t> step_count_{0};  // read while a step runs
  bool accumulated_ = false;
};

}  // namespace marginfc
