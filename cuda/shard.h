// A range of classes on a GPU: weights of the caller's, which each pass uploads or finds there, or its own with the optimiser's state.
//
// The products read a copy of the weights' unit rows in their own type (the operand). Owned weights keep it between
// passes: an update writes the operand of the new rows along with them.
#pragma once

#include "cuda/cuda_engine.h"
#include "cuda/sub_centers.h"
#include "engine/owners.h"

namespace marginfc::cuda {

OperandKind operand_kind(Precision precision);
StorageKind storage_kind(Precision precision);
// What weights' operands are multiplied with.
double weight_scale(OperandKind kind);

// An operand of `rows` unit rows: its memory, and how kernels see it.
class OperandRows {
 public:
  // With the elements behind the last row, which are 0. As it is when it has this size already.
  // `apart`: see DeviceBuffer.
  Status allocate(Device& device, int64_t rows, int32_t dim, OperandKind kind, bool apart = false);
  explicit operator bool() const { return static_cast<bool>(memory_); }
  Operand from(int64_t row) const { return {values(row), low_, depth_}; }
  uint16_t* values(int64_t row) const { return memory_.as<uint16_t>(row * depth_); }
  int64_t low() const { return low_; }
  int32_t depth() const { return depth_; }
  // All rows, where this device has kernels that want it.
  const TensorMap& map() const { return map_; }

 private:
  DeviceBuffer memory_;
  int64_t low_ = 0;
  int32_t depth_ = 0;
  TensorMap map_{};
};

// The sum of squares of a gradient that is measured, in parts.
class SquareSum {
 public:
  // Parts for a grid of finish_weights_aided of so many blocks.
  Status allocate(Device& device, int64_t blocks);
  Status clear(Device& device) { return device.fill(memory_, 0, bytes_); }
  double* parts() const { return memory_.as<double>(); }
  // Waits for them.
  Status add_to(Device& device, double* square) const;

 private:
  DeviceBuffer memory_;
  size_t bytes_ = 0;
};

class CudaShard final : public ClassShard {
 public:
  // `borrowed` of nobody: call allocate() before anything else.
  CudaShard(CudaEngine& engine, ClassRange range, ClassShape shape, const ClassRows& borrowed)
      : engine_(engine),
        device_(engine.device()),
        range_(range),
        dim_(shape.dim),
        sub_centers_(shape.sub_centers),
        borrowed_(borrowed) {}

  Status allocate(const Optimizer& optimizer);

  CudaEngine& engine() override { return engine_; }
  ClassRange range() const override { return range_; }
  int32_t sub_centers() const override { return sub_centers_; }
  Worker* worker() override { return &engine_.worker(); }
  bool follows(Place) const override { return true; }
  // Making E again costs less than reading it.
  size_t keep_bytes(const Batch&) const override { return kKeepsNothing; }
  Status begin(const Batch& batch, std::unique_ptr<ShardPass>* pass) override;
  Status gather(const int32_t* classes, int64_t count, float* rows) override;
  Status kept_gradient(float** gradient, Place* place) override;
  Status add_to_kept(const int32_t* classes, int64_t count, const float* rows) override;
  Status nearest(const Batch& batch, int64_t k, int32_t* classes, float* cosines) override;
  Status initialize(double std, uint64_t seed, ClassRange classes) override;
  Status write(ClassArray array, int64_t first, int64_t count, const float* values) override;
  Status read(ClassArray array, int64_t first, int64_t count, float* values) const override;
  Status apply(const WeightSink& update, const Sampling& sampling) override;

  int64_t classes() const { return range_.size(); }
  // Of the classes, sub_centers() of each one behind the other.
  int64_t rows() const { return classes() * sub_centers_; }
  int32_t dim() const { return dim_; }
  Precision storage() const { return borrowed_.storage; }
  const ClassRows& borrowed() const { return borrowed_; }

  // Owned weights; the device's turn is the caller's.
  const DeviceBuffer& weights() const { return weights_; }
  // Launches what makes the operand of this kind, unless it is there. `checked`: whether `bad_class` will hold what
  // prepare_operand() says; with `must_check` it does, unless the weights are known to be finite.
  Status prepare(OperandKind kind, bool must_check, const DeviceBuffer& bad_class, bool* checked);
  void mark_finite() { finite_ = true; }
  const OperandRows& operand(OperandKind kind) const { return operands_[static_cast<int>(kind)]; }
  // Rows by slot of that operand, once it was prepared; null where a class has one row.
  const int32_t* slot_rows(OperandKind kind) const { return lists_[static_cast<int>(kind)].index(); }
  Status reserve_accumulated();
  // What finish_weights needs to accumulate or update rows first .. first + p->classes - 1, of an operand of this kind that
  // has them from `operand_row` on.
  void aim(const WeightSink& sink, int64_t first, int64_t operand_row, OperandKind kind,
           FinishWeightsParameters* p) const;
  // After an update that wrote the operand of this kind: the others are outdated.
  void mark_updated(OperandKind kind);
  // Outdates every operand.
  void mark_written();
  // How often weights were written: an operand made elsewhere is theirs while this is the same.
  int64_t writes() const { return writes_; }

  // Launches what makes the operand of `classes` rows of weights in device memory, or of rows `index` of them where that is not
  // null; a negative one makes a row of zeros.
  // `bad_class` [1] gets the first row with a NaN or infinite value, or INT32_MAX.
  static Status prepare_operand(Device& device, const DeviceBuffer& weights, Precision storage, const int32_t* index,
                                int64_t classes, int32_t dim, OperandKind kind, const OperandRows& operand,
                                const DeviceBuffer& bad_class);

 private:
  const DeviceBuffer& buffer(ClassArray array) const;
  // Of these classes those that are here, counted from the first, and which of them they are.
  std::vector<Owner> own(const int32_t* classes, int64_t count) const;
  // Their indexes, on the device.
  Status list(const std::vector<Owner>& own, DeviceBuffer* index) const;
  // Makes the list of rows by slot, unless it is there or a class has one row.
  Status list_slots(OperandKind kind);
  int64_t operand_rows(OperandKind kind) const {
    return sub_centers_ == 1 ? rows() : slots_of(device_, sub_centers_, kind).count(classes());
  }

  CudaEngine& engine_;
  Device& device_;
  const ClassRange range_;
  const int32_t dim_;
  const int32_t sub_centers_;
  const ClassRows borrowed_;  // null for owned weights, which are float32
  Optimizer optimizer_;
  DeviceBuffer weights_;      // [rows, dim]
  DeviceBuffer momentum_;     // [rows, dim]; sgd with momentum: velocity, adamw: mean
  DeviceBuffer variance_;     // [rows, dim]; adamw
  DeviceBuffer accumulated_;  // [rows, dim]; on first use
  DeviceBuffer kept_;         // [rows, dim]; on first use
  OperandRows operands_[3];   // by OperandKind; on first use
  SubCenterList lists_[3];    // likewise, where a class has several rows
  bool valid_[3] = {};        // whether they are those of the weights
  bool finite_ = false;       // whether the weights are known to be
  int64_t writes_ = 0;
};

}  // namespace marginfc::cuda
