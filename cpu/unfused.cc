#include "cpu/unfused.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/memory.h"

namespace marginfc {
namespace {

// Parts of the classes whose sums are apart, so that they are added in the same order on any number of threads.
constexpr int64_t kParts = 16;

int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

class Unfused {
 public:
  Unfused(CpuEngine& engine, const UnfusedProblem& problem)
      : engine_(engine),
        kernels_(engine.kernels()),
        problem_(problem),
        lanes_(round_up(problem.rows, kernels_.panel)),
        // Neighbouring classes of a tile must not meet in one set of the cache.
        stride_(lanes_ % 256 == 0 ? lanes_ + 16 : lanes_),
        width_(round_up(problem.dim, kernels_.panel)) {}

  Status run(const UnfusedResult& result);

 private:
  Status allocate();
  void normalise();
  void logits();
  void softmax(float* row_loss);
  void feature_gradient(float* to);
  void weight_gradient(float* to);
  float& logit(int64_t row) { return logits_.data()[problem_.labels[row] * stride_ + row]; }

  // body(first, count, part) for blocks of classes, the blocks of a part one after another.
  template <typename Body>
  void for_blocks(const Body& body) {
    const int64_t size = kernels_.block_classes, blocks = (problem_.classes + size - 1) / size;
    engine_.pool().run(kParts, [&](int64_t part, int thread) {
      for (int64_t b = blocks * part / kParts; b < blocks * (part + 1) / kParts; b++)
        body(b * size, static_cast<int32_t>(std::min(size, problem_.classes - b * size)), part, thread);
    });
  }

  CpuEngine& engine_;
  const Kernels& kernels_;
  const UnfusedProblem& problem_;
  const int64_t lanes_, stride_, width_;
  PooledBuffer features_;      // xh in panels of rows, [lanes / panel, dim, panel]
  PooledBuffer columns_;       // xh in panels of columns, [width / panel, rows, panel]
  PooledBuffer weights_;       // wh, [classes, width]
  PooledBuffer logits_;        // [classes, stride]: s * cos, then exp, then the gradient of cos
  PooledBuffer accumulators_;  // dX, [parts, width / panel, rows, panel]
  PooledBuffer partial_;       // [parts, lanes]
  PooledBuffer tiles_;         // [threads, tile, width], then [threads, tile + 4] dots
  std::vector<float> inverse_features_, inverse_weights_, ones_, derivative_;
};

Status Unfused::run(const UnfusedResult& result) {
  MARGINFC_TRY(allocate());
  normalise();
  logits();
  softmax(result.row_loss);
  feature_gradient(result.feature_gradient);
  weight_gradient(result.weight_gradient);
  return {};
}

Status Unfused::allocate() try {
  const int64_t tile = kernels_.tile_classes, threads = engine_.pool().threads();
  BufferPool& pool = engine_.buffers();
  if (!features_.allocate(pool, lanes_ * problem_.dim) || !columns_.allocate(pool, width_ * problem_.rows) ||
      !weights_.allocate(pool, problem_.classes * width_) ||
      !logits_.allocate(pool, round_up(problem_.classes, tile) * stride_) ||
      !accumulators_.allocate(pool, kParts * width_ * problem_.rows) || !partial_.allocate(pool, kParts * lanes_) ||
      !tiles_.allocate(pool, threads * (tile * width_ + tile + 4)))
    return Status::no_workspace();
  inverse_features_.resize(problem_.rows);
  inverse_weights_.resize(problem_.classes);
  derivative_.resize(problem_.rows);
  ones_.assign(kernels_.block_classes, 1.0f);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

void Unfused::normalise() {
  const int64_t panel = kernels_.panel, dim = problem_.dim;
  std::fill_n(features_.data(), lanes_ * dim, 0.0f);
  std::fill_n(columns_.data(), width_ * problem_.rows, 0.0f);
  engine_.pool().run(problem_.rows, [&](int64_t i, int) {
    const float* x = problem_.features + i * dim;
    const double inverse = 1 / std::max(std::sqrt(kernels_.exact_dot(x, x, problem_.dim)), 1e-12);
    inverse_features_[i] = static_cast<float>(inverse);
    for (int64_t d = 0; d < dim; d++) {
      const auto unit = static_cast<float>(x[d] * inverse);
      features_.data()[(i / panel * dim + d) * panel + i % panel] = unit * static_cast<float>(problem_.scale);
      columns_.data()[(d / panel * problem_.rows + i) * panel + d % panel] = unit;
    }
  });
  for_blocks([&](int64_t first, int32_t count, int64_t, int) {
    for (int64_t j = first; j < first + count; j++) {
      const float* w = problem_.weights + j * dim;
      float* to = weights_.data() + j * width_;
      const double inverse = 1 / std::max(std::sqrt(kernels_.exact_dot(w, w, problem_.dim)), 1e-12);
      inverse_weights_[j] = static_cast<float>(inverse);
      kernels_.exact_scale(w, inverse, problem_.dim, to);
      std::fill_n(to + dim, width_ - dim, 0.0f);
    }
  });
}

void Unfused::logits() {
  for_blocks([&](int64_t first, int32_t count, int64_t, int) {
    for (int64_t row = 0; row < problem_.rows; row += kRowBlock) {
      const int64_t rows = std::min(kRowBlock, problem_.rows - row);
      NegativesTask task{};
      task.features = features_.data() + row * problem_.dim;
      task.weights = weights_.data() + first * width_;
      task.stride = width_;
      task.depth = problem_.dim;
      task.classes = count;
      task.rows = static_cast<int32_t>(rows);
      task.panels = static_cast<int32_t>((rows + kernels_.panel - 1) / kernels_.panel);
      task.inverse_norm = ones_.data();
      task.exponentials = logits_.data() + first * stride_ + row;
      task.row_stride = stride_;
      kernels_.products(task);
    }
  });
}

// Leaves dLoss/dcos in place of the logits.
void Unfused::softmax(float* row_loss) {
  const double s = problem_.scale, share = s / static_cast<double>(problem_.rows);
  std::vector<double> target(problem_.rows);
  for (int64_t i = 0; i < problem_.rows; i++) {
    const double cosine = std::clamp(logit(i) / s, -1.0, 1.0), theta = std::acos(cosine);
    target[i] = s * std::cos(theta + problem_.m);
    derivative_[i] = static_cast<float>(std::sin(theta + problem_.m) / std::max(std::sin(theta), 1e-6));
    logit(i) = static_cast<float>(target[i]);
  }
  const auto lanes = static_cast<int32_t>(lanes_);
  std::fill_n(partial_.data(), kParts * lanes_, -std::numeric_limits<float>::infinity());
  for_blocks([&](int64_t first, int32_t count, int64_t part, int) {
    kernels_.unfused_maxima(logits_.data() + first * stride_, stride_, count, lanes, partial_.data() + part * lanes_);
  });
  std::vector<float> largest(lanes_, -std::numeric_limits<float>::infinity()), factors(lanes_, 0.0f);
  for (int64_t part = 0; part < kParts; part++)
    for (int64_t i = 0; i < lanes_; i++) largest[i] = std::max(largest[i], partial_.data()[part * lanes_ + i]);

  std::fill_n(partial_.data(), kParts * lanes_, 0.0f);
  for_blocks([&](int64_t first, int32_t count, int64_t part, int) {
    kernels_.unfused_exponentials(logits_.data() + first * stride_, stride_, count, lanes, largest.data(),
                                  partial_.data() + part * lanes_);
  });
  for (int64_t i = 0; i < problem_.rows; i++) {
    double sum = 0;
    for (int64_t part = 0; part < kParts; part++) sum += partial_.data()[part * lanes_ + i];
    row_loss[i] = static_cast<float>(std::log(sum) + largest[i] - target[i]);
    factors[i] = static_cast<float>(share / sum);
  }

  for_blocks([&](int64_t first, int32_t count, int64_t, int) {
    kernels_.unfused_scale(logits_.data() + first * stride_, stride_, count, lanes, factors.data());
  });
  for (int64_t i = 0; i < problem_.rows; i++)
    logit(i) = static_cast<float>((logit(i) - share) * static_cast<double>(derivative_[i]));
}

void Unfused::feature_gradient(float* to) {
  const int64_t panel = kernels_.panel, rows = problem_.rows, dim = problem_.dim;
  std::fill_n(accumulators_.data(), kParts * width_ * rows, 0.0f);
  for_blocks([&](int64_t first, int32_t count, int64_t part, int) {
    for (int64_t row = 0; row < rows; row += kRowBlock) {
      FeatureGradientTask task{};
      task.exponentials = logits_.data() + first * stride_ + row;
      task.row_stride = stride_;
      task.weights = weights_.data() + first * width_;
      task.stride = width_;
      task.dim = static_cast<int32_t>(width_);
      task.depth = count;
      task.rows = static_cast<int32_t>(std::min(kRowBlock, rows - row));
      task.accumulators = accumulators_.data() + part * width_ * rows + row * panel;
      task.accumulator_rows = rows;
      task.add = true;
      kernels_.feature_gradient(task);
    }
  });
  engine_.pool().run(rows, [&](int64_t i, int) {
    const float* x = problem_.features + i * dim;
    float* g = to + i * dim;
    const double inverse = inverse_features_[i];
    double along = 0;
    for (int64_t d = 0; d < dim; d++) {
      double sum = 0;
      for (int64_t part = 0; part < kParts; part++)
        sum += accumulators_.data()[part * width_ * rows + (d / panel * rows + i) * panel + d % panel];
      g[d] = static_cast<float>(sum);
      along += sum * x[d] * inverse;
    }
    for (int64_t d = 0; d < dim; d++) g[d] = static_cast<float>((g[d] - along * x[d] * inverse) * inverse);
  });
}

void Unfused::weight_gradient(float* to) {
  const int64_t tile = kernels_.tile_classes, dim = problem_.dim;
  for_blocks([&](int64_t first, int32_t count, int64_t, int thread) {
    float* raw = tiles_.data() + thread * (tile * width_ + tile + 4);
    float* dots = raw + tile * width_;
    for (int64_t c = first; c < first + count; c += tile) {
      WeightGradientTask task{};
      task.exponentials = logits_.data() + c * stride_;
      task.row_stride = stride_;
      task.features = columns_.data();
      task.depth = static_cast<int32_t>(problem_.rows);
      task.weights = weights_.data() + c * width_;
      task.stride = width_;
      task.dim = static_cast<int32_t>(width_);
      task.classes = static_cast<int32_t>(std::min<int64_t>(tile, first + count - c));
      task.gradient = raw;
      task.dots = dots;
      kernels_.weight_gradient(task);
      for (int32_t h = 0; h < task.classes; h++) {
        const GradientRow row{raw + h * width_, task.weights + h * width_, dots[h], 1, inverse_weights_[c + h], nullptr,
                              problem_.dim};
        kernels_.write_row(row, to + (c + h) * dim, true);
      }
    }
    kernels_.fence();
  });
}

}  // namespace

Status unfused_arcface(CpuEngine& engine, const UnfusedProblem& problem, const UnfusedResult& result) {
  return Unfused(engine, problem).run(result);
}

}  // namespace marginfc
