#include "cuda/pass.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "cuda/plan.h"

namespace marginfc::cuda {
namespace {

constexpr double kLn2 = 0.6931471805599453;
static_assert(kMostCounted >= kMostAbove, "what is asked for is counted");

}  // namespace

CudaPass::CudaPass(CudaShard& shard, const Batch& batch)
    : shard_(shard),
      device_(shard.engine().device()),
      batch_(batch),
      kind_(operand_kind(batch.operands)),
      tiles_(device_.kernels().of(kind_)),
      products_(tiles_.hopper.available() ? tiles_.hopper : tiles_),
      slots_(slots_of(device_, shard.sub_centers(), kind_)),
      logits_(slots_.centers > 1 ? products_.sub_centers : products_),
      classes_(shard.classes()),
      dim_(batch.dim),
      rows_(static_cast<int32_t>(std::max<int64_t>(batch.rows, 1))),
      padded_rows_(static_cast<int32_t>(padded_rows(rows_))),
      width_(static_cast<int32_t>(padded_width(batch.dim))) {
  if (batch.angles) {
    // No exponential is taken, so the scale is free: one that suits the operands' low halves, and a power of two.
    operand_scale_ = kMostPlainScale;
    factor_ = static_cast<float>(1 / operand_scale_);
    return;
  }
  // The factor is float32: what it rounds off goes to the operand.
  if (batch.scale > kMostPlainScale) factor_ = static_cast<float>(batch.scale / kMostPlainScale);
  operand_scale_ = batch.scale * kLog2E / factor_;
}

Status CudaPass::prepare(bool must_check) {
  if (!tiles_.available())
    return Status::failure(Code::unavailable, device_.name() + " has no bfloat16: that needs compute capability 8.0");
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  norms_.assign(4 * rows_, 0.0);
  owners_ = find_owners(batch_, shard_.range());
  if (samples() && classes_ > 0) MARGINFC_TRY(sample_classes());
  MARGINFC_TRY(prepare_features());
  if (samples() && classes_ > 0) {
    MARGINFC_TRY(device_.settle_downloads());
    classes_ = sampled_.count();
    for (size_t o = 0; o < owners_.size(); o++) owners_[o].index = sampled_.place(o);
  }
  MARGINFC_TRY(upload_labels());
  if (classes_ == 0) return {};
  place_rows_ = classes_index();
  if (has_sub_centers() && (samples() || borrowed())) {
    MARGINFC_TRY(list_.make(device_, slots_, classes_index(), classes_));
    place_rows_ = list_.index();
  }
  return prepare_weights(must_check && batch_.check_finite);
}

Status CudaPass::sample_classes() {
  MARGINFC_TRY(sampled_.draw(device_, batch_.sampling, shard_.range(), owners_));
  return sampled_.list(device_);
}

Status CudaPass::upload_labels() {
  std::vector<int32_t> labels(padded_rows_, -1);
  for (const Owner& owner : owners_) labels[owner.row] = owner.index;
  for (const Owner& owner : owners_) labels.push_back(owner.index);
  for (const Owner& owner : owners_) labels.push_back(owner.row);
  const size_t own = labels.size();
  labels.resize(own + padded_rows_, -1);
  for (const Owner& owner : owners_) labels[own + owner.row] = owner.row;

  return device_.upload_all(labels, &labels_);
}

Status CudaPass::prepare_features() {
  const size_t feature_bytes = rows_ * dim_ * sizeof(float), norm_bytes = norms_.size() * sizeof(double);
  MARGINFC_TRY(features_.allocate(device_, feature_bytes));
  if (batch_.rows == 0) {
    MARGINFC_TRY(device_.fill(features_, 0, feature_bytes));
  } else if (batch_.place == Place::host) {
    MARGINFC_TRY(device_.upload(features_, batch_.features, feature_bytes));
  } else {
    MARGINFC_TRY(device_.find("features", batch_.features, feature_bytes, nullptr));
    MARGINFC_TRY(device_.copy(features_, DeviceBuffer::view(batch_.features, feature_bytes), feature_bytes));
  }
  MARGINFC_TRY(norms_memory_.allocate(device_, norm_bytes));
  MARGINFC_TRY(device_.fill(norms_memory_, 0, norm_bytes));
  MARGINFC_TRY(features_operand_.allocate(device_, padded_rows_, dim_, kind_));

  PrepareFeaturesParameters p{};
  p.features = features_.as<float>();
  p.operand = features_operand_.values(0);
  p.low = features_operand_.low();
  p.norm = norms_memory_.as<double>();
  p.operand_scale = operand_scale_ / weight_scale(kind_);
  p.rows = rows_;
  p.dim = dim_;
  p.depth = features_operand_.depth();
  p.kind = kind_;
  return device_.launch(device_.kernels().prepare_features, {padded_rows_ / kRowWarps}, p);
}

Status CudaPass::prepare_weights(bool must_check) {
  MARGINFC_TRY(bad_class_.allocate(device_, sizeof(int32_t)));
  if (samples()) {
    if (operand_ && operand_writes_ == shard_.writes()) return {};
    operand_writes_ = shard_.writes();
    checked_ = true;
    MARGINFC_TRY(operand_.allocate(device_, padded_rows(places()), dim_, kind_));
    return CudaShard::prepare_operand(device_, shard_.weights(), shard_.storage(), index(0), places(), dim_, kind_,
                                      operand_, bad_class_);
  }
  if (!borrowed()) {
    MARGINFC_TRY(shard_.prepare(kind_, must_check, bad_class_, &checked_));
    place_rows_ = shard_.slot_rows(kind_);
    return {};
  }
  const size_t bytes = static_cast<size_t>(shard_.rows()) * dim_ * byte_size(shard_.storage());
  const ClassRows& rows = shard_.borrowed();
  bool here = false;
  if (rows.place == Place::device) MARGINFC_TRY(device_.find("weights", rows.values, bytes, &here));
  if (here) {
    weights_ = DeviceBuffer::view(rows.values, bytes);
  } else {
    MARGINFC_TRY(weights_.allocate(device_, bytes));
    MARGINFC_TRY(rows.place == Place::host ? device_.upload(weights_, rows.values, bytes)
                                           : device_.copy(weights_, DeviceBuffer::view(rows.values, bytes), bytes));
  }
  MARGINFC_TRY(operand_.allocate(device_, padded_rows(places()), dim_, kind_));
  checked_ = true;
  return CudaShard::prepare_operand(device_, weights_, shard_.storage(), index(0), places(), dim_, kind_, operand_,
                                    bad_class_);
}

Status CudaPass::check_features() const {
  if (batch_.check_finite)
    for (int64_t i = 0; i < batch_.rows; i++)
      if (!std::isfinite(norms_[i])) return Status::not_finite("features", i);
  return {};
}

Status CudaPass::check_weights(int32_t bad_class) {
  if (!batch_.check_finite || !checked_) return {};
  if (bad_class != INT32_MAX) return Status::not_finite("weights", shard_.range().start * slots_.centers + bad_class);
  if (!borrowed() && !samples()) shard_.mark_finite();
  return {};
}

Status CudaPass::targets(Target* targets) {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  std::vector<int32_t> center(rows_);
  if (!owners_.empty()) {
    MARGINFC_TRY(own_rows_.allocate(device_, rows_ * dim_ * sizeof(float)));
    TargetsParameters p{};
    p.features = features_.as<float>();
    p.weights = class_rows().as<char>();
    p.index = classes_index();
    p.labels = labels_.as<int32_t>();
    p.norm = norms_memory_.as<double>();
    p.cosine = norms_memory_.as<double>(rows_);
    p.sine = norms_memory_.as<double>(2 * rows_);
    p.weight_norm = norms_memory_.as<double>(3 * rows_);
    p.own_rows = own_rows_.as<float>();
    p.rows = rows_;
    p.dim = dim_;
    p.storage = storage_kind(shard_.storage());
    const Grid grid{divide_up(rows_, kRowWarps)};
    if (has_sub_centers()) {
      MARGINFC_TRY(centers_.allocate(device_, rows_ * sizeof(int32_t)));
      const SubCenterTargetsParameters of_several{p, centers_.as<int32_t>(), slots_.centers};
      MARGINFC_TRY(device_.launch(device_.kernels().targets_sub_centers, grid, of_several));
      MARGINFC_TRY(device_.download(center.data(), centers_, rows_ * sizeof(int32_t)));
    } else {
      MARGINFC_TRY(device_.launch(device_.kernels().targets, grid, p));
    }
  }
  MARGINFC_TRY(device_.download(norms_.data(), norms_memory_, norms_.size() * sizeof(double)));
  // The device goes on with phase 2 while the host looks at these, unless it has to be told of all shards' targets first.
  if (!far() && !batch_.above && !batch_.transforms) MARGINFC_TRY(begin_negatives());
  MARGINFC_TRY(device_.settle_downloads());
  MARGINFC_TRY(check_features());
  for (int64_t i = 0; i < batch_.rows; i++) targets[i].feature_norm = norms_[i];
  for (const Owner& owner : owners_) {
    if (batch_.check_finite && !std::isfinite(norms_[3 * rows_ + owner.row]))
      return Status::not_finite("weights",
                                static_cast<int64_t>(batch_.labels[owner.row]) * slots_.centers + center[owner.row]);
    targets[owner.row] = {norms_[rows_ + owner.row], norms_[2 * rows_ + owner.row], norms_[owner.row]};
  }
  return has_sub_centers() && !owners_.empty() ? upload_owner_slots(center) : Status{};
}

Status CudaPass::upload_owner_slots(const std::vector<int32_t>& center) {
  std::vector<Owner> owners;
  for (const Owner& owner : owners_)
    owners.push_back({static_cast<int32_t>(slots_.slot(owner.index, center[owner.row])), owner.row});
  sort_owners(&owners);
  std::vector<int32_t> values;
  for (const Owner& owner : owners) values.push_back(owner.index);
  for (const Owner& owner : owners) values.push_back(owner.row);
  return device_.upload_all(values, &owner_slots_);
}

const Kernel& CudaPass::negatives_kernel(Finds finds) const {
  if (batch_.angles) return tiles_.negatives_angles;
  return finds.above ? logits_.negatives_above : finds.hardest ? logits_.negatives_hardest : products_.negatives;
}

Status CudaPass::launch_negatives(const Kernel& kernel, const float* offset, const float* threshold, Finds finds) {
  // Rows in groups, so that the partial sums of a large batch stay small.
  const int64_t arrays = 1 + finds.hardest + finds.above + finds.hard + finds.slopes;
  const int64_t most = kMostSumBytes / (2 * arrays * sizeof(float) * kTileSide);
  const int64_t group_tiles = std::clamp<int64_t>(most / divide_up(class_tiles(), kMostTilesPerSum), 1, row_tiles());
  for (int64_t row_tile = 0; row_tile < row_tiles(); row_tile += group_tiles) {
    const int64_t tiles = std::min(group_tiles, row_tiles() - row_tile), row = row_tile * kTileSide;
    const int32_t each = tiles_per_block(class_tiles(), tiles, slots(), divide_up(class_tiles() * tiles, most),
                                         kMostTilesPerSum);
    const int64_t splits = divide_up(class_tiles(), each);
    const size_t bytes = 2 * splits * tiles * kTileSide * sizeof(float);
    MARGINFC_TRY(partial_sums_.allocate(device_, bytes));
    if (finds.hardest) MARGINFC_TRY(partial_hardest_.allocate(device_, bytes));
    if (finds.above) MARGINFC_TRY(partial_above_.allocate(device_, bytes));
    if (finds.hard) MARGINFC_TRY(partial_hard_.allocate(device_, bytes));
    if (finds.slopes) MARGINFC_TRY(partial_slopes_.allocate(device_, bytes));
    NegativesParameters p{};
    p.features = features_operand_.from(row);
    p.weights = class_operand().from(0);
    p.labels = labels_.as<int32_t>(row);
    p.offset = offset ? offset + row : nullptr;
    p.factor = factor_;
    p.sums = partial_sums_.as<float>();
    p.hardest = finds.hardest ? partial_hardest_.as<float>() : nullptr;
    p.threshold = threshold ? threshold + row : nullptr;
    p.above = finds.above ? partial_above_.as<int32_t>() : nullptr;
    p.hard = finds.hard ? partial_hard_.as<float>() : nullptr;
    p.slopes = finds.slopes ? partial_slopes_.as<float>() : nullptr;
    p.transform = transform_;
    p.binary = binary_terms_;
    p.padded_rows = static_cast<int32_t>(tiles * kTileSide);
    p.classes = static_cast<int32_t>(places());
    p.sub_centers = columns_of(slots_, static_cast<int32_t>(classes_));
    p.steps = steps();
    p.tiles_per_split = each;
    MARGINFC_TRY(launch_product(kernel, {splits, tiles}, features_operand_, row, class_operand(), 0, p));

    ReduceNegativesParameters reduce{};
    reduce.sums = p.sums;
    reduce.hardest = p.hardest;
    reduce.above = p.above;
    reduce.hard = p.hard;
    reduce.slopes = p.slopes;
    reduce.offset = p.offset;
    reduce.sum = sums_memory_.as<double>(row);
    reduce.shift = shifts_memory_.as<float>(row);
    reduce.largest = finds.hardest ? largest_.as<float>(row) : nullptr;
    reduce.count = finds.above ? above_.as<int32_t>(row) : nullptr;
    reduce.hard_sum = finds.hard ? hard_sums_.as<double>(row) : nullptr;
    reduce.slope_sum = finds.slopes ? slope_sums_.as<double>(row) : nullptr;
    reduce.partials = static_cast<int32_t>(2 * splits);
    reduce.rows = static_cast<int32_t>(std::min<int64_t>(p.padded_rows, rows_ - row));
    reduce.padded_rows = p.padded_rows;
    MARGINFC_TRY(device_.launch(device_.kernels().reduce_negatives, {divide_up(reduce.padded_rows, 256)}, reduce));
  }
  return {};
}

Status CudaPass::reserve_sums(Finds finds) {
  MARGINFC_TRY(sums_memory_.allocate(device_, rows_ * sizeof(double)));
  MARGINFC_TRY(shifts_memory_.allocate(device_, padded_rows_ * sizeof(float)));
  if (finds.above) MARGINFC_TRY(above_.allocate(device_, rows_ * sizeof(int32_t)));
  if (finds.hard) MARGINFC_TRY(hard_sums_.allocate(device_, rows_ * sizeof(double)));
  if (finds.slopes) MARGINFC_TRY(slope_sums_.allocate(device_, rows_ * sizeof(double)));
  return finds.hardest ? largest_.allocate(device_, rows_ * sizeof(float)) : Status{};
}

Status CudaPass::upload_thresholds(const double* cosine, DeviceBuffer* to) {
  std::vector<float> thresholds(padded_rows_);
  for (int64_t i = 0; i < padded_rows_; i++)
    thresholds[i] = static_cast<float>((batch_.rows == 0 ? 2 : cosine[i < rows_ ? i : 0]) * operand_scale_);
  return device_.upload_all(thresholds, to);
}

Status CudaPass::begin_negatives() {
  if (classes_ == 0 || negatives_begun_) return {};
  negatives_begun_ = true;
  MARGINFC_TRY(reserve_sums(wanted()));
  MARGINFC_TRY(launch_negatives(negatives_kernel(wanted()), nullptr, thresholds_.as<float>(), wanted()));
  return batch_.angles ? fill_shifts() : Status{};
}

// 1 / sin is between 1 and 1 / kLeastSine: by the sum over many classes it would lose digits.
Status CudaPass::fill_shifts() {
  constexpr uint32_t kInfinity = 0x7f800000;
  MARGINFC_TRY(device_.fill(shifts_memory_, kInfinity, padded_rows_ * sizeof(float)));
  return device_.fill(shifts_memory_, 0, rows_ * sizeof(float));
}

// s > 64: the largest exponent of each row becomes its offset. Its own product, so this path costs 2 BCD more.
Status CudaPass::find_offsets() {
  const Finds finds{true, batch_.above};
  MARGINFC_TRY(reserve_sums(finds));
  MARGINFC_TRY(launch_negatives(negatives_kernel(finds), nullptr, thresholds_.as<float>(), finds));
  MARGINFC_TRY(device_.download(largest_host_.data(), largest_, rows_ * sizeof(float)));
  MARGINFC_TRY(device_.settle());
  offsets_.assign(padded_rows_, 0.0f);
  for (int64_t i = 0; i < rows_; i++)
    if (std::isfinite(largest_host_[i])) offsets_[i] = largest_host_[i] * factor_;
  return upload_offsets();
}

Status CudaPass::upload_offsets() {
  // Padding repeats row 0.
  std::fill(offsets_.begin() + rows_, offsets_.end(), offsets_[0]);
  return device_.upload_all(offsets_, &offsets_memory_);
}

Status CudaPass::launch_cosine_sums() {
  MARGINFC_TRY(class_sum_.allocate(device_, dim_ * sizeof(double)));
  MARGINFC_TRY(cosine_sums_.allocate(device_, rows_ * sizeof(double)));
  AddUnitSumsParameters add{};
  add.sum = class_sum_.as<double>();
  MARGINFC_TRY(sum_unit_rows(class_rows(), shard_.storage(), classes_, nullptr, add));
  CosineSumsParameters p{};
  p.features = features_.as<float>();
  p.norm = norms_memory_.as<double>();
  p.class_sum = add.sum;
  p.sum = cosine_sums_.as<double>();
  p.rows = rows_;
  p.dim = dim_;
  return device_.launch(device_.kernels().cosine_sums, {divide_up(rows_, kRowWarps)}, p);
}

Status CudaPass::sum_unit_rows(const DeviceBuffer& rows, Precision storage, int64_t count, const double* factor,
                               AddUnitSumsParameters add) {
  // Few parts, for one thread a column to add up.
  const int64_t blocks = std::min<int64_t>(divide_up(count, kUnitRows), 2 * device_.multiprocessors());
  MARGINFC_TRY(unit_partials_.allocate(device_, blocks * dim_ * sizeof(double)));
  SumUnitRowsParameters p{};
  p.rows = rows.as<char>();
  p.factor = factor;
  p.partials = unit_partials_.as<double>();
  p.count = count;
  p.dim = dim_;
  p.storage = storage_kind(storage);
  MARGINFC_TRY(device_.launch(device_.kernels().sum_unit_rows, {blocks}, p));
  add.partials = p.partials;
  add.count = static_cast<int32_t>(blocks);
  add.dim = dim_;
  add.width = width_;
  return device_.launch(device_.kernels().add_unit_sums, {divide_up(width_, 256)}, add);
}

Status CudaPass::plain_negatives() {
  if (far()) {
    MARGINFC_TRY(find_offsets());
    if (cancelled()) return Status::aborted();
    MARGINFC_TRY(launch_negatives(logits_.negatives_shifted, offsets_memory_.as<float>(), nullptr, {}));
  } else {
    MARGINFC_TRY(begin_negatives());
    if (batch_.hardest)
      MARGINFC_TRY(device_.download(largest_host_.data(), largest_, largest_host_.size() * sizeof(float)));
  }
  return batch_.above ? device_.download(above_host_.data(), above_, rows_ * sizeof(int32_t)) : Status{};
}

Status CudaPass::find_apart() {
  MARGINFC_TRY(begin_negatives());
  MARGINFC_TRY(device_.download(largest_host_.data(), largest_, rows_ * sizeof(float)));
  if (batch_.above) MARGINFC_TRY(device_.download(above_host_.data(), above_, rows_ * sizeof(int32_t)));
  return device_.settle_downloads();
}

Status CudaPass::negatives(const GradientPlan& plan, const Negatives& result) try {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  if (cancelled()) return Status::aborted();
  sums_.assign(rows_, 0.0);
  shifts_.assign(rows_, std::numeric_limits<float>::infinity());
  largest_host_.assign(rows_, -std::numeric_limits<float>::infinity());
  above_host_.assign(rows_, 0);
  hard_sums_host_.assign(rows_, 0.0);
  hard_counts_host_.assign(rows_, 0);
  slope_sums_host_.assign(rows_, 0.0);
  transforms_ = result.transform;
  binary_ = result.binary;
  slope_unit_ = 1;
  smooth_ = result.cosine_sum;
  std::vector<double> cosine_sums(smooth_ ? rows_ : 0);
  int32_t bad_class = INT32_MAX;
  if (classes_ > 0) {
    if (batch_.above) MARGINFC_TRY(upload_thresholds(result.target_cosine, &thresholds_));
    if (smooth_) MARGINFC_TRY(launch_cosine_sums());
    MARGINFC_TRY(binary_       ? binary_negatives(*result.binary)
                 : transforms_ ? transformed_negatives(result)
                               : plain_negatives());
    if (smooth_) MARGINFC_TRY(device_.download(cosine_sums.data(), cosine_sums_, rows_ * sizeof(double)));
    MARGINFC_TRY(device_.download(sums_.data(), sums_memory_, sums_.size() * sizeof(double)));
    MARGINFC_TRY(device_.download(shifts_.data(), shifts_memory_, shifts_.size() * sizeof(float)));
    if (checked_) MARGINFC_TRY(device_.download(&bad_class, bad_class_, sizeof bad_class));
    MARGINFC_TRY(begin_gradients(plan));
    MARGINFC_TRY(device_.settle_downloads());
    // An update may have left weights that are not finite; then no sum is.
    const auto finite = [](double sum) { return std::isfinite(sum); };
    if (batch_.check_finite && !checked_ && !std::all_of(sums_.begin(), sums_.end(), finite)) {
      MARGINFC_TRY(shard_.prepare(kind_, true, bad_class_, &checked_));
      if (checked_) MARGINFC_TRY(device_.download(&bad_class, bad_class_, sizeof bad_class));
      MARGINFC_TRY(device_.settle_downloads());
    }
    MARGINFC_TRY(check_weights(bad_class));
  }
  if (cancelled()) return Status::aborted();
  for (int64_t i = 0; i < batch_.rows; i++) {
    // Logarithms of a binary reduction are to base 2.
    result.sum[i] = binary_ ? sums_[i] * kLn2 : sums_[i];
    result.offset[i] = offsets_.empty() ? 0 : offsets_[i] * kLn2;
    if (result.hardest) result.hardest[i] = std::max(-2.0f, static_cast<float>(largest_host_[i] / operand_scale_));
    if (result.above) result.above[i] = above_host_[i];
    if (result.cosine_sum) result.cosine_sum[i] = cosine_sums[i];
    if (result.hard_sum) {
      result.hard_sum[i] = hard_sums_host_[i] / operand_scale_;
      result.hard_count[i] = hard_counts_host_[i];
    }
    if (binary_) result.slope_sum[i] = slope_sums_host_[i];
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc::cuda
