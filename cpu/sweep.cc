// The sweeps of a pass over its classes, and what they leave: the tangent projections of phase 5.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/pass.h"

namespace marginfc {
namespace {

// Tasks a thread should have at least, for the ends of a sweep to even out; fewer where each task has packed operands
// of its own to read.
constexpr int64_t kTasksPerThread = 16;
constexpr int64_t kChunkTasksPerThread = 2;
// Floats of dW up to which its stores go through the caches.
constexpr int64_t kLargestCachedResult = int64_t{1} << 22;
// Blocks multiply products by at most 2^96 each.
constexpr double kLargestProduct = 0x1p900;
constexpr double kLn2 = 0.6931471805599453;
int64_t groups(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace

Status CpuPass::run(const Sweep& sweep) {
  const int64_t threads = engine_.pool().threads();
  const bool by_chunk = sweep.sums || sweep.hardest || sweep.largest || sweep.features;
  if (!by_chunk) {
    // Classes are independent of each other here: any split gives the same result.
    const int64_t tasks = std::min(blocks_, kTasksPerThread * threads);
    engine_.pool().run(tasks, [&](int64_t task, int thread) {
      sweep_blocks(sweep, blocks_ * task / tasks, blocks_ * (task + 1) / tasks, 0, 0, rows_, scratch_[thread]);
    });
  } else {
    // Rows too are independent of each other as long as no dW needs them all: with many threads, chunks are split
    // by rows.
    const int64_t row_blocks = std::max<int64_t>(groups(rows_, kRowBlock), 1);
    const int64_t wanted = groups(kChunkTasksPerThread * threads, std::max<int64_t>(chunks_, 1));
    const int64_t row_groups = sweep.weights ? 1 : std::min(row_blocks, wanted);
    engine_.pool().run(chunks_ * row_groups, [&](int64_t task, int thread) {
      const int64_t chunk = task / row_groups, group = task % row_groups;
      const int64_t row_start = row_blocks * group / row_groups * kRowBlock;
      const int64_t row_end = std::min(rows_, row_blocks * (group + 1) / row_groups * kRowBlock);
      sweep_blocks(sweep, blocks_ * chunk / chunks_, blocks_ * (chunk + 1) / chunks_, chunk, row_start, row_end,
                   scratch_[thread]);
    });
  }
  if (sweep.cancellable && cancelled()) return Status::aborted();
  return {};
}

const void* CpuPass::rows_at(int64_t place, int32_t count, ClassBlock& block) const {
  return samples() ? block.gather(shard_.row(0), sampled_.data() + place, count) : shard_.row(place);
}

int32_t CpuPass::begin_block(int64_t b, const Sweep& sweep, ClassBlock& block) {
  const int64_t start = b * block_classes_;
  const auto count = static_cast<int32_t>(std::min<int64_t>(block_classes_, classes_ - start));
  const void* rows = rows_at(start, count, block);
  // A sweep that multiplies no class rows needs neither norms nor operands, if the first sweep found nothing special.
  const bool multiplies = sweep.recompute || sweep.features;
  if (!multiplies && ordinary_[b] == count && shard_.storage() == Precision::float32) {
    block.load_ordinary(rows, start, count, inverse_norms_.data() + start);
    return count;
  }
  block.begin(rows, start, count, sweep.features);
  if (sweep.recompute && block.made_in_parts()) return count;
  const int32_t made = block.make();
  // A kept E has the norms of classes that were used as they are.
  finish_block(sweep.recompute ? made : ordinary_[b], block);
  return count;
}

void CpuPass::finish_block(int32_t done, ClassBlock& block) {
  const int64_t bad = block.finish(done);
  if (bad < 0) return;
  int64_t seen = bad_class_.load(std::memory_order_relaxed);
  while (bad < seen && !bad_class_.compare_exchange_weak(seen, bad, std::memory_order_relaxed)) {
  }
}

void CpuPass::note_norms(int64_t b, const ClassBlock& block) {
  ordinary_[b] = block.ordinary();
  if (inverse_norms_)
    std::memcpy(inverse_norms_.data() + block.first(), block.inverse_norm(), block.classes() * sizeof(float));
}

void CpuPass::multiply(int32_t (*kernel)(const NegativesTask&), NegativesTask& task, ClassBlock& block) {
  task.unmade = block.unmade();
  const int32_t done = kernel(task);
  if (!task.unmade.rows) return;
  finish_block(done, block);
  if (done == task.classes) return;
  task.unmade = {};
  task.weights = block.product_operand();
  task.begin = done;
  kernel(task);
}

NegativesTask CpuPass::product_task(const ClassBlock& block, int64_t row, int64_t rows, float* exponentials,
                                    int64_t stride) const {
  NegativesTask task;
  task.features = features_.data() + row * depth_;
  task.weights = block.product_operand();
  task.stride = block.product_stride();
  task.depth = static_cast<int32_t>(depth_);
  task.classes = block.classes();
  task.begin = 0;
  task.rows = static_cast<int32_t>(rows);
  task.panels = static_cast<int32_t>(groups(rows, kernels_.panel));
  task.inverse_norm = block.inverse_norm();
  task.labels = labels_.data() + row;
  task.first_class = static_cast<int32_t>(block.first() / sub_centers_);
  task.offset = offsets_ ? offsets_.data() + row : nullptr;
  task.exponentials = exponentials;
  task.row_stride = stride;
  task.round = batch_.operands == Precision::bfloat16;
  task.paired = nullptr;
  task.next_weights = nullptr;
  task.next_row_bytes = 0;
  task.sums = nullptr;
  task.hardest = nullptr;
  task.threshold = nullptr;
  task.above = nullptr;
  task.transform = transform_;
  task.transform.threshold = transforms_ ? transform_thresholds_.data() + row : nullptr;
  task.binary = elements_;
  task.sub_centers = sub_centers_;
  task.products = nullptr;
  task.product_stride = std::min(kRowBlock, panels_ * kernels_.panel);
  return task;
}

void CpuPass::sweep_blocks(const Sweep& sweep, int64_t first, int64_t last, int64_t chunk, int64_t row_start,
                           int64_t row_end, Scratch& scratch) {
  const int64_t panel = kernels_.panel, lanes = panels_ * panel;
  double* sums = sums_.data() + chunk * lanes;
  ClassBlock& block = scratch.block;
  bool add = false;
  for (int64_t b = first; b < last; b++) {
    if (sweep.cancellable && cancelled()) return;
    const int32_t count = begin_block(b, sweep, block);
    const int64_t start = block.first(), ahead = start + block.read_ahead();

    // E of this block: in the kept array, for the whole batch in scratch, or for one row block in scratch.
    const bool whole = kept_ || sweep.weights;
    float* exponentials = kept_ ? element(kept_.data(), start * stride_) : scratch.exponentials.data();
    const int64_t stride = whole ? stride_ : std::min(kRowBlock, lanes);
    for (int64_t row = row_start; row < row_end; row += kRowBlock) {
      const int64_t rows = std::min(kRowBlock, row_end - row);
      float* e = whole ? element(exponentials, row) : exponentials;
      if (sweep.recompute) {
        const bool read = whole || sweep.features || batch_.angles;
        NegativesTask task = product_task(block, row, rows, read ? e : nullptr, stride);
        if (kernels_.pairs && sweep.features) task.paired = scratch.paired.data();
        if (row == row_start && ahead < classes_ && !samples()) {
          task.next_weights = shard_.row(ahead);
          task.next_row_bytes = dim_ * static_cast<int64_t>(byte_size(shard_.storage()));
        }
        task.sums = scratch.sums.data();
        std::fill_n(task.sums, kRowBlock, 0.0f);
        task.products = scratch.products.data();
        task.hardest = sweep.hardest ? hardest_.data() + chunk * lanes + row : nullptr;
        if (sweep.above) {
          task.threshold = thresholds_.data() + chunk * lanes + row;
          task.above = above_.data() + chunk * lanes + row;
        }
        if (sweep.largest) task.transform.largest = largest_.data() + chunk * lanes + row;
        if (sweep.hard) {
          task.transform.hard_sum = scratch.more.data();
          task.transform.hard_count = scratch.more.data() + kRowBlock;
        }
        task.binary.excess = scratch.more.data();
        task.binary.slopes = scratch.more.data() + kRowBlock;
        if (sweep.hard || binary_) std::fill_n(scratch.more.data(), 2 * kRowBlock, 0.0f);
        if (batch_.angles) {
          multiply(kernels_.products, task, block);
          kernels_.angles(task);
        } else {
          multiply(binary_       ? kernels_.binary_negatives
                   : transforms_ ? kernels_.transformed_negatives
                                 : kernels_.negatives,
                   task, block);
        }
        if (sweep.binary)
          add_binary_sums(scratch, chunk, row, rows);
        else if (sweep.sums)
          for (int64_t i = 0; i < rows; i++) sums[row + i] += scratch.sums.data()[i];
        if (sweep.hard)
          for (int64_t part = 0; part < 2; part++)
            for (int64_t i = 0; i < rows; i++)
              more_sums_[(part * chunks_ + chunk) * lanes + row + i] += scratch.more.data()[part * kRowBlock + i];
      }
      if (sweep.features) {
        if (kernels_.pairs && !sweep.recompute)
          kernels_.pair_exponentials(e, stride, count, static_cast<int32_t>(rows), scratch.paired.data());
        FeatureGradientTask task;
        task.exponentials = kernels_.pairs ? scratch.paired.data() : e;
        task.row_stride = kernels_.pairs ? kRowBlock : stride;
        task.weights = block.gradient_operand();
        task.stride = block.gradient_stride();
        task.tail = block.gradient_tail();
        task.dim = dim_;
        task.depth = kernels_.pairs ? (count + 1) / 2 : count;
        task.rows = static_cast<int32_t>(rows);
        task.accumulators = accumulators_.data() + (chunk * width_ * sum_rows_ + row * panel);
        task.accumulator_rows = sum_rows_;
        task.add = add;
        kernels_.feature_gradient(task);
      }
    }
    add = true;
    if (sweep.sums && row_start == 0) note_norms(b, block);
    if (sweep.unit_sum && row_start == 0) add_unit_rows(block, chunk);
    if (sweep.features && settled_ && (b - first + 1) % kBlocksPerSettle == 0 && b + 1 < last) {
      settle(chunk, row_start, row_end);
      add = false;
    }
    if (sweep.weights) weight_tiles(sweep, scratch, exponentials, stride);
  }
  if (sweep.weights) kernels_.fence();
}

// Products of blocks go on in float64 until they are near its end.
void CpuPass::add_binary_sums(const Scratch& scratch, int64_t chunk, int64_t row, int64_t rows) {
  const int64_t lanes = panels_ * kernels_.panel;
  double* products = sums_.data() + chunk * lanes + row;
  double* excess = more_sums_.data() + chunk * lanes + row;
  double* slopes = excess + chunks_ * lanes;
  const float *block_products = scratch.sums.data(), *more = scratch.more.data();
  for (int64_t i = 0; i < rows; i++) {
    const double product = block_products[i];
    products[i] = products[i] * (1 + product) + product;
    excess[i] += more[i];
    slopes[i] += more[kRowBlock + i];
    if (products[i] < kLargestProduct) continue;
    excess[i] += std::log1p(products[i]) / kLn2;
    products[i] = 0;
  }
}

// Adds a chunk's running sum of dX to the settled one; the running one starts anew.
void CpuPass::settle(int64_t chunk, int64_t row_start, int64_t row_end) {
  const int64_t panel = kernels_.panel, base = chunk * width_ * sum_rows_;
  for (int64_t p = 0; p < width_ / panel; p++) {
    float* running = accumulators_.data() + base + (p * sum_rows_ + row_start) * panel;
    float* settled = settled_.data() + base + (p * sum_rows_ + row_start) * panel;
    for (int64_t e = 0; e < (row_end - row_start) * panel; e++) settled[e] += running[e];
  }
}

void CpuPass::add_unit_rows(const ClassBlock& block, int64_t chunk) {
  double* to = unit_sums_.data() + chunk * dim_;
  const float* inverse = block.inverse_norm();
  for (int32_t c = 0; c < block.classes(); c += 2) {
    const bool pair = c + 1 < block.classes();
    kernels_.exact_add(block.row(c), inverse[c], block.row(pair ? c + 1 : c), pair ? inverse[c + 1] : 0.0, dim_, to);
  }
}

// dW of a block, some classes at a time: sum over rows, projection, own rows' terms, then written, added or used up.
void CpuPass::weight_tiles(const Sweep& sweep, Scratch& scratch, const float* exponentials, int64_t stride) {
  const ClassBlock& block = scratch.block;
  const int32_t height = weight_classes_;
  float* terms = scratch.gradient.data() + height * width_;
  // A result that fits the last-level cache is better left there.
  const bool streaming = sweep.sink.kind == WeightSink::Kind::write && classes_ * dim_ > kLargestCachedResult;
  auto owner = static_cast<size_t>(
      std::lower_bound(owners_.begin(), owners_.end(), block.first(),
                       [](const Owner& candidate, int64_t wanted) { return candidate.index < wanted; }) -
      owners_.begin());
  const bool terms_for_all = !uniform_.empty() || sweep.sink.added;
  const bool clips = sweep.sink.kind == WeightSink::Kind::update && !sweep.sink.clip.none();
  GradientRow row;
  row.unscale = static_cast<float>(unscale_);
  row.dim = dim_;
  for (int32_t c = 0; c < block.classes();) {
    const auto tiles = static_cast<int32_t>(groups(block.classes() - c, height));
    const auto count = static_cast<int32_t>(groups(block.classes() - c, tiles));
    WeightGradientTask task;
    task.exponentials = element(exponentials, c * stride);
    task.row_stride = kernels_.pairs ? stride / 2 : stride;
    task.features = weighted_features_.data();
    task.depth = static_cast<int32_t>(weight_depth_);
    task.weights = block.row(c);
    task.stride = dim_;
    task.dim = dim_;
    task.classes = count;
    task.gradient = scratch.gradient.data();
    task.dots = scratch.dots.data();
    const bool more = block.first() + c + count < classes_;
    task.destination = streaming ? nullptr : destination(sweep.sink, block.first() + c);
    task.next_exponentials = kept_ && more ? element(exponentials, (c + count) * stride) : nullptr;
    task.next_weights = more && !samples() ? shard_.row(block.first() + c + count) : nullptr;
    task.next_row_bytes = dim_ * static_cast<int64_t>(byte_size(shard_.storage()));
    while (owner < owners_.size() && owners_[owner].index < block.first() + c) owner++;
    const bool any_owned = owner < owners_.size() && owners_[owner].index < block.first() + c + count;
    const bool skipped = skip_tile(sweep, scratch, task.exponentials, stride, c, count, any_owned);
    if (skipped) {
      std::memset(task.gradient, 0, count * width_ * sizeof(float));
      std::fill_n(task.dots, height, 0.0f);
    } else {
      kernels_.weight_gradient(task);
    }
    for (int32_t h = 0; h < count; h++, c++) {
      row.raw = task.gradient + h * width_;
      // Of a class left out, the row that projects nothing need not be fetched.
      row.unit = skipped ? row.raw : task.weights + h * task.stride;
      block.tangent(c, task.dots[h], &row.beta, &row.inverse);
      const int64_t place = block.first() + c;
      bool has_terms = false;
      if (any_owned || terms_for_all) {
        while (owner < owners_.size() && owners_[owner].index < place) owner++;
        const bool owned = owner < owners_.size() && owners_[owner].index == place;
        has_terms = owned || terms_for_all;
        const float* added = sweep.sink.added ? sweep.sink.added + index_of(place) * dim_ : nullptr;
        if (has_terms) target_terms(scratch, c, owner, added, terms);
      }
      row.target = has_terms ? terms : nullptr;
      if (clips) {
        const double factor = sweep.sink.clip.factor(kernels_.gradient_square(row));
        row.inverse = static_cast<float>(row.inverse * factor);
        if (has_terms)
          for (int32_t d = 0; d < dim_; d++) terms[d] = static_cast<float>(terms[d] * factor);
      }
      switch (sweep.sink.kind) {
        case WeightSink::Kind::write:
          kernels_.write_row(row, sweep.sink.gradient + index_of(place) * dim_, streaming);
          break;
        case WeightSink::Kind::accumulate: shard_.accumulate(index_of(place), row); break;
        case WeightSink::Kind::update: shard_.update(index_of(place), row, sweep.step); break;
        case WeightSink::Kind::measure:
          squares_[block.first() / block_classes_] += kernels_.gradient_square(row);
          break;
        case WeightSink::Kind::none: break;
      }
    }
  }
}

const float* CpuPass::destination(const WeightSink& sink, int64_t place) const {
  // Fetched are rows that lie one behind the other.
  if (samples()) return nullptr;
  switch (sink.kind) {
    case WeightSink::Kind::write: return sink.gradient + place * dim_;
    case WeightSink::Kind::accumulate: return shard_.accumulated_row(place);
    case WeightSink::Kind::update: return shard_.momentum_row(place);
    case WeightSink::Kind::measure:
    case WeightSink::Kind::none: break;
  }
  return nullptr;
}

bool CpuPass::skip_tile(const Sweep& sweep, Scratch& scratch, const float* exponentials, int64_t stride, int32_t c,
                        int32_t count, bool owned) {
  if (skipped_.empty() || owned) return false;
  float* masses = scratch.dots.data();
  kernels_.masses(exponentials, stride, count, static_cast<int32_t>(rows_), absolute_kappa_.data(), masses);
  double mass = 0;
  for (int32_t h = 0; h < count; h++) mass += masses[h] * scratch.block.mass_scale(c + h);
  if (!(mass * sub_centers_ <= sweep.sink.skipped_mass_per_class * count)) return false;
  skipped_[scratch.block.first() / block_classes_] += mass;
  return true;
}

// Sum over the rows that own class c of gamma * (xh - cos * wh) / |w|, in float64 and after the projection:
// projecting it with the rest would leave an error of gamma's size at the poles. Before it the tangent of uniform_, of which all
// classes have a part: (u - (u . wh) wh) / |w|. And what the sink is to add.
void CpuPass::target_terms(Scratch& scratch, int32_t c, size_t owner, const float* added, float* terms) const {
  std::vector<double>& total = scratch.row;
  std::fill(total.begin(), total.end(), 0.0);
  const int64_t index = scratch.block.first() + c;
  if (!uniform_.empty()) {
    const double inverse = scratch.block.true_inverse(c), unit = scratch.block.inverse_norm()[c];
    const float* w = scratch.block.row(c);
    const double along = scratch.block.has_direction(c) ? kernels_.exact_product(uniform_.data(), w, dim_) * unit : 0.0;
    for (int32_t d = 0; d < dim_; d++) total[d] = (uniform_[d] - along * unit * w[d]) * inverse;
  }
  for (; owner < owners_.size() && owners_[owner].index == index; owner++) {
    const int32_t row = owners_[owner].row;
    const float* x = batch_.features + static_cast<int64_t>(row) * dim_;
    const float* w = target_row(owner);
    const double inverse = target_inverse_[owner], x_inverse = norms_[row].inverse;
    const double cosine = scratch.block.has_direction(c) ? targets_[owner].cosine : 0.0;
    const double gamma = gamma_[row] * inverse;
    kernels_.exact_add(x, gamma * x_inverse, w, -gamma * cosine * inverse, dim_, total.data());
  }
  if (added)
    for (int32_t d = 0; d < dim_; d++) total[d] += added[d];
  for (int32_t d = 0; d < dim_; d++) terms[d] = static_cast<float>(total[d]);
}

// dx = (g - (g . xh) xh) / |x| + gamma * (wh_y - cos * xh) / |x| + radial * xh, where
// g = kappa * sum over negatives of E * wh, plus uniform * sum over classes of wh; everything in float64. Rows too short to have a direction are not projected.
void CpuPass::finish_features(const RowCoefficients& coefficients, float* feature_gradient) {
  const int64_t panel = kernels_.panel, column_panels = width_ / panel;
  engine_.pool().run(groups(rows_, kBatchRowsPerTask), [&](int64_t task, int thread) {
    const int64_t start = task * kBatchRowsPerTask, count = std::min(kBatchRowsPerTask, rows_ - start);
    // [column panels, count, panel]: the sums over chunks.
    std::vector<double>& sums = scratch_[thread].rows;
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t chunk = 0; chunk < chunks_; chunk++)
      for (int64_t p = 0; p < column_panels; p++) {
        const int64_t at = ((chunk * column_panels + p) * sum_rows_ + start) * panel;
        double* to = sums.data() + p * count * panel;
        kernels_.widen_add(accumulators_.data() + at, count * panel, to);
        if (settled_) kernels_.widen_add(settled_.data() + at, count * panel, to);
      }
    double* g = scratch_[thread].row.data();
    for (int64_t i = start; i < start + count; i++) {
      const float* x = batch_.features + i * dim_;
      const double inverse = norms_[i].inverse, scale = coefficients.kappa[i] * inverse;
      const bool projected = norms_[i].has_direction;
      for (int64_t p = 0; p < column_panels; p++) {
        const double* from = sums.data() + (p * count + (i - start)) * panel;
        const int64_t columns = std::min(panel, dim_ - p * panel);
        for (int64_t l = 0; l < columns; l++) g[p * panel + l] = from[l] * scale;
      }
      if (coefficients.uniform)
        for (int32_t d = 0; d < dim_; d++) g[d] += coefficients.uniform[i] * inverse * unit_sums_[d];
      // All the rest is multiples of x and w_y.
      double of_x = projected ? -kernels_.exact_product(g, x, dim_) * inverse * inverse : 0.0, of_w = 0;
      const float* w = x;
      if (const int64_t o = owner_of_[i]; o >= 0) {
        const double gamma = coefficients.gamma[i] * inverse, cosine = projected ? targets_[o].cosine : 0.0;
        const double radial = coefficients.radial ? coefficients.radial[i] : 0.0;
        of_x += (radial - gamma * cosine) * inverse;
        of_w = gamma * target_inverse_[o];
        w = target_row(o);
      }
      kernels_.exact_add(x, of_x, w, of_w, dim_, g);
      for (int32_t d = 0; d < dim_; d++) feature_gradient[i * dim_ + d] = static_cast<float>(g[d]);
    }
  });
}

}  // namespace marginfc
