// The triplet loss of an engine against its definition in float64.
#pragma once

#include "test/native/checks.h"

namespace marginfc {

inline Batch triplet_batch(const Size& size, const Problem& problem) {
  Batch batch;
  batch.features = problem.features.data();
  batch.labels = problem.labels.data();
  batch.rows = size.rows;
  batch.dim = static_cast<int32_t>(size.dim);
  return batch;
}

// Rows of `size.classes` classes; whole numbers of them are their own anchors' weights.
inline bool triplets_are_right(Engine& engine, const Size& size, bool semihard, bool mean) {
  const Problem problem = make_problem(size, 21);
  const int64_t B = size.rows, D = size.dim;
  TripletRule rule;
  rule.margin = 0.5;
  rule.semihard = semihard;
  // Not all: those of other processes.
  rule.anchor_start = B / 9;
  rule.anchor_end = B - B / 7;
  std::vector<double> weight(B);
  for (int64_t i = 0; i < B; i++) weight[i] = problem.labels[i] < 0 ? 0 : static_cast<double>(1 + i % 3);
  Triplets got;
  if (!engine.triplets(triplet_batch(size, problem), rule, weight, mean, &got).ok()) return false;

  std::vector<double> unit(B * D), inverse(B), gradient(B * D);
  for (int64_t i = 0; i < B; i++) {
    double square = 0;
    for (int64_t d = 0; d < D; d++)
      square += static_cast<double>(problem.features[i * D + d]) * problem.features[i * D + d];
    inverse[i] = 1 / std::max(std::sqrt(square), kNormFloor);
    for (int64_t d = 0; d < D; d++) unit[i * D + d] = problem.features[i * D + d] * inverse[i];
  }
  const auto cosine = [&](int64_t a, int64_t b) {
    double sum = 0;
    for (int64_t d = 0; d < D; d++) sum += unit[a * D + d] * unit[b * D + d];
    return sum;
  };
  double value = 0, total = 0;
  const auto add = [&](int64_t a, int64_t p, int64_t n, double of_p, double of_n) {
    total += weight[a];
    const double hinge = 2 * (of_n - of_p) + rule.margin;
    if (a < rule.anchor_start || a >= rule.anchor_end || hinge <= 0) return;
    value += weight[a] * hinge;
    const auto slope = [&](int64_t i, int64_t j, double by, double cos) {
      for (int64_t d = 0; d < D; d++)
        gradient[i * D + d] += by * weight[a] * (unit[j * D + d] - cos * unit[i * D + d]) * inverse[i];
    };
    slope(a, p, -2, of_p);
    slope(p, a, -2, of_p);
    slope(a, n, 2, of_n);
    slope(n, a, 2, of_n);
  };
  for (int64_t a = 0; a < B; a++) {
    if (problem.labels[a] < 0) continue;
    std::vector<double> to(B);
    std::vector<int64_t> positives, negatives;
    for (int64_t j = 0; j < B; j++) {
      to[j] = cosine(a, j);
      if (problem.labels[j] >= 0 && j != a)
        (problem.labels[j] == problem.labels[a] ? positives : negatives).push_back(j);
    }
    if (positives.empty() || negatives.empty()) continue;
    const auto further = [&](int64_t i, int64_t j) { return to[i] < to[j]; };
    const int64_t furthest = *std::min_element(negatives.begin(), negatives.end(), further);
    if (!semihard) positives = {*std::min_element(positives.begin(), positives.end(), further)};
    for (const int64_t p : positives) {
      int64_t chosen = -1;
      for (const int64_t n : negatives)
        if ((!semihard || to[n] < to[p]) && (chosen < 0 || to[n] > to[chosen])) chosen = n;
      if (chosen < 0) chosen = furthest;
      add(a, p, chosen, to[p], to[chosen]);
    }
  }
  if (mean)
    for (double& part : gradient) part /= std::max(total, 1.0);
  if (mean) value /= std::max(total, 1.0);
  return std::fabs(got.value - value) <= 1e-12 * value && close(got.gradient, gradient, problem.features, D, 1e-6);
}

inline void triplets_work(const std::vector<Engine*>& engines) {
  for (Engine* engine : engines) {
    for (const Size& size : {Size{0, 8, 4, 1, 1}, Size{1, 3, 2, 1, 1}, Size{33, 37, 3, 1, 1}, Size{40, 64, 1, 1, 1},
                             Size{300, 130, 5, 1, 1}})
      for (const bool semihard : {false, true})
        check(triplets_are_right(*engine, size, semihard, semihard), "triplets");
    const Size size{33, 37, 3, 1, 1};
    const Problem problem = make_problem(size, 21);
    Batch batch = triplet_batch(size, problem);
    const std::vector<double> weight(size.rows, 1);
    const TripletRule rule{0.3, true, 0, size.rows};
    Triplets first, second;
    check(engine->triplets(batch, rule, weight, true, &first).ok() &&
              engine->triplets(batch, rule, weight, true, &second).ok() && first.gradient == second.gradient &&
              first.value == second.value,
          "triplets twice are the same bits");
    const std::atomic<int32_t> cancel{1};
    batch.cancel = &cancel;
    check(engine->triplets(batch, rule, weight, true, &first).code == Code::aborted, "triplets cancelled");
  }
}

}  // namespace marginfc
