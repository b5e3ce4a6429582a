// A range of classes on the CPU: weights of the caller's, or its own with the optimiser's state.
#pragma once

#include <vector>

#include "cpu/buffer_pool.h"
#include "cpu/cpu_engine.h"
#include "cpu/memory.h"
#include "engine/sampling.h"

namespace marginfc {

// How classes are drawn on the engine's threads.
RunBlocks run_blocks(ThreadPool& pool);

class CpuShard final : public ClassShard {
 public:
  // `weights` null: call allocate() before anything else.
  CpuShard(CpuEngine& engine, ClassRange range, ClassShape shape, const void* weights, Precision storage)
      : engine_(engine),
        range_(range),
        dim_(shape.dim),
        sub_centers_(shape.sub_centers),
        storage_(storage),
        weights_(weights) {}

  Status allocate(const Optimizer& optimizer);

  CpuEngine& engine() override { return engine_; }
  ClassRange range() const override { return range_; }
  int32_t sub_centers() const override { return sub_centers_; }
  size_t keep_bytes(const Batch& batch) const override;
  Status begin(const Batch& batch, std::unique_ptr<ShardPass>* pass) override;
  Status gather(const int32_t* classes, int64_t count, float* rows) override;
  Status kept_gradient(float** gradient, Place* place) override;
  Status add_to_kept(const int32_t* classes, int64_t count, const float* rows) override;
  Status nearest(const Batch& batch, int64_t k, int32_t* classes, float* cosines) override;
  Status initialize(double std, uint64_t seed, ClassRange classes) override;
  Status write(ClassArray array, int64_t first, int64_t count, const float* values) override;
  Status read(ClassArray array, int64_t first, int64_t count, float* values) const override;
  Status apply(const WeightSink& update, const Sampling& sampling) override;

  Precision storage() const { return storage_; }
  // Class rows, sub_centers() of each class one behind the other. An index counts them from the first of range().start.
  int64_t rows() const { return range_.size() * sub_centers_; }
  // Of the whole head.
  int64_t row_id(int64_t index) const { return range_.start * sub_centers_ + index; }
  // As they are stored.
  const void* row(int64_t index) const {
    return static_cast<const char*>(weights_) + index * dim_ * static_cast<int64_t>(byte_size(storage_));
  }
  // A row in float32, [dim].
  void copy_row(int64_t index, float* to) const;

  // Rows of the optimiser's state and of the accumulated gradient; null where there are none.
  const float* momentum_row(int64_t index) const { return momentum_ ? momentum_.data() + index * dim_ : nullptr; }
  const float* accumulated_row(int64_t index) const {
    return accumulated_ ? accumulated_.data() + index * dim_ : nullptr;
  }

  // Memory for accumulate(); zero at first.
  Status reserve_accumulated();
  // Adds one class row's finished gradient to the sum.
  void accumulate(int64_t index, const GradientRow& gradient);
  // The constants of an update, once for all classes.
  struct Step {
    SgdStep sgd{};
    AdamwStep adamw{};
    int64_t number = 0;
  };
  Step step(const WeightSink& sink) const;
  // Moves one class row by its finished gradient.
  void update(int64_t index, const GradientRow& gradient, const Step& step);
  // Moves these by a gradient of zero.
  void update_others(const std::vector<int32_t>& indexes, const Step& step);

 private:
  static FloatBuffer CpuShard::* member(ClassArray array);
  // Calls body(n, first row of classes[n]) for those of these classes that are here.
  template <class Body>
  void for_each_of(const int32_t* classes, int64_t count, const Body& body) const;
  // Columns `first` on of owned weights in 16 bits.
  uint16_t* halves(int64_t index, int32_t first = 0) {
    return reinterpret_cast<uint16_t*>(owned_.data()) + index * dim_ + first;
  }
  // Moves columns `first` on of a class row, which are `weights`.
  void move(int64_t index, int32_t first, const GradientRow& gradient, const Step& step, float* weights);

  CpuEngine& engine_;
  const ClassRange range_;
  const int32_t dim_;
  const int32_t sub_centers_;
  const Precision storage_;
  const void* weights_;
  Optimizer optimizer_;
  FloatBuffer owned_;         // [rows, dim] of the storage type
  FloatBuffer momentum_;      // [rows, dim]; sgd with momentum: velocity, adamw: mean
  FloatBuffer variance_;      // [rows, dim]; adamw
  FloatBuffer accumulated_;   // [rows, dim]; on first use
  PooledBuffer kept_;         // [rows, dim]; on first use
  std::vector<float> zeros_;  // [dim]
};

}  // namespace marginfc
