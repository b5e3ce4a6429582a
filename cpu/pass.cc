#include "cpu/pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/margin.h"

namespace marginfc {
namespace {

// Blocks that a chunk should have, so that chunks are about as long as each other.
constexpr int64_t kBlocksPerChunk = 5;
// Fewer classes would make the sums of dX too short for their loads and stores.
constexpr int64_t kLeastBlockClasses = 64;
// E of a block for the whole batch, when it is not kept, stays below this many floats.
constexpr int64_t kMostBlockFloats = 192 * 1024;
// Words of weighted features up to which each tile of dW may read all of them anew: half of a second-level cache of 1 MiB.
constexpr int64_t kMostCachedFeatures = int64_t{1} << 17;
// Fixed, so that sums are added in the same order on any number of threads.
constexpr int64_t kChunks = 16;
// kappa = weight * exp(-lse) is scaled so that the largest weight is about 2^20: then kappa * xh is far from both
// ends of float32 for every sum that exp(+-64) over 10M classes can give.
constexpr int kWeightExponent = 20;

// Rows of the classes that take part.
std::vector<int32_t> sample(CpuShard& shard, const Batch& batch) {
  if (!batch.sampling.draws()) return {};
  const std::vector<int32_t> classes = sample_classes(batch, shard.range(), run_blocks(shard.engine().pool()));
  const int32_t centers = shard.sub_centers();
  std::vector<int32_t> rows;
  rows.reserve(classes.size() * centers);
  for (const int32_t index : classes)
    for (int32_t k = 0; k < centers; k++) rows.push_back(index * centers + k);
  return rows;
}

}  // namespace

int64_t exponential_stride(int64_t rows, const Kernels& kernels) {
  const int64_t padded = round_up(rows, kernels.panel), line = kernels.pairs ? 32 : 16;
  return padded % (16 * line) == 0 ? padded + line : padded;
}

CpuPass::CpuPass(CpuShard& shard, const Batch& batch)
    : shard_(shard),
      engine_(shard.engine()),
      kernels_(engine_.kernels(batch.operands)),
      batch_(batch),
      rows_(batch.rows),
      dim_(batch.dim),
      sub_centers_(shard.sub_centers()),
      sampled_(sample(shard, batch)),
      classes_(samples() ? static_cast<int64_t>(sampled_.size()) : shard.rows()),
      panels_((batch.rows + kernels_.panel - 1) / kernels_.panel),
      width_(round_up(batch.dim, kernels_.panel)),
      depth_(operand_words(kernels_, batch.dim)),
      sum_rows_(panels_ * kernels_.panel),
      weight_depth_(operand_words(kernels_, batch.rows)),
      stride_(exponential_stride(batch.rows, kernels_)) {
  const int32_t tile = kernels_.tile_classes;
  int64_t most = std::max(kLeastBlockClasses, classes_ / (kChunks * kBlocksPerChunk));
  most = std::min<int64_t>(most, kernels_.block_classes);
  if (stride_ > 0) most = std::min(most, kMostBlockFloats / stride_);
  // Classes are whole in their block.
  block_classes_ = static_cast<int32_t>(std::max<int64_t>(most / tile, 1)) * tile;
  block_classes_ = std::max(block_classes_ / sub_centers_, 1) * sub_centers_;
  blocks_ = (classes_ + block_classes_ - 1) / block_classes_;
  chunks_ = std::min(kChunks, blocks_);
}

Status CpuPass::prepare() {
  norms_.resize(rows_);
  labels_.assign(panels_ * kernels_.panel, -1);
  owners_ = find_owners(batch_, shard_.range());
  if (samples())
    for (Owner& owner : owners_)
      owner.index = static_cast<int32_t>(
          (std::lower_bound(sampled_.begin(), sampled_.end(), owner.index * sub_centers_) - sampled_.begin()) /
          sub_centers_);
  for (const Owner& owner : owners_) labels_[owner.row] = owner.index;

  scratch_.resize(engine_.pool().threads());
  const int64_t row_block = std::min(kRowBlock, panels_ * kernels_.panel);
  const int64_t block_rows = batch_.workspace == Workspace::keep ? 0 : row_block;
  // Kernels read whole tiles.
  const auto block_classes = static_cast<int32_t>(round_up(block_classes_, kernels_.tile_classes));
  for (Scratch& scratch : scratch_) {
    // Tasks of the pool must not throw, so they find their memory here.
    scratch.operand_row.resize(dim_);
    if (!scratch.block.allocate(engine_.buffers(), kernels_, batch_.operands, shard_.storage(), block_classes, dim_,
                                samples()) ||
        !scratch.exponentials.allocate(engine_.buffers(), floats_of(block_classes * block_rows)) ||
        (sub_centers_ > 1 && !scratch.products.allocate(engine_.buffers(), block_classes * row_block)) ||
        !scratch.sums.allocate(engine_.buffers(), kRowBlock) ||
        !scratch.more.allocate(engine_.buffers(), 2 * kRowBlock) ||
        (kernels_.pairs && !scratch.paired.allocate(engine_.buffers(), block_classes / 2 * kRowBlock)))
      return Status::no_workspace();
  }

  const int64_t packed = panels_ * depth_ * kernels_.panel;
  if (!features_.allocate(engine_.buffers(), packed)) return Status::no_workspace();
  // Lanes behind the last row and, of pairs, the word behind an odd last column.
  if (rows_ % kernels_.panel != 0 || kernels_.pairs) std::memset(features_.data(), 0, packed * sizeof(float));
  for_rows([&](int64_t i, int thread) { pack_feature_row(i, scratch_[thread].operand_row); });
  if (batch_.check_finite)
    for (int64_t i = 0; i < rows_; i++)
      if (!std::isfinite(norms_[i].norm)) return Status::not_finite("features", i);
  return {};
}

void CpuPass::round_operands(float* values, int64_t count) const {
  if (batch_.operands != Precision::float32)
    kernels_.round(values, count, batch_.operands == Precision::float16, values);
}

void CpuPass::set_half(float* words, int64_t lanes, int64_t k, int64_t lane, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  reinterpret_cast<uint16_t*>(words)[(k / 2 * lanes + lane) * 2 + k % 2] = static_cast<uint16_t>(bits >> 16);
}

// The packed features are [panels, dim, panel] (or pairs of dim): lane l of panel p is row p * panel + l.
void CpuPass::pack_feature_row(int64_t i, std::vector<float>& row) {
  const float* x = batch_.features + i * dim_;
  const double norm = std::sqrt(kernels_.exact_dot(x, x, dim_));
  norms_[i] = {norm, 1 / std::max(norm, kNormFloor), !(norm < kNormFloor)};
  kernels_.exact_scale(x, feature_scale() * norms_[i].inverse, dim_, row.data());
  const int64_t panel = kernels_.panel;
  float* lane = features_.data() + i / panel * depth_ * panel + i % panel;
  if (kernels_.pairs) {
    // Over the numbers they are made of, of which they are half.
    auto* halves = reinterpret_cast<uint16_t*>(row.data());
    kernels_.narrow(row.data(), dim_, halves);
    if (dim_ % 2 != 0) halves[dim_] = 0;
    for (int32_t k = 0; 2 * k < dim_; k++) std::memcpy(lane + k * panel, halves + 2 * k, sizeof(float));
  } else {
    round_operands(row.data(), dim_);
    for (int32_t d = 0; d < dim_; d++) lane[d * panel] = row[d];
  }
}

Status CpuPass::check_weights() const {
  if (!batch_.check_finite || bad_class_ == INT64_MAX) return {};
  return Status::not_finite("weights", shard_.row_id(index_of(bad_class_)));
}

Status CpuPass::targets(Target* targets) {
  if (!target_rows_.allocate(engine_.buffers(), owners_.size() * dim_)) return Status::no_workspace();
  targets_.resize(owners_.size());
  target_inverse_.resize(owners_.size());
  if (sub_centers_ > 1) choose_sub_centers();
  for_owners([&](int64_t o) { find_target(o); });
  for (int64_t i = 0; i < rows_; i++) targets[i].feature_norm = norms_[i].norm;
  for (size_t o = 0; o < owners_.size(); o++) {
    if (batch_.check_finite && !std::isfinite(target_inverse_[o]))
      return Status::not_finite("weights", shard_.row_id(index_of(owners_[o].index)));
    targets[owners_[o].row] = targets_[o];
  }
  return {};
}

void CpuPass::choose_sub_centers() {
  for_owners([&](int64_t o) {
    Owner& owner = owners_[o];
    const float* x = batch_.features + static_cast<int64_t>(owner.row) * dim_;
    float* w = target_rows_.data() + o * dim_;
    const int32_t first = owner.index * sub_centers_;
    double best = -std::numeric_limits<double>::infinity();
    owner.index = first;
    for (int32_t place = first; place < first + sub_centers_; place++) {
      shard_.copy_row(index_of(place), w);
      const double norm = std::sqrt(kernels_.exact_dot(w, w, dim_));
      const double along = kernels_.exact_dot(x, w, dim_) / std::max(norm, kNormFloor);
      if (!(along > best)) continue;
      best = along;
      owner.index = place;
    }
  });
  sort_owners(&owners_);
}

// Cosine and sine of the angle between a row and its own class.
void CpuPass::find_target(size_t o) {
  const Owner owner = owners_[o];
  float* w = target_rows_.data() + o * dim_;
  shard_.copy_row(index_of(owner.index), w);
  const float* x = batch_.features + static_cast<int64_t>(owner.row) * dim_;
  const RowNorm& row = norms_[owner.row];
  const double norm = std::sqrt(kernels_.exact_dot(w, w, dim_));
  // An infinite norm must not look like a finite inverse of 0.
  const double inverse = std::isfinite(norm) ? 1 / std::max(norm, kNormFloor) : std::nan("");
  double cosine = kernels_.exact_dot(x, w, dim_) * row.inverse * inverse;
  if (cosine > 1) cosine = 1;
  if (cosine < -1) cosine = -1;
  double sine;
  if (row.has_direction && !(norm < kNormFloor)) {
    sine = kernels_.exact_distance(w, inverse, x, cosine * row.inverse, dim_);
  } else {
    sine = std::sqrt(1 - cosine * cosine);
  }
  targets_[o] = {cosine, sine, row.norm};
  target_inverse_[o] = inverse;
}

// After this, the first block of each chunk writes its dX and the others add theirs.
bool CpuPass::reserve_accumulators() {
  const size_t size = chunks_ * width_ * sum_rows_;
  if (!accumulators_.allocate(engine_.buffers(), size)) return false;
  if (blocks_ <= kBlocksPerSettle * chunks_) return true;
  if (!settled_.allocate(engine_.buffers(), size)) return false;
  std::memset(settled_.data(), 0, size * sizeof(float));
  return true;
}

Status CpuPass::reserve(const FeatureSink& features, const WeightSink& sink) try {
  gamma_.resize(rows_);
  owner_of_.assign(rows_, -1);
  for (size_t o = 0; o < owners_.size(); o++) owner_of_[owners_[o].row] = static_cast<int64_t>(o);
  for (Scratch& scratch : scratch_) {
    scratch.row.resize(dim_);
    scratch.rows.resize(features.gradient ? width_ * kBatchRowsPerTask : 0);
  }
  const bool updates_others = sink.kind == WeightSink::Kind::update && samples() && batch_.sampling.updates_all;
  others_ = updates_others ? unsampled_classes(sampled_, shard_.rows()) : std::vector<int32_t>();
  absolute_kappa_.resize(sink.skipped_mass_per_class > 0 ? rows_ : 0);
  skipped_.assign(sink.skipped_mass_per_class > 0 ? blocks_ : 0, 0.0);
  squares_.assign(sink.kind == WeightSink::Kind::measure ? blocks_ : 0, 0.0);
  uniform_.reserve(dim_);
  if (features.gradient && !features_gathered_ && !reserve_accumulators()) return Status::no_workspace();
  if (sink.kind == WeightSink::Kind::none) return {};
  if (sink.kind == WeightSink::Kind::accumulate) MARGINFC_TRY(shard_.reserve_accumulated());
  if (!weighted_features_.allocate(engine_.buffers(), width_ * weight_depth_)) return Status::no_workspace();
  // Tiles are left out one by one.
  const bool by_tile = width_ * weight_depth_ <= kMostCachedFeatures || !skipped_.empty();
  weight_classes_ = by_tile ? kernels_.tile_classes : kernels_.weight_classes;
  const bool keep = batch_.workspace == Workspace::keep;
  for (Scratch& scratch : scratch_)
    if ((!keep && !scratch.exponentials.allocate(
                      engine_.buffers(), floats_of(round_up(block_classes_, kernels_.tile_classes) * stride_))) ||
        !scratch.gradient.allocate(engine_.buffers(), (weight_classes_ + 1) * width_) ||
        !scratch.dots.allocate(engine_.buffers(), weight_classes_ + 3))
      return Status::no_workspace();
  // Columns behind the last one are never written, but must be finite.
  if (width_ != dim_)
    for (Scratch& scratch : scratch_)
      std::memset(scratch.gradient.data(), 0, (weight_classes_ + 1) * width_ * sizeof(float));
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status CpuPass::gradients(const RowCoefficients& rows, const FeatureSink& features, const WeightSink& sink) {
  std::copy_n(rows.gamma, rows_, gamma_.begin());
  Sweep sweep;
  sweep.recompute = batch_.workspace != Workspace::keep;
  sweep.features = features.gradient && !features_gathered_;
  sweep.weights = sink.kind != WeightSink::Kind::none;
  sweep.sink = sink;
  if (sink.kind == WeightSink::Kind::update) sweep.step = shard_.step(sink);
  sweep.cancellable = sink.kind != WeightSink::Kind::update && sink.kind != WeightSink::Kind::accumulate;
  sum_uniform(rows);
  if (sweep.weights) pack_weighted_features(rows);
  for (size_t i = 0; i < absolute_kappa_.size(); i++) absolute_kappa_[i] = static_cast<float>(std::fabs(rows.kappa[i]));
  if (sweep.weights || sweep.features) MARGINFC_TRY(run(sweep));
  if (sink.square)
    for (const double square : squares_) *sink.square += square;
  if (sink.kind == WeightSink::Kind::update && !others_.empty()) shard_.update_others(others_, sweep.step);
  if (sink.skipped_mass)
    for (const double mass : skipped_) *sink.skipped_mass += mass;
  features_gathered_ |= sweep.features;
  if (features.gradient) finish_features(rows, features.gradient);
  return {};
}

void CpuPass::sum_uniform(const RowCoefficients& rows) {
  uniform_.clear();
  if (!rows.uniform) return;
  uniform_.resize(dim_, 0.0);
  for (int64_t i = 0; i < rows_; i++) {
    const float* x = batch_.features + i * dim_;
    kernels_.exact_add(x, rows.uniform[i] * norms_[i].inverse, x, 0.0, dim_, uniform_.data());
  }
}

Status CpuPass::store_features(const float*, float*) {
  return Status::failure(Code::internal, "the cpu engine has no GPU to write to");
}

Status CpuPass::load_features(float*) {
  return Status::failure(Code::internal, "the cpu engine has no GPU to read from");
}

// [width / panel, rows, panel] (or pairs of rows), so that a class's sum over rows reads both operands in order.
void CpuPass::pack_weighted_features(const RowCoefficients& rows) {
  const int64_t panel = kernels_.panel, depth = weight_depth_;
  const int exponent = rows.largest_weight > 0 ? kWeightExponent - std::ilogb(rows.largest_weight) : 0;
  unscale_ = std::ldexp(1.0, -exponent);
  // Columns behind the last and, of pairs, the word behind an odd last row.
  if (width_ != dim_ || kernels_.pairs) std::memset(weighted_features_.data(), 0, width_ * depth * sizeof(float));
  for_rows([&](int64_t i, int thread) {
    const double factor = std::ldexp(rows.kappa[i], exponent) * norms_[i].inverse;
    const float* x = batch_.features + i * dim_;
    float* row = scratch_[thread].operand_row.data();
    kernels_.exact_scale(x, factor, dim_, row);
    if (batch_.operands == Precision::bfloat16) round_operands(row, dim_);
    for (int64_t start = 0; start < dim_; start += panel) {
      float* words = weighted_features_.data() + start * depth;
      const int64_t columns = std::min(panel, dim_ - start);
      if (kernels_.pairs)
        for (int64_t l = 0; l < columns; l++) set_half(words, panel, i, l, row[start + l]);
      else
        std::memcpy(words + i * panel, row + start, columns * sizeof(float));
    }
  });
}

}  // namespace marginfc
