#include "cpu/shard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "cpu/pass.h"
#include "engine/random.h"

namespace marginfc {
namespace {

// Class rows per task where rows are handled one by one.
constexpr int64_t kRowsPerTask = 256;
// Columns of a row of 16 bits that are in float32 while they are updated: on the stack, and whole groups of
// round_stochastically.
constexpr int32_t kPiece = 512;

}  // namespace

RunBlocks run_blocks(ThreadPool& pool) {
  return [&pool](int64_t count, const std::function<void(int64_t)>& body) {
    pool.run(count, [&](int64_t block, int) { body(block); });
  };
}

Status CpuShard::allocate(const Optimizer& optimizer) {
  optimizer_ = optimizer;
  const size_t size = static_cast<size_t>(rows()) * dim_;
  const size_t floats = (size * byte_size(storage_) + sizeof(float) - 1) / sizeof(float);
  if (!owned_.allocate(floats)) return Status::no_weights();
  const bool adamw = optimizer.kind == Optimizer::Kind::adamw;
  if ((adamw || optimizer.momentum != 0) && !momentum_.allocate(size)) return Status::no_weights();
  if (adamw && !variance_.allocate(size)) return Status::no_weights();
  weights_ = owned_.data();
  zeros_.resize(dim_);
  return {};
}

size_t CpuShard::keep_bytes(const Batch& batch) const {
  const Kernels& kernels = engine_.kernels(batch.operands);
  const size_t elements = static_cast<size_t>(exponential_stride(batch.rows, kernels)) * most_sampled(batch, range_);
  return elements * sub_centers_ * (kernels.pairs ? 2 : 4);
}

Status CpuShard::begin(const Batch& batch, std::unique_ptr<ShardPass>* pass) try {
  auto begun = std::make_unique<CpuPass>(*this, batch);
  MARGINFC_TRY(begun->prepare());
  *pass = std::move(begun);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

template <class Body>
void CpuShard::for_each_of(const int32_t* classes, int64_t count, const Body& body) const {
  for (int64_t n = 0; n < count; n++)
    if (classes[n] >= range_.start && classes[n] < range_.end) body(n, (classes[n] - range_.start) * sub_centers_);
}

Status CpuShard::gather(const int32_t* classes, int64_t count, float* rows) {
  for_each_of(classes, count, [&](int64_t n, int64_t row) {
    for (int32_t k = 0; k < sub_centers_; k++) copy_row(row + k, rows + (n * sub_centers_ + k) * dim_);
  });
  return {};
}

Status CpuShard::kept_gradient(float** gradient, Place* place) {
  if (!kept_.allocate(engine_.buffers(), rows() * dim_)) return Status::no_workspace();
  *gradient = kept_.data();
  *place = Place::host;
  return {};
}

Status CpuShard::add_to_kept(const int32_t* classes, int64_t count, const float* rows) {
  const int64_t size = static_cast<int64_t>(sub_centers_) * dim_;
  for_each_of(classes, count, [&](int64_t n, int64_t row) {
    for (int64_t d = 0; d < size; d++) kept_.data()[row * dim_ + d] += rows[n * size + d];
  });
  return {};
}

Status CpuShard::nearest(const Batch& batch, int64_t k, int32_t* classes, float* cosines) try {
  CpuPass pass(*this, batch);
  MARGINFC_TRY(pass.prepare());
  return pass.nearest(k, classes, cosines);
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

// Element (row, column) is a function of seed, row and column alone: Philox blocks of four columns.
Status CpuShard::initialize(double std, uint64_t seed, ClassRange classes) {
  const int64_t start = (classes.start - range_.start) * sub_centers_, count = classes.size() * sub_centers_;
  engine_.pool().run((count + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    const int64_t first = task * kRowsPerTask, last = std::min(count, first + kRowsPerTask);
    for (int64_t index = start + first; index < start + last; index++) {
      const int64_t id = row_id(index);
      for (int32_t d = 0; d < dim_; d += 4) {
        const Random4 random = philox(seed, id, d / 4);
        double normal[4];
        normal_pair(random.v[0], random.v[1], &normal[0], &normal[1]);
        normal_pair(random.v[2], random.v[3], &normal[2], &normal[3]);
        float values[4];
        for (int l = 0; l < 4; l++) values[l] = static_cast<float>(std * normal[l]);
        const int32_t count = std::min(4, dim_ - d);
        if (storage_ == Precision::float32)
          std::copy_n(values, count, owned_.data() + index * dim_ + d);
        else
          engine_.kernels().narrow(values, count, halves(index, d));
      }
    }
  });
  return {};
}

FloatBuffer CpuShard::* CpuShard::member(ClassArray array) {
  switch (array) {
    case ClassArray::weights: break;
    case ClassArray::momentum: return &CpuShard::momentum_;
    case ClassArray::variance: return &CpuShard::variance_;
    case ClassArray::accumulated: return &CpuShard::accumulated_;
  }
  return &CpuShard::owned_;
}

Status CpuShard::write(ClassArray array, int64_t first, int64_t count, const float* values) {
  if (array == ClassArray::accumulated) MARGINFC_TRY(reserve_accumulated());
  const int64_t start = (first - range_.start) * sub_centers_, size = count * sub_centers_ * dim_;
  if (array == ClassArray::weights && storage_ != Precision::float32) {
    engine_.kernels().narrow(values, size, halves(start));
    return {};
  }
  std::memcpy((this->*member(array)).data() + start * dim_, values, size * sizeof(float));
  return {};
}

Status CpuShard::read(ClassArray array, int64_t first, int64_t count, float* values) const {
  const int64_t start = (first - range_.start) * sub_centers_, rows = count * sub_centers_;
  if (array == ClassArray::weights && storage_ != Precision::float32) {
    for (int64_t r = 0; r < rows; r++) copy_row(start + r, values + r * dim_);
    return {};
  }
  const float* from = (this->*member(array)).data();
  const size_t bytes = rows * dim_ * sizeof(float);
  if (from)
    std::memcpy(values, from + start * dim_, bytes);
  else
    std::memset(values, 0, bytes);
  return {};
}

void CpuShard::copy_row(int64_t index, float* to) const {
  if (storage_ == Precision::float32)
    std::memcpy(to, row(index), dim_ * sizeof(float));
  else
    engine_.kernels().widen(static_cast<const uint16_t*>(row(index)), dim_, storage_ == Precision::float16, to);
}

Status CpuShard::reserve_accumulated() {
  if (accumulated_) return {};
  return accumulated_.allocate(static_cast<size_t>(rows()) * dim_) ? Status{} : Status::no_weights();
}

void CpuShard::accumulate(int64_t index, const GradientRow& gradient) {
  engine_.kernels().add_row(gradient, accumulated_.data() + index * dim_);
}

CpuShard::Step CpuShard::step(const WeightSink& sink) const {
  Step step;
  if (optimizer_.kind == Optimizer::Kind::sgd)
    step.sgd = sgd_step(optimizer_, sink);
  else
    step.adamw = adamw_step(optimizer_, sink);
  step.number = sink.step;
  return step;
}

void CpuShard::update(int64_t index, const GradientRow& gradient, const Step& step) {
  if (storage_ == Precision::float32) {
    move(index, 0, gradient, step, owned_.data() + index * dim_);
    return;
  }
  const Kernels& kernels = engine_.kernels();
  const RoundingDraw draw{optimizer_.seed, static_cast<uint32_t>(step.number), static_cast<uint32_t>(row_id(index))};
  for (int32_t d = 0; d < dim_; d += kPiece) {
    GradientRow part = gradient;
    part.raw += d;
    part.unit += d;
    if (part.target) part.target += d;
    part.dim = std::min(kPiece, dim_ - d);
    float weights[kPiece];
    kernels.widen(halves(index, d), part.dim, false, weights);
    move(index, d, part, step, weights);
    kernels.round_stochastically(weights, d, part.dim, draw, halves(index, d));
  }
}

void CpuShard::move(int64_t index, int32_t first, const GradientRow& gradient, const Step& step, float* weights) {
  const int64_t at = index * dim_ + first;
  float* momentum = momentum_ ? momentum_.data() + at : nullptr;
  if (optimizer_.kind == Optimizer::Kind::sgd)
    engine_.kernels().sgd_row(gradient, step.sgd, weights, momentum);
  else
    engine_.kernels().adamw_row(gradient, step.adamw, weights, momentum, variance_.data() + at);
}

void CpuShard::update_others(const std::vector<int32_t>& indexes, const Step& step) {
  const auto count = static_cast<int64_t>(indexes.size());
  engine_.pool().run((count + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    for (int64_t n = task * kRowsPerTask; n < std::min(count, (task + 1) * kRowsPerTask); n++)
      update(indexes[n], {zeros_.data(), zeros_.data(), 0, 1, 1, nullptr, dim_}, step);
  });
}

Status CpuShard::apply(const WeightSink& sink, const Sampling& sampling) try {
  MARGINFC_TRY(reserve_accumulated());
  const int64_t classes = range_.size(), tasks = (classes + kRowsPerTask - 1) / kRowsPerTask;
  const auto first_of = [&](int64_t task) { return task * kRowsPerTask * sub_centers_; };
  const auto end_of = [&](int64_t task) { return std::min(classes, (task + 1) * kRowsPerTask) * sub_centers_; };
  const auto gradient = [&](int64_t index) {
    const float* raw = accumulated_.data() + index * dim_;
    return GradientRow{raw, raw, 0, 1, 1, nullptr, dim_};
  };
  const auto square = [&](int64_t index) { return engine_.kernels().gradient_square(gradient(index)); };
  if (sink.kind == WeightSink::Kind::measure) {
    std::vector<double> squares(tasks);
    engine_.pool().run(tasks, [&](int64_t task, int) {
      for (int64_t index = first_of(task); index < end_of(task); index++) squares[task] += square(index);
    });
    for (const double part : squares) *sink.square += part;
    return {};
  }
  const bool some = sampling.draws() && !sampling.updates_all;
  const std::vector<uint8_t> drawn = some ? draw_classes(sampling, range_, run_blocks(engine_.pool()))
                                          : std::vector<uint8_t>();
  const Step step = this->step(sink);
  engine_.pool().run(tasks, [&](int64_t task, int) {
    for (int64_t index = first_of(task); index < end_of(task); index++) {
      float* raw = accumulated_.data() + index * dim_;
      // All rows of a class take part, or none.
      if (some && index % sub_centers_ == 0 && !drawn[index / sub_centers_] &&
          std::all_of(raw, raw + sub_centers_ * dim_, [](float g) { return g == 0; })) {
        index += sub_centers_ - 1;
        continue;
      }
      GradientRow row = gradient(index);
      if (!sink.clip.none()) row.inverse = static_cast<float>(sink.clip.factor(square(index)));
      update(index, row, step);
      std::memset(raw, 0, dim_ * sizeof(float));
    }
  });
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc
