#include "cuda/shard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "cuda/pass.h"
#include "cuda/plan.h"
#include "cuda/sampling.h"

namespace marginfc::cuda {
OperandKind operand_kind(Precision precision) {
  switch (precision) {
    case Precision::bfloat16: return OperandKind::bfloat16;
    case Precision::float16: return OperandKind::float16;
    case Precision::float32: break;
  }
  return OperandKind::split;
}

StorageKind storage_kind(Precision precision) {
  switch (precision) {
    case Precision::bfloat16: return StorageKind::bfloat16;
    case Precision::float16: return StorageKind::float16;
    case Precision::float32: break;
  }
  return StorageKind::float32;
}

double weight_scale(OperandKind kind) { return kind == OperandKind::split ? std::ldexp(1.0, kWeightExponent) : 1.0; }

Status OperandRows::allocate(Device& device, int64_t rows, int32_t dim, OperandKind kind, bool apart) {
  depth_ = static_cast<int32_t>(padded_depth(dim));
  const int64_t elements = rows * depth_, halves = kind == OperandKind::split ? 2 : 1;
  low_ = elements;
  const size_t size = halves * elements * sizeof(uint16_t), slack = kOperandSlack * sizeof(uint16_t);
  MARGINFC_TRY(apart ? memory_.allocate_apart(device, size + slack) : memory_.allocate(device, size + slack));
  if (device.kernels().of(kind).hopper.available()) MARGINFC_TRY(device.map_rows(memory_, rows, depth_, &map_));
  return device.fill(memory_, 0, slack, size);
}

Status SquareSum::allocate(Device& device, int64_t blocks) {
  bytes_ = blocks * kRowWarps * sizeof(double);
  return memory_.allocate(device, bytes_);
}

Status SquareSum::add_to(Device& device, double* square) const {
  std::vector<double> parts(bytes_ / sizeof(double));
  MARGINFC_TRY(device.download(parts.data(), memory_, bytes_));
  MARGINFC_TRY(device.settle());
  for (const double part : parts) *square += part;
  return {};
}

Status CudaShard::allocate(const Optimizer& optimizer) {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  optimizer_ = optimizer;
  const size_t bytes = static_cast<size_t>(rows()) * dim_ * sizeof(float);
  const auto zeros = [&](DeviceBuffer& buffer) {
    MARGINFC_TRY(buffer.allocate_apart(device_, bytes));
    return device_.fill(buffer, 0, bytes);
  };
  const bool adamw = optimizer.kind == Optimizer::Kind::adamw;
  MARGINFC_TRY(zeros(weights_));
  if (adamw || optimizer.momentum != 0) MARGINFC_TRY(zeros(momentum_));
  if (adamw) MARGINFC_TRY(zeros(variance_));
  return {};
}

Status CudaShard::begin(const Batch& batch, std::unique_ptr<ShardPass>* pass) try {
  auto begun = std::make_unique<CudaPass>(*this, batch);
  MARGINFC_TRY(begun->prepare(false));
  *pass = std::move(begun);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status CudaShard::nearest(const Batch& batch, int64_t k, int32_t* classes, float* cosines) try {
  // No exponential is taken, so the scale is free: one that suits the operands' low halves.
  Batch scaled = batch;
  scaled.scale = kMostPlainScale;
  CudaPass pass(*this, scaled);
  MARGINFC_TRY(pass.prepare(true));
  return pass.nearest(k, classes, cosines);
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status CudaShard::initialize(double std, uint64_t seed, ClassRange range) {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  mark_written();
  InitializeWeightsParameters p{};
  p.weights = weights_.as<float>((range.start - range_.start) * sub_centers_ * dim_);
  p.classes = range.size() * sub_centers_;
  p.first_class = range.start * sub_centers_;
  p.std = std;
  p.seed = seed;
  p.dim = dim_;
  const int64_t threads = p.classes * divide_up(dim_, 4);
  const int64_t blocks = std::min<int64_t>(divide_up(threads, 256), 16 * device_.multiprocessors());
  MARGINFC_TRY(device_.launch(device_.kernels().initialize_weights, {blocks}, p));
  return device_.settle();
}

const DeviceBuffer& CudaShard::buffer(ClassArray array) const {
  switch (array) {
    case ClassArray::weights: break;
    case ClassArray::momentum: return momentum_;
    case ClassArray::variance: return variance_;
    case ClassArray::accumulated: return accumulated_;
  }
  return weights_;
}

Status CudaShard::write(ClassArray array, int64_t first, int64_t count, const float* values) {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  if (array == ClassArray::weights) mark_written();
  if (array == ClassArray::accumulated) MARGINFC_TRY(reserve_accumulated());
  const size_t size = sub_centers_ * dim_ * sizeof(float);
  MARGINFC_TRY(device_.upload(buffer(array), values, count * size, (first - range_.start) * size));
  return device_.settle();
}

Status CudaShard::read(ClassArray array, int64_t first, int64_t count, float* values) const {
  const size_t size = sub_centers_ * dim_ * sizeof(float);
  if (!buffer(array)) {
    std::memset(values, 0, count * size);
    return {};
  }
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  MARGINFC_TRY(device_.download(values, buffer(array), count * size, (first - range_.start) * size));
  return device_.settle();
}

Status CudaShard::prepare(OperandKind kind, bool must_check, const DeviceBuffer& bad_class, bool* checked) {
  const int k = static_cast<int>(kind);
  *checked = !valid_[k] || (must_check && !finite_);
  if (!*checked) return {};
  const int64_t rows = operand_rows(kind);
  if (!operands_[k]) MARGINFC_TRY(operands_[k].allocate(device_, padded_rows(rows), dim_, kind, true));
  MARGINFC_TRY(list_slots(kind));
  MARGINFC_TRY(
      prepare_operand(device_, weights_, storage(), slot_rows(kind), rows, dim_, kind, operands_[k], bad_class));
  valid_[k] = true;
  return {};
}

Status CudaShard::list_slots(OperandKind kind) {
  SubCenterList& list = lists_[static_cast<int>(kind)];
  if (sub_centers_ == 1 || list) return {};
  return list.make(device_, slots_of(device_, sub_centers_, kind), nullptr, classes());
}

Status CudaShard::prepare_operand(Device& device, const DeviceBuffer& weights, Precision storage, const int32_t* index,
                                  int64_t classes, int32_t dim, OperandKind kind, const OperandRows& operand,
                                  const DeviceBuffer& bad_class) {
  MARGINFC_TRY(device.fill(bad_class, INT32_MAX, sizeof(int32_t)));
  PrepareWeightsParameters p{};
  p.weights = weights.as<char>();
  p.index = index;
  p.operand = operand.values(0);
  p.low = operand.low();
  p.classes = classes;
  p.operand_scale = weight_scale(kind);
  p.bad_class = bad_class.as<int32_t>();
  p.dim = dim;
  p.depth = operand.depth();
  p.kind = kind;
  p.storage = storage_kind(storage);
  return device.launch(device.kernels().prepare_weights, {padded_rows(classes) / kRowWarps}, p);
}

Status CudaShard::reserve_accumulated() {
  if (accumulated_) return {};
  const size_t bytes = static_cast<size_t>(rows()) * dim_ * sizeof(float);
  MARGINFC_TRY(accumulated_.allocate_apart(device_, bytes));
  return device_.fill(accumulated_, 0, bytes);
}

void CudaShard::aim(const WeightSink& sink, int64_t first, int64_t operand_row, OperandKind kind,
                    FinishWeightsParameters* p) const {
  const int64_t at = first * dim_;
  p->weights = weights_.as<float>(at);
  p->storage = storage_kind(storage());
  if (accumulated_) p->gradient = accumulated_.as<float>(at);
  if (sink.kind != WeightSink::Kind::update) {
    p->sink = sink.kind == WeightSink::Kind::measure ? SinkKind::measure : SinkKind::accumulate;
    return;
  }
  if (momentum_) p->momentum = momentum_.as<float>(at);
  if (variance_) p->variance = variance_.as<float>(at);
  const OperandRows& operand = this->operand(kind);
  if (valid_[static_cast<int>(kind)]) {
    p->operand = operand.values(operand_row);
    p->low = operand.low();
    p->depth = operand.depth();
  }
  p->operand_scale = weight_scale(kind);
  p->kind = kind;
  if (optimizer_.kind == Optimizer::Kind::sgd) {
    p->sink = SinkKind::sgd;
    p->sgd_step = sgd_step(optimizer_, sink);
    return;
  }
  p->sink = SinkKind::adamw;
  p->adamw_step = adamw_step(optimizer_, sink);
}

void CudaShard::mark_updated(OperandKind kind) {
  const bool kept = valid_[static_cast<int>(kind)];
  mark_written();
  valid_[static_cast<int>(kind)] = kept;
}

void CudaShard::mark_written() {
  for (bool& valid : valid_) valid = false;
  finite_ = false;
  writes_++;
}

Status CudaShard::apply(const WeightSink& sink, const Sampling& sampling) try {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  if (classes() == 0) return {};
  MARGINFC_TRY(reserve_accumulated());
  // The operand that the last pass used, if any.
  OperandKind kind = OperandKind::split;
  for (int k = 0; k < 3; k++)
    if (valid_[k]) kind = static_cast<OperandKind>(k);
  MARGINFC_TRY(list_slots(kind));
  const int64_t rows = operand_rows(kind), blocks = row_blocks(rows, device_.multiprocessors());
  SampledClasses drawn;
  DeviceBuffer row_flags;
  FinishWeightsParameters p{};
  if (sink.kind != WeightSink::Kind::measure && sampling.draws() && !sampling.updates_all) {
    MARGINFC_TRY(drawn.draw(device_, sampling, range_, {}));
    p.flags = drawn.flags();
    p.resting = 0;
    if (sub_centers_ > 1) {
      MARGINFC_TRY(row_flags.allocate(device_, this->rows()));
      MARGINFC_TRY(
          flag_rows(device_, drawn.flags(), accumulated_.as<float>(), classes(), sub_centers_, dim_, row_flags));
      p.flags = row_flags.as<uint8_t>();
    }
  }
  aim(sink, 0, 0, kind, &p);
  p.index = slot_rows(kind);
  p.classes = static_cast<int32_t>(rows);
  p.padding = static_cast<int32_t>(padded_rows(rows) - rows);
  p.dim = dim_;
  p.width = static_cast<int32_t>(padded_width(dim_));
  const KernelTable& kernels = device_.kernels();
  if (sink.kind == WeightSink::Kind::measure) {
    SquareSum sum;
    MARGINFC_TRY(sum.allocate(device_, blocks));
    MARGINFC_TRY(sum.clear(device_));
    p.squares = sum.parts();
    MARGINFC_TRY(device_.launch(kernels.finish_weights_aided, {blocks}, p));
    return sum.add_to(device_, sink.square);
  }
  p.clip_scale = sink.clip.scale;
  p.clip_longest = sink.clip.longest;
  mark_updated(kind);
  const bool aided = p.flags || p.index || !sink.clip.none();
  MARGINFC_TRY(device_.launch(aided ? kernels.finish_weights_aided : kernels.finish_weights, {blocks}, p));
  return device_.settle();
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc::cuda
