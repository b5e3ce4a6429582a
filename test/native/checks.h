// What every engine must do, without Node: results compared with the definition written out in float64, so that a build
// whose sanitizer sees nothing must still be right.
#pragma once

#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

#include "engine/evaluation.h"
#include "engine/head.h"
#include "engine/random.h"
#include "engine/sampling.h"

namespace marginfc {

inline int passed = 0, failed = 0;

inline void check(bool ok, const char* what) {
  ok ? passed++ : failed++;
  if (!ok) std::printf("FAILED: %s\n", what);
}

struct Size {
  int64_t rows, dim, classes, shards;
  double scale;
  int64_t sub_centers = 1;

  ClassShape shape() const { return {static_cast<int32_t>(dim), static_cast<int32_t>(sub_centers)}; }
};

// Inputs in blocks of exactly their size, so that one float too far is a report.
struct Problem {
  std::vector<float> features, weights;
  std::vector<int32_t> labels;
};

inline Problem make_problem(const Size& size, uint64_t seed) {
  Problem problem;
  uint64_t counter = 0;
  const auto next = [&] {
    double a, b;
    const Random4 random = philox(seed, counter++, 0);
    normal_pair(random.v[0], random.v[1], &a, &b);
    return static_cast<float>(a);
  };
  for (int64_t i = 0; i < size.rows * size.dim; i++) problem.features.push_back(next());
  for (int64_t i = 0; i < size.classes * size.shape().size(); i++) problem.weights.push_back(next());
  // One class out of range for the plain kernels, one without direction.
  for (int64_t d = 0; d < size.dim && size.classes > 3; d++) {
    problem.weights[2 * size.dim + d] *= 1e20f;
    problem.weights[3 * size.dim + d] = 0;
  }
  for (int64_t i = 0; i < size.rows; i++)
    problem.labels.push_back(i % 5 == 4 ? -1 : static_cast<int32_t>((i * 7) % size.classes));
  return problem;
}

struct Result {
  double loss = 0;
  std::vector<double> feature_gradient, weight_gradient;
  std::vector<double> bias_gradient;  // [rows]; of a binary reduction
};

// ArcFace with m = 0.5, exact gradient, mean; straight from the definition.
inline Result reference(const Size& size, const Problem& problem, const NegativesOptions& negatives = {}) {
  const BinaryReduction* binary = negatives.binary;
  const int64_t B = size.rows, D = size.dim, C = size.classes;
  const auto unit = [D](const std::vector<float>& from, int64_t row, double* norm) {
    std::vector<double> out(from.begin() + row * D, from.begin() + (row + 1) * D);
    double total = 0;
    for (double x : out) total += x * x;
    *norm = std::max(std::sqrt(total), kNormFloor);
    for (double& x : out) x /= *norm;
    return out;
  };
  Result result;
  result.feature_gradient.assign(B * D, 0);
  result.weight_gradient.assign(C * size.sub_centers * D, 0);
  result.bias_gradient.assign(binary ? B : 0, 0);
  int64_t counted = 0;
  for (int32_t label : problem.labels) counted += label >= 0;
  std::vector<std::vector<double>> units(C * size.sub_centers);
  std::vector<double> norms(units.size());
  for (size_t r = 0; r < units.size(); r++) units[r] = unit(problem.weights, r, &norms[r]);
  for (int64_t i = 0; i < B; i++) {
    const int32_t y = problem.labels[i];
    if (y < 0) continue;
    double norm;
    const std::vector<double> x = unit(problem.features, i, &norm);
    std::vector<double> cosines(C, -2), logits(C), slopes(C, 1.0);
    std::vector<int64_t> nearest(C);
    double largest = -1e300;
    for (int64_t j = 0; j < C; j++) {
      for (int64_t r = j * size.sub_centers; r < (j + 1) * size.sub_centers; r++) {
        double c = 0;
        for (int64_t d = 0; d < D; d++) c += x[d] * units[r][d];
        if (c > cosines[j]) cosines[j] = c, nearest[j] = r;
      }
      cosines[j] = std::max(-1.0, std::min(1.0, cosines[j]));
      logits[j] = size.scale * cosines[j];
      if (j == y) {
        const double sine = std::sqrt(1 - cosines[j] * cosines[j]);
        logits[j] = size.scale * std::cos(std::acos(cosines[j]) + 0.5);
        slopes[j] = std::sin(std::acos(cosines[j]) + 0.5) / std::max(sine, kSineFloor);
      } else if (const NegativesTransform* transform = negatives.transform) {
        const double c = cosines[j];
        const Quadratic& g = c > transform->threshold[i] ? transform->above : transform->below;
        logits[j] = size.scale * (g.value[0] + g.value[1] * c + g.value[2] * c * c);
        slopes[j] = g.slope[0] + g.slope[1] * c;
      }
      largest = std::max(largest, logits[j]);
    }
    double total = 0;
    for (double z : logits) total += std::exp(z - largest);
    const double lse = largest + std::log(total);
    if (!binary) result.loss += (lse - logits[y]) / counted;
    for (int64_t j = 0; j < C; j++) {
      const double p = std::exp(logits[j] - lse);
      const int64_t r = nearest[j];
      double g = size.scale / counted * (j == y ? p - 1 : p) * slopes[j];
      if (binary) {
        const double half = (cosines[j] + 1) / 2, adjusted = 2 * std::pow(half, binary->power) - 1;
        const double z = binary->bias + (j == y ? logits[j] : size.scale * (adjusted + binary->shift));
        const double small = std::exp(-std::fabs(z)), sigmoid = (z > 0 ? 1 : small) / (1 + small);
        const double weight = (j == y ? binary->positive : binary->negative) / counted;
        result.loss += weight * (std::max(j == y ? -z : z, 0.0) + std::log1p(small));
        result.bias_gradient[i] += weight * (j == y ? sigmoid - 1 : sigmoid);
        g = size.scale * weight *
            (j == y ? (sigmoid - 1) * slopes[j] : sigmoid * binary->power * std::pow(half, binary->power - 1));
      }
      for (int64_t d = 0; d < D; d++) {
        result.feature_gradient[i * D + d] += g * (units[r][d] - cosines[j] * x[d]) / norm;
        const double own = norms[r] > kNormFloor ? cosines[j] * units[r][d] : 0;
        result.weight_gradient[r * D + d] += g * (x[d] - own) / norms[r];
      }
    }
  }
  return result;
}

// Row-scaled largest error over largest value, as docs/numerics.md.
inline bool close(const std::vector<float>& got, const std::vector<double>& expected, const std::vector<float>& rows,
                  int64_t dim, double limit) {
  double error = 0, largest = 0;
  for (size_t e = 0; e < expected.size(); e++) {
    double norm = 0;
    const size_t row = e / dim;
    for (int64_t d = 0; d < dim; d++) norm += static_cast<double>(rows[row * dim + d]) * rows[row * dim + d];
    norm = std::max(std::sqrt(norm), kNormFloor);
    error = std::max(error, std::fabs(got[e] - expected[e]) * norm);
    largest = std::max(largest, std::fabs(expected[e]) * norm);
    if (!std::isfinite(got[e])) return false;
  }
  return error <= limit * largest;
}

inline std::vector<std::unique_ptr<ClassShard>> borrow(const std::vector<Engine*>& engines, const Size& size,
                                                       const Problem& problem) {
  std::vector<std::unique_ptr<ClassShard>> shards(size.shards);
  for (int64_t r = 0; r < size.shards; r++) {
    const ClassRange range = shard_range(size.classes, size.shards, r);
    check(engines[r % engines.size()]
              ->borrow(range, size.shape(), {problem.weights.data() + range.start * size.shape().size()}, &shards[r])
              .ok(),
          "borrow");
  }
  return shards;
}

inline std::vector<ClassShard*> pointers(const std::vector<std::unique_ptr<ClassShard>>& shards) {
  std::vector<ClassShard*> out;
  for (const auto& shard : shards) out.push_back(shard.get());
  return out;
}

inline Batch make_batch(const Size& size, const Problem& problem, Workspace workspace) {
  Batch batch;
  batch.features = problem.features.data();
  batch.labels = problem.labels.data();
  batch.rows = size.rows;
  batch.dim = static_cast<int32_t>(size.dim);
  batch.scale = size.scale;
  batch.workspace = workspace;
  return batch;
}

inline Margin arcface() {
  Margin margin;
  margin.kind = MarginKind::arcface;
  margin.parameters[0].value = 0.5;
  return margin;
}

// CurricularFace's with t = 1 and a threshold of 0, where it has no jump that rounding could decide; of up to 4096 rows.
inline NegativesOptions curricular() {
  static const std::vector<double> kThresholds(4096, 0.0);
  static const NegativesTransform kTransform{{}, {{0, 1, 1}, {1, 2}}, kThresholds.data()};
  NegativesOptions options;
  options.transform = &kTransform;
  return options;
}

// SphereFace2's with most negatives on the right side, and UniFace's with half of them on the wrong one.
inline constexpr BinaryReduction kBinaries[] = {{-6, 0.7, 0.3, 0.4, 3}, {4, 1, 2}};
inline NegativesOptions binary_losses(int which) {
  NegativesOptions options;
  options.binary = &kBinaries[which];
  return options;
}

// Each row's part of the loss's gradient by the bias.
inline bool biases_are_right(const std::vector<double>& got, const std::vector<double>& expected, double limit) {
  double error = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    error = std::max(error, std::fabs(got[i] - expected[i]));
    largest = std::max(largest, std::fabs(expected[i]));
  }
  return error <= limit * largest;
}

// Of the loss and of gradients, as docs/numerics.md; twice that, for sizes where s is 128.
struct Limits {
  double loss, gradient;
};
inline Limits limits_of(Precision operands, const NegativesOptions& negatives = {}) {
  // What negatives' derivatives multiply errors of cosines with.
  if (negatives.binary) return {limits_of(operands).loss, negatives.binary->power * limits_of(operands).gradient};
  if (negatives.transform) return {3 * limits_of(operands).loss, 3 * limits_of(operands).gradient};
  switch (operands) {
    case Precision::bfloat16: return {2e-2, 12e-2};
    case Precision::float16: return {2e-3, 12e-3};
    case Precision::float32: break;
  }
  return {8e-6, 4 * 2.4e-7 * 64 * 2};
}

inline void gradients_match(const std::vector<Engine*>& engines, const Size& size, Workspace workspace,
                            Precision operands = Precision::float32, const NegativesOptions& negatives = {}) {
  const Limits limits = limits_of(operands, negatives);
  const Problem problem = make_problem(size, 17);
  const Result expected = reference(size, problem, negatives);
  const auto shards = borrow(engines, size, problem);
  Batch batch = make_batch(size, problem, workspace);
  batch.operands = operands;
  batch.transforms = negatives.transform || negatives.binary;
  LossOptions options;
  options.diagnostics = true;
  Evaluation evaluation(pointers(shards), batch, options);
  std::vector<float> loss(size.rows), lse(size.rows), cosine(size.rows);
  std::vector<double> bias(size.rows);
  RowResults rows{loss.data(), lse.data(), cosine.data()};
  rows.bias_gradient = bias.data();
  std::vector<float> dx(size.rows * size.dim), dw(size.classes * size.shape().size());
  ForwardResult result;
  Gradients gradients;
  gradients.features.gradient = dx.data();
  gradients.weights.kind = WeightSink::Kind::write;
  gradients.weights.gradient = dw.data();
  const auto forward = [&](Evaluation& on, const GradientPlan& plan) {
    return on.negatives(plan, negatives).ok() && on.epilogue(arcface(), rows, &result).ok();
  };
  // Gathered on the way, then once more from scratch by a second evaluation's backward.
  check(forward(evaluation, gradients.plan()), "forward");
  check(evaluation.backward(gradients).ok(), "backward");
  check(std::fabs(result.loss - expected.loss) <= limits.loss * std::max(1.0, std::fabs(expected.loss)), "loss");
  check(close(dx, expected.feature_gradient, problem.features, size.dim, limits.gradient), "dX");
  check(close(dw, expected.weight_gradient, problem.weights, size.dim, limits.gradient), "dW");
  check(biases_are_right(bias, expected.bias_gradient, limits.gradient), "dBias");
  const std::vector<float> dx_before = dx, dw_before = dw;
  check(evaluation.backward(gradients).ok() && dx == dx_before && dw == dw_before, "backward again");
  Evaluation apart(pointers(shards), batch, options);
  check(forward(apart, {}), "forward alone");
  std::vector<float> dx_apart(dx.size());
  gradients.features.gradient = dx_apart.data();
  check(apart.backward(gradients).ok(), "backward alone");
  check(close(dx_apart, expected.feature_gradient, problem.features, size.dim, limits.gradient),
        "dX of backward alone");
}

// One step of a head: an update at once, or a gradient that is accumulated and then applied.
inline Status take_step(Head& head, const Size& size, const Problem& problem, WeightSink::Kind kind,
                        double learning_rate, double* step_loss = nullptr, Precision operands = Precision::float32) {
  Batch batch = make_batch(size, problem, Workspace::recompute);
  batch.operands = operands;
  batch.sampling = head.sampling();
  Evaluation evaluation(head.shards(), batch, {});
  std::vector<float> loss(size.rows), lse(size.rows), cosine(size.rows), dx(size.rows * size.dim);
  ForwardResult result;
  Gradients gradients;
  gradients.features.gradient = dx.data();
  gradients.weights.kind = kind;
  gradients.weights.learning_rate = learning_rate;
  gradients.weights.step = head.step_count() + 1;
  MARGINFC_TRY(evaluation.forward(arcface(), gradients.plan(), {loss.data(), lse.data(), cosine.data()}, &result));
  MARGINFC_TRY(evaluation.backward(gradients));
  if (step_loss) *step_loss = result.loss;
  if (kind == WeightSink::Kind::accumulate) return head.apply(learning_rate);
  head.count_step();
  return {};
}

// Steps on some of the classes, in more than one block of the draw; the others stay or decay.
inline void sampled_heads_work(const std::vector<Engine*>& engines, bool updates_all) {
  const Size size{33, 13, 4200, 3, 64};
  const Problem problem = make_problem(size, 5);
  Optimizer optimizer;
  optimizer.momentum = 0.9;
  optimizer.weight_decay = 5e-4;
  std::unique_ptr<Head> head;
  check(Head::create(engines, size.classes, {0, size.classes}, size.dim, size.shards, optimizer, &head).ok(), "create");
  check(head->initialize(0.01, 3, {0, size.classes}).ok(), "initialize");
  Sampling sampling;
  sampling.rate = 0.1;
  sampling.updates_all = updates_all;
  head->sample(sampling);
  for (const auto sink : {WeightSink::Kind::update, WeightSink::Kind::accumulate}) {
    Batch batch = make_batch(size, problem, Workspace::recompute);
    batch.sampling = head->sampling();
    const auto inline_run = [](int64_t count, const std::function<void(int64_t)>& body) {
      for (int64_t b = 0; b < count; b++) body(b);
    };
    const std::vector<int32_t> sampled = sample_classes(batch, {0, size.classes}, inline_run);
    std::vector<float> before(size.classes * size.dim), after(before.size());
    check(head->read(0, size.classes, before.data()).ok(), "read");
    check(take_step(*head, size, problem, sink, 0.01).ok(), "step");
    check(head->read(0, size.classes, after.data()).ok(), "read");
    int64_t moved = 0;
    for (int64_t j = 0; j < size.classes; j++)
      moved += !std::equal(&before[j * size.dim], &before[j * size.dim] + size.dim, &after[j * size.dim]);
    check(moved == (updates_all ? size.classes : static_cast<int64_t>(sampled.size())), "classes that move");
  }
}

// Steps of both optimisers on owned weights, with accumulation and the nearest classes.
inline void heads_work(const std::vector<Engine*>& engines, Optimizer::Kind kind,
                       Precision storage = Precision::float32) {
  const Size size{33, 37, 131, 3, 64};
  const Problem problem = make_problem(size, 5);
  Optimizer optimizer;
  optimizer.kind = kind;
  optimizer.momentum = 0.9;
  optimizer.weight_decay = 5e-4;
  optimizer.storage = storage;
  std::unique_ptr<Head> head;
  check(Head::create(engines, size.classes, {0, size.classes}, size.dim, size.shards, optimizer, &head).ok(), "create");
  check(head->initialize(0.01, 3, {0, size.classes}).ok(), "initialize");
  double first = 0, last = 0;
  for (int step = 0; step < 8; step++) {
    const auto sink = step % 2 ? WeightSink::Kind::update : WeightSink::Kind::accumulate;
    check(take_step(*head, size, problem, sink, 0.01, step ? &last : &first).ok(), "step");
  }
  check(last < first, "training lowers the loss");
  std::vector<int32_t> classes(size.rows * 5);
  std::vector<float> cosines(size.rows * 5);
  check(head->nearest(make_batch(size, problem, Workspace::recompute), 5, classes.data(), cosines.data()).ok(),
        "nearest");
  for (int64_t i = 0; i < size.rows; i++)
    check(cosines[i * 5] >= cosines[i * 5 + 4] && classes[i * 5] >= 0 && classes[i * 5] < size.classes, "order");
}

inline void failures_are_values(const std::vector<Engine*>& engines) {
  const Size size{33, 64, 1009, 2, 64};
  Problem problem = make_problem(size, 9);
  std::vector<float> loss(size.rows), lse(size.rows), cosine(size.rows);
  const RowResults rows{loss.data(), lse.data(), cosine.data()};
  ForwardResult result;
  std::atomic<int32_t> cancel{1};
  constexpr GradientPlan kEverything{true, WeightSink::Kind::write};
  {
    const auto shards = borrow(engines, size, problem);
    Batch batch = make_batch(size, problem, Workspace::recompute);
    batch.cancel = &cancel;
    Evaluation evaluation(pointers(shards), batch, {});
    check(evaluation.forward(arcface(), kEverything, rows, &result).code == Code::aborted, "cancelled");
  }
  problem.weights[700 * size.dim + 3] = NAN;
  {
    const auto shards = borrow(engines, size, problem);
    Evaluation evaluation(pointers(shards), make_batch(size, problem, Workspace::recompute), {});
    const Status status = evaluation.forward(arcface(), kEverything, rows, &result);
    check(status.code == Code::not_finite && status.message.find("row 700") != std::string::npos, "NaN in weights");
  }
  problem.features[5 * size.dim] = INFINITY;
  {
    const auto shards = borrow(engines, size, problem);
    Evaluation evaluation(pointers(shards), make_batch(size, problem, Workspace::recompute), {});
    const Status status = evaluation.forward(arcface(), kEverything, rows, &result);
    check(status.code == Code::not_finite && status.message.find("row 5") != std::string::npos, "Inf in features");
  }
  std::unique_ptr<Head> head;
  check(Head::create(engines, INT32_MAX, {0, INT32_MAX}, INT32_MAX, 1, {}, &head).code == Code::out_of_memory,
        "out of memory");
}

}  // namespace marginfc
