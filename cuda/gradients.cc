// Phases 4 and 5 of a pass, chunk by chunk of classes:
//
//   P  = exp2(X W^T factor - shift)        normalised by the row's sum over negatives, S = exp(offset) sum; with a
//                                          transform of negatives exp2(G - shift) G'; of a binary reduction sigmoid(z) g' by
//                                          the row's sum of sigmoids; of angles 1 / sin, as it is
//   dX += P W                              in float64 over chunks and splits
//   dW  = P^T V, V = f xh                  then projection, own rows, and the sink: written, added or used up
//
// f_i = kappa_i S_i turns P into dLoss/dcos. V holds f_i / max f * 2^10, so that its 16 bits are spent on what differs
// between rows; the rest is undone in float64.
#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "cuda/pass.h"
#include "cuda/plan.h"

namespace marginfc::cuda {

Status CudaPass::plan_gradients(const GradientPlan& plan) {
  if (plan.features == planned_.features && plan.weights == planned_.weights) return {};
  gradients_begun_ = false;
  planned_ = {};
  const bool weights = plan.weights != WeightSink::Kind::none, write = plan.weights == WeightSink::Kind::write;
  const bool raw = weights && (!fused(plan.weights) || smooth_);
  GradientMemory& m = memory_;
  const int64_t halves = kind_ == OperandKind::split ? 2 : 1;
  const int64_t product_bytes = static_cast<int64_t>(padded_rows_) * width_ * sizeof(float);
  const int64_t raw_bytes = static_cast<int64_t>(kTileSide) * width_ * sizeof(float);  // of a tile
  const int64_t p_bytes = static_cast<int64_t>(padded_rows_) * kTileSide * halves * sizeof(uint16_t);
  const int64_t out_bytes = static_cast<int64_t>(kTileSide) * dim_ * sizeof(float);
  const int64_t most = write ? kMostResultBytes / (2 * out_bytes) : INT64_MAX;
  const int64_t tile_bytes = p_bytes + (raw ? raw_bytes : 0);
  m.chunk_tiles = tiles_per_chunk(class_tiles(), row_tiles(), slots(), tile_bytes, device_.l2_bytes(), most);
  MARGINFC_TRY(m.probabilities.allocate(device_, padded_rows_, static_cast<int32_t>(m.chunk_tiles * kTileSide), kind_));
  m.coefficient_values.resize(5 * rows_);
  MARGINFC_TRY(m.coefficients.allocate(device_, 5 * rows_ * sizeof(double)));
  if (weights && smooth_) {
    MARGINFC_TRY(m.uniform_sum.allocate(device_, dim_ * sizeof(double)));
    MARGINFC_TRY(m.uniform.allocate(device_, width_ * sizeof(float)));
  }
  if (weights) MARGINFC_TRY(m.weighted.allocate(device_, padded_rows_, dim_, kind_));
  if (raw) MARGINFC_TRY(reserve_raw());
  if (write)
    for (DeviceBuffer& buffer : m.weights) MARGINFC_TRY(buffer.allocate(device_, m.chunk_tiles * out_bytes));
  if (plan.features) {
    const int64_t least = divide_up(m.chunk_tiles * product_bytes, kMostProductBytes);
    m.product_tiles = tiles_per_block(m.chunk_tiles, width_ / tile_columns(false) * row_tiles(), slots(), least,
                                      kMostTilesPerProduct);
    MARGINFC_TRY(m.products.allocate(device_, divide_up(m.chunk_tiles, m.product_tiles) * product_bytes));
    MARGINFC_TRY(m.total.allocate(device_, 2 * product_bytes));
    MARGINFC_TRY(m.features.allocate(device_, rows_ * dim_ * sizeof(float)));
  }
  planned_ = plan;
  return {};
}

Status CudaPass::reserve_raw() {
  const size_t tile_bytes = static_cast<size_t>(kTileSide) * width_ * sizeof(float);
  return memory_.raw.allocate(device_, memory_.chunk_tiles * tile_bytes);
}

Status CudaPass::begin_gradients(const GradientPlan& plan) {
  if (!plan.features && plan.weights == WeightSink::Kind::none) return {};
  MARGINFC_TRY(plan_gradients(plan));
  const Chunk chunk = chunk_from(0, memory_.chunk_tiles);
  MARGINFC_TRY(launch_probabilities(chunk));
  if (plan.features) MARGINFC_TRY(launch_feature_product(chunk));
  gradients_begun_ = true;
  return {};
}

Status CudaPass::reserve(const FeatureSink& features, const WeightSink& sink) try {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  const auto find = [&](const char* argument, Place place, const float* to, int64_t rows, bool* here) {
    if (!to || place == Place::host || rows == 0) return Status{};
    return device_.find(argument, to, rows * dim_ * sizeof(float), here);
  };
  if (samples() && (sink.added || sink.kind == WeightSink::Kind::write))
    return Status::failure(Code::internal, "of sampled classes no gradient is written, and nothing is added to it");
  gradient_here_ = false;
  MARGINFC_TRY(find("out.dFeatures", features.place, features.gradient, batch_.rows, nullptr));
  MARGINFC_TRY(find("out.dWeights", sink.place, sink.gradient, shard_.rows(), &gradient_here_));
  if (classes_ == 0 || !(features.gradient || sink.kind != WeightSink::Kind::none)) return {};
  // As they were in phase 2, unless the weights were written since.
  if (!borrowed()) MARGINFC_TRY(prepare_weights(false));
  if (sink.kind == WeightSink::Kind::accumulate) MARGINFC_TRY(shard_.reserve_accumulated());
  MARGINFC_TRY(plan_gradients({features.gradient != nullptr, sink.kind}));
  if (sink.kind == WeightSink::Kind::measure)
    MARGINFC_TRY(memory_.squares.allocate(device_, finish_blocks(memory_.chunk_tiles * kTileSide)));
  return sink.kind != WeightSink::Kind::none && aided(sink) ? reserve_raw() : Status{};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status CudaPass::gradients(const RowCoefficients& rows, const FeatureSink& features, const WeightSink& sink) {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  const size_t feature_bytes = batch_.rows * dim_ * sizeof(float);
  // The operand of sampled classes is the pass's own, and nobody else's after it.
  if (sink.kind == WeightSink::Kind::update) samples() ? shard_.mark_written() : shard_.mark_updated(kind_);
  if (sink.kind == WeightSink::Kind::update && samples() && batch_.sampling.updates_all)
    MARGINFC_TRY(launch_others(sink));
  if (classes_ == 0) {
    if (features.gradient && features.place == Place::host)
      std::fill_n(features.gradient, batch_.rows * dim_, 0.0f);
    else if (features.gradient)
      MARGINFC_TRY(device_.fill(DeviceBuffer::view(features.gradient, feature_bytes), 0, feature_bytes));
    return device_.settle();
  }
  if (!features.gradient && sink.kind == WeightSink::Kind::none) return {};
  double unscale;
  // In the other sinks chunks are waited for one by one.
  Device::LaunchRun run(device_, sink.kind == WeightSink::Kind::update || sink.kind == WeightSink::Kind::accumulate);
  MARGINFC_TRY(upload_coefficients(rows, &unscale));
  if (sink.kind == WeightSink::Kind::measure) MARGINFC_TRY(memory_.squares.clear(device_));
  MARGINFC_TRY(run_chunks(features.gradient != nullptr, sink, unscale));
  if (sink.kind == WeightSink::Kind::measure) MARGINFC_TRY(memory_.squares.add_to(device_, sink.square));
  if (features.gradient) MARGINFC_TRY(launch_feature_finish(rows));
  MARGINFC_TRY(run.end());
  if (features.gradient) {
    MARGINFC_TRY(features.place == Place::host ? device_.download(features.gradient, memory_.features, feature_bytes)
                                               : device_.copy(DeviceBuffer::view(features.gradient, feature_bytes),
                                                              memory_.features, feature_bytes));
  }
  return device_.settle();
}

Status CudaPass::store_features(const float* total, float* to) {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  const size_t bytes = batch_.rows * dim_ * sizeof(float);
  MARGINFC_TRY(device_.upload(DeviceBuffer::view(to, bytes), total, bytes));
  return device_.settle();
}

Status CudaPass::load_features(float* to) {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  MARGINFC_TRY(device_.download(to, features_, batch_.rows * dim_ * sizeof(float)));
  return device_.settle_downloads();
}

Status CudaPass::upload_coefficients(const RowCoefficients& rows, double* unscale) {
  GradientMemory& m = memory_;
  std::vector<double>& values = m.coefficient_values;
  std::fill(values.begin(), values.end(), 0.0);
  double *factor = values.data(), *scale = factor + rows_, *gamma = scale + rows_, *radial = gamma + rows_;
  double* uniform = radial + rows_;
  double largest = 0, together = 0;
  for (int64_t i = 0; i < batch_.rows; i++) {
    gamma[i] = rows.gamma[i];
    if (rows.radial) radial[i] = rows.radial[i];
    if (rows.uniform) uniform[i] = rows.uniform[i];
    together += std::fabs(uniform[i]);
    if (sums_[i] == 0 || rows.kappa[i] == 0) continue;
    const double offset = offsets_.empty() ? 0.0 : offsets_[i];
    // By the shift as it was rounded: 2^(shift - offset) P is exp(z - offset).
    factor[i] = rows.kappa[i] * std::exp2(shifts_[i] - offset + kProbabilityExponent) * slope_unit_;
    scale[i] = std::ldexp(factor[i], -kProbabilityExponent) / weight_scale(kind_);
    largest = std::max(largest, std::fabs(factor[i]));
  }
  // So that what all classes have in common fits float32 beside the product.
  largest = std::max(largest, together);
  for (int64_t i = 0; i < batch_.rows; i++)
    factor[i] = largest > 0 ? std::ldexp(factor[i] / largest, kWeightedExponent) : factor[i];
  *unscale = std::ldexp(largest, -kWeightedExponent - kProbabilityExponent);

  MARGINFC_TRY(device_.upload(m.coefficients, values.data(), values.size() * sizeof(double)));
  if (!m.weighted) return {};
  WeightFeaturesParameters p{};
  p.features = features_.as<float>();
  p.norm = norms_memory_.as<double>();
  p.factor = m.coefficients.as<double>();
  p.operand = m.weighted.values(0);
  p.low = m.weighted.low();
  p.rows = rows_;
  p.dim = dim_;
  p.depth = m.weighted.depth();
  p.kind = kind_;
  MARGINFC_TRY(device_.launch(device_.kernels().weight_features, {padded_rows_ / kRowWarps}, p));
  if (!smooth_) return {};
  AddUnitSumsParameters add{};
  add.sum = m.uniform_sum.as<double>();
  add.scaled = m.uniform.as<float>();
  add.scale = *unscale > 0 ? 1 / *unscale : 0;
  return sum_unit_rows(features_, Precision::float32, rows_, m.coefficients.as<double>(4 * rows_), add);
}

CudaPass::Chunk CudaPass::chunk_from(int64_t first, int64_t tiles) const {
  const int64_t classes = std::min(places() - first, tiles * kTileSide);
  return {first, static_cast<int32_t>(classes), static_cast<int32_t>(divide_up(classes, kTileSide))};
}

CudaPass::ChunkRows CudaPass::rows_of(const Chunk& chunk) const {
  if (!has_sub_centers()) return {chunk.first, chunk.classes};
  // Of whole groups of slots.
  const auto class_of = [&](int64_t slot) {
    return std::min(classes_, slot / kGroupSlots * slots_.classes_of_group());
  };
  const int64_t first = class_of(chunk.first), end = class_of(chunk.first + chunk.classes);
  return {first * slots_.centers, (end - first) * slots_.centers};
}

Status CudaPass::run_chunks(bool features, const WeightSink& sink, double unscale) {
  const bool weights = sink.kind != WeightSink::Kind::none, write = sink.kind == WeightSink::Kind::write;
  // What changes the shard happens wholly or not at all.
  const bool cancellable = write || !weights;
  GradientMemory& m = memory_;
  // dW of a chunk goes to the host by way of two buffers, one chunk behind: the host waits for the bus while the device has
  // work. To a GPU's memory it goes at once, to this GPU's without a copy.
  const bool download = write && sink.place == Place::host, copy = write && !download && !gradient_here_;
  const auto result = [&](const Chunk& chunk) {
    const ChunkRows rows = rows_of(chunk);
    return DeviceBuffer::view(sink.gradient + rows.first * dim_, rows.count * dim_ * sizeof(float));
  };
  const auto send = [&](const Chunk& chunk, int buffer) {
    const ChunkRows rows = rows_of(chunk);
    return device_.download_ready(buffer, sink.gradient + rows.first * dim_, m.weights[buffer],
                                  static_cast<size_t>(rows.count) * dim_ * sizeof(float));
  };
  const bool begun = std::exchange(gradients_begun_, false);
  Chunk last{};
  int buffer = 0;
  for (int64_t first = 0; first < places(); first += m.chunk_tiles * kTileSide) {
    const Chunk chunk = chunk_from(first, m.chunk_tiles);
    if (cancellable && cancelled()) return Status::aborted();
    if (first > 0 || !begun) {
      if (cancellable) MARGINFC_TRY(device_.pace());
      MARGINFC_TRY(launch_probabilities(chunk));
      if (features) MARGINFC_TRY(launch_feature_product(chunk));
    }
    if (!weights) continue;
    if (download) MARGINFC_TRY(device_.writable(buffer));
    const DeviceBuffer there = write && !download ? result(chunk) : DeviceBuffer();
    MARGINFC_TRY(launch_weights(chunk, sink, unscale, write && gradient_here_ ? there : m.weights[buffer]));
    if (copy) MARGINFC_TRY(device_.copy(there, m.weights[buffer], there.bytes()));
    if (!download) continue;
    MARGINFC_TRY(device_.ready(buffer));
    if (first > 0) MARGINFC_TRY(send(last, 1 - buffer));
    last = chunk;
    buffer = 1 - buffer;
  }
  return download ? send(last, 1 - buffer) : Status{};
}

Status CudaPass::launch_probabilities(const Chunk& chunk) {
  ProbabilitiesParameters p{};
  p.features = features_operand_.from(0);
  p.weights = class_operand().from(chunk.first);
  p.labels = labels_.as<int32_t>();
  p.shift = shifts_memory_.as<float>();
  p.factor = factor_;
  p.probabilities = memory_.probabilities.values(0);
  p.low = memory_.probabilities.low();
  p.stride = memory_.probabilities.depth();
  p.first_class = static_cast<int32_t>(chunk.first);
  p.classes = chunk.classes;
  p.steps = steps();
  p.tiles_per_split = tiles_per_block(chunk.tiles, row_tiles(), slots(), 1, chunk.tiles);
  p.threshold = transform_thresholds_.as<float>();
  p.transform = transform_;
  p.binary = binary_terms_;
  p.sub_centers = columns_of(slots_, static_cast<int32_t>(classes_));
  const Kernel& kernel = batch_.angles ? tiles_.probabilities_angles
                         : binary_     ? logits_.probabilities_binary
                         : transforms_ ? logits_.probabilities_transformed
                                       : logits_.probabilities;
  return launch_product(kernel, {divide_up(chunk.tiles, p.tiles_per_split), row_tiles()}, features_operand_, 0,
                        class_operand(), chunk.first, p);
}

Status CudaPass::launch_feature_product(const Chunk& chunk) {
  constexpr int32_t kSteps = kTileSide / kStageDepth;  // of a tile of classes
  const GradientMemory& m = memory_;
  ProductParameters p{};
  p.left = m.probabilities.from(0);
  p.right = class_operand().from(chunk.first);
  p.out = m.products.as<float>();
  p.split_stride = static_cast<int64_t>(padded_rows_) * width_;
  p.width = width_;
  p.steps = chunk.tiles * kSteps;
  p.steps_per_split = m.product_tiles * kSteps;
  const int64_t splits = divide_up(chunk.tiles, m.product_tiles);
  const int32_t columns = tile_columns(false);
  const int64_t across = width_ / columns;
  const int32_t each = mapped() ? tiles_per_block(across, row_tiles() * splits, slots(), 1, across) : 1;
  const Kernel& kernel = columns == kWideTile ? tiles_.features_product_wide : products_.features_product;
  MARGINFC_TRY(launch_product(kernel, {divide_up(across, each), row_tiles(), splits}, m.probabilities, 0,
                              class_operand(), chunk.first, p, each));

  AddProductsParameters add{};
  add.products = p.out;
  add.total = m.total.as<double>();
  add.count = add.split_stride = p.split_stride;
  add.splits = static_cast<int32_t>(splits);
  add.first = chunk.first == 0;
  const int64_t blocks = std::min<int64_t>(divide_up(add.count, 4 * 256), 16 * device_.multiprocessors());
  return device_.launch(device_.kernels().add_products, {blocks}, add);
}

Status CudaPass::launch_weight_product(const Chunk& chunk) {
  ProductParameters p{};
  p.left = memory_.probabilities.from(0);
  p.right = memory_.weighted.from(0);
  p.out = memory_.raw.as<float>();
  p.split_stride = 0;
  p.width = width_;
  p.steps = p.steps_per_split = padded_rows_ / kStageDepth;
  const int32_t columns = tile_columns(padded_rows_ <= kHopperStays);
  const int64_t across = width_ / columns;
  const int32_t each = mapped() ? tiles_per_block(across, chunk.tiles, slots(), 1, across) : 1;
  const Kernel& kernel = columns == kWideTile ? tiles_.weights_product_wide : products_.weights_product;
  return launch_product(kernel, {divide_up(across, each), chunk.tiles}, memory_.probabilities, 0, memory_.weighted, 0,
                        p, each);
}

Status CudaPass::launch_weights(const Chunk& chunk, const WeightSink& sink, double unscale, const DeviceBuffer& to) {
  if (const Kernel* kernel = aided(sink) ? nullptr : fused(sink.kind)) {
    UpdateParameters p{};
    p.left = memory_.probabilities.from(0);
    p.right = memory_.weighted.from(0);
    p.steps = padded_rows_ / kStageDepth;
    p.finish = weight_finish(chunk, sink, unscale, to);
    return device_.launch(*kernel, {device_.multiprocessors()}, p);
  }
  MARGINFC_TRY(launch_weight_product(chunk));
  FinishWeightsParameters p = weight_finish(chunk, sink, unscale, to);
  p.raw = memory_.raw.as<float>();
  const KernelTable& kernels = device_.kernels();
  return device_.launch(aided(sink) || p.index ? kernels.finish_weights_aided : kernels.finish_weights,
                        {finish_blocks(chunk.classes)}, p);
}

// Where dW only has to be stored, wgmma and a kernel more cost less than mma.sync in the one.
const Kernel* CudaPass::fused(WeightSink::Kind sink) const {
  return mapped() && sink != WeightSink::Kind::update ? nullptr : tiles_.update(width_);
}

FinishWeightsParameters CudaPass::weight_finish(const Chunk& chunk, const WeightSink& sink, double unscale,
                                                const DeviceBuffer& to) const {
  FinishWeightsParameters p{};
  // By a list rows are counted from the shard's first, else from the chunk's.
  p.index = index(chunk.first);
  const int64_t first = p.index ? 0 : chunk.first;
  if (sink.kind == WeightSink::Kind::write) {
    p.sink = SinkKind::write;
    p.weights = class_rows().as<char>(first * dim_ * static_cast<int64_t>(byte_size(shard_.storage())));
    p.storage = storage_kind(shard_.storage());
    p.gradient = to.as<float>((first - rows_of(chunk).first) * dim_);
  } else {
    shard_.aim(sink, first, chunk.first, kind_, &p);
  }
  p.unscale = unscale;
  if (smooth_) p.uniform = memory_.uniform.as<float>();
  if (sink.added) p.added = sink.added + first * dim_;
  p.clip_scale = sink.clip.scale;
  p.clip_longest = sink.clip.longest;
  p.squares = memory_.squares.parts();
  p.owners = static_cast<int32_t>(owners_.size());
  p.owner_class = has_sub_centers() ? owner_slots_.as<int32_t>() : labels_.as<int32_t>(padded_rows_);
  p.owner_row = p.owner_class + p.owners;
  p.first_class = static_cast<int32_t>(chunk.first);
  p.features = features_.as<float>();
  p.norm = norms_memory_.as<double>();
  p.cosine = norms_memory_.as<double>(rows_);
  p.gamma = memory_.coefficients.as<double>(2 * rows_);
  p.classes = chunk.classes;
  p.padding = chunk.tiles * kTileSide - chunk.classes;
  p.dim = dim_;
  p.width = width_;
  return p;
}

Status CudaPass::launch_others(const WeightSink& sink) {
  if (shard_.classes() == 0) return {};
  FinishWeightsParameters p{};
  shard_.aim(sink, 0, 0, kind_, &p);
  p.gradient = nullptr;
  p.flags = sampled_.flags();
  if (has_sub_centers()) {
    MARGINFC_TRY(row_flags_.allocate(device_, shard_.rows()));
    MARGINFC_TRY(flag_rows(device_, sampled_.flags(), nullptr, shard_.classes(), slots_.centers, dim_, row_flags_));
    p.flags = row_flags_.as<uint8_t>();
  }
  p.resting = 1;
  p.classes = static_cast<int32_t>(shard_.rows());
  p.dim = dim_;
  p.clip_scale = 1;
  p.clip_longest = std::numeric_limits<double>::infinity();
  return device_.launch(device_.kernels().finish_weights_aided, {finish_blocks(p.classes)}, p);
}

Status CudaPass::launch_feature_finish(const RowCoefficients& rows) {
  const GradientMemory& m = memory_;
  FinishFeaturesParameters p{};
  p.total = m.total.as<double>();
  p.scale = m.coefficients.as<double>(rows_);
  p.features = features_.as<float>();
  p.norm = norms_memory_.as<double>();
  p.weights = own_rows_.as<float>();
  p.labels = labels_.as<int32_t>(padded_rows_ + 2 * static_cast<int64_t>(owners_.size()));
  p.cosine = norms_memory_.as<double>(rows_);
  p.weight_norm = norms_memory_.as<double>(3 * rows_);
  p.gamma = m.coefficients.as<double>(2 * rows_);
  p.radial = rows.radial ? m.coefficients.as<double>(3 * rows_) : nullptr;
  p.uniform = rows.uniform ? m.coefficients.as<double>(4 * rows_) : nullptr;
  p.class_sum = class_sum_.as<double>();
  p.gradient = m.features.as<float>();
  p.rows = rows_;
  p.dim = dim_;
  p.width = width_;
  p.storage = StorageKind::float32;
  return device_.launch(device_.kernels().finish_features, {divide_up(rows_, kRowWarps)}, p);
}

}  // namespace marginfc::cuda
