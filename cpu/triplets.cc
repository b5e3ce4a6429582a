// The triplet loss of a batch, by the products' tile loop with the batch's rows as classes: a block of anchors at a time has its
// cosines to all rows in memory, so that takes O(B) a thread and never B x B.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "cpu/pass.h"

namespace marginfc {
namespace {

struct Triplet {
  int32_t anchor = -1;  // -1: none
  int32_t positive = -1, negative = -1;
  double positive_cosine = 0, negative_cosine = 0;

  double hinge(double margin) const { return 2 * (negative_cosine - positive_cosine) + margin; }
};

// What a row's gradient has of another row.
struct Term {
  int32_t other;
  double slope;  // dLoss/dcos of the two
  double cosine;
};

struct Candidate {
  float cosine = 0;
  int32_t row = -1;  // -1: none

  void raise(float to, int32_t of) {
    if (row < 0 || to > cosine) *this = {to, of};
  }
  void lower(float to, int32_t of) {
    if (row < 0 || to < cosine) *this = {to, of};
  }
};

// One thread's memory.
struct Mining {
  PooledBuffer cosines;              // [rows, row block]
  std::vector<Candidate> positives;  // [most of a class]
  std::vector<Candidate> nearest;    // [most of a class]
};

// Which rows have which class.
struct Groups {
  std::vector<int32_t> size;  // [rows], of the row's class; 0 for ignored rows
  int64_t counted = 0;
  int32_t largest = 0;

  Groups(const int32_t* labels, int64_t rows) : size(rows) {
    std::vector<std::pair<int32_t, int32_t>> order;
    for (int64_t i = 0; i < rows; i++)
      if (labels[i] >= 0) order.emplace_back(labels[i], static_cast<int32_t>(i));
    std::sort(order.begin(), order.end());
    counted = static_cast<int64_t>(order.size());
    for (size_t first = 0, last = 0; first < order.size(); first = last) {
      while (last < order.size() && order[last].first == order[first].first) last++;
      const auto count = static_cast<int32_t>(last - first);
      for (size_t o = first; o < last; o++) size[order[o].second] = count;
      largest = std::max(largest, count);
    }
  }
  // Triplets that a row is the anchor of.
  int64_t triplets(int64_t row, bool semihard) const {
    if (size[row] < 2 || size[row] == counted) return 0;
    return semihard ? size[row] - 1 : 1;
  }
};

// Chooses an anchor's triplets; `column` has its cosine to row j at j * stride.
void choose(const float* column, int64_t stride, const int32_t* labels, int64_t rows, int32_t anchor, bool semihard,
            Mining& mining, Triplet* triplets) {
  Candidate nearest, furthest, furthest_positive;
  size_t positives = 0;
  for (int32_t j = 0; j < rows; j++) {
    if (labels[j] < 0 || j == anchor) continue;
    const float cosine = column[j * stride];
    if (!std::isfinite(cosine)) continue;
    if (labels[j] != labels[anchor]) {
      nearest.raise(cosine, j);
      furthest.lower(cosine, j);
    } else if (semihard) {
      mining.positives[positives++] = {cosine, j};
    } else {
      furthest_positive.lower(cosine, j);
    }
  }
  if (nearest.row < 0) return;
  if (!semihard) {
    if (furthest_positive.row >= 0) *triplets = {anchor, furthest_positive.row, nearest.row};
    return;
  }
  const auto begin = mining.positives.begin(), end = begin + static_cast<int64_t>(positives);
  std::sort(begin, end, [](const Candidate& a, const Candidate& b) {
    return a.cosine < b.cosine || (a.cosine == b.cosine && a.row < b.row);
  });
  std::fill_n(mining.nearest.begin(), positives, Candidate{});
  // A negative is further away than the positives of a larger cosine: it is noted at the first of them.
  for (int32_t j = 0; j < rows; j++) {
    if (labels[j] < 0 || labels[j] == labels[anchor]) continue;
    const float cosine = column[j * stride];
    if (!std::isfinite(cosine)) continue;
    const auto above = std::upper_bound(begin, end, cosine,
                                        [](float value, const Candidate& positive) { return value < positive.cosine; });
    if (above != end) mining.nearest[above - begin].raise(cosine, j);
  }
  Candidate best;
  for (size_t p = 0; p < positives; p++) {
    // What was noted later is nearer.
    if (mining.nearest[p].row >= 0) best = mining.nearest[p];
    triplets[p] = {anchor, mining.positives[p].row, best.row >= 0 ? best.row : furthest.row};
  }
}

}  // namespace

Status CpuPass::triplets(const TripletRule& rule, const int32_t* labels, const std::vector<double>& weight, bool mean,
                         Triplets* result) try {
  const Groups groups(labels, rows_);
  std::vector<int64_t> first(rows_ + 1);  // of each anchor's triplets
  double divisor = 0;
  for (int64_t a = 0; a < rows_; a++) {
    const int64_t count = groups.triplets(a, rule.semihard);
    divisor += weight[a] * static_cast<double>(count);
    first[a + 1] = first[a] + (a >= rule.anchor_start && a < rule.anchor_end ? count : 0);
  }
  std::vector<Triplet> triplets(first[rows_]);
  const int64_t stride = std::min(kRowBlock, panels_ * kernels_.panel);
  std::vector<Mining> minings(scratch_.size());
  for (Mining& mining : minings) {
    if (!mining.cosines.allocate(engine_.buffers(), classes_ * stride)) return Status::no_workspace();
    mining.positives.resize(rule.semihard ? groups.largest : 0);
    mining.nearest.resize(mining.positives.size());
  }
  const auto cosine = [&](int32_t a, int32_t b) {
    return kernels_.exact_dot(batch_.features + int64_t{a} * dim_, batch_.features + int64_t{b} * dim_, dim_) *
           norms_[a].inverse * norms_[b].inverse;
  };
  Sweep products_alone;
  products_alone.recompute = true;
  engine_.pool().run((rows_ + kRowBlock - 1) / kRowBlock, [&](int64_t task, int thread) {
    const int64_t row = task * kRowBlock, rows = std::min(kRowBlock, rows_ - row);
    if (cancelled() || first[row] == first[row + rows]) return;
    Scratch& scratch = scratch_[thread];
    Mining& mining = minings[thread];
    for (int64_t b = 0; b < blocks_; b++) {
      load_block(b, products_alone, false, scratch.block);
      kernels_.products(
          product_task(scratch.block, row, rows, mining.cosines.data() + scratch.block.first() * stride, stride));
    }
    for (int64_t a = row; a < row + rows; a++) {
      if (first[a] == first[a + 1]) continue;
      choose(mining.cosines.data() + (a - row), stride, labels, rows_, static_cast<int32_t>(a), rule.semihard, mining,
             triplets.data() + first[a]);
      for (int64_t t = first[a]; t < first[a + 1]; t++) {
        Triplet& triplet = triplets[t];
        if (triplet.anchor < 0) continue;
        triplet.positive_cosine = cosine(triplet.anchor, triplet.positive);
        triplet.negative_cosine = cosine(triplet.anchor, triplet.negative);
      }
    }
  });
  if (cancelled()) return Status::aborted();

  const double scale = !mean ? 1.0 : divisor > 0 ? 1 / divisor : 0.0;
  result->value = 0;
  std::vector<int64_t> next(rows_ + 1);  // of each row's terms: how many, then where the next one goes
  const auto counts = [&](const Triplet& triplet) { return triplet.anchor >= 0 && triplet.hinge(rule.margin) > 0; };
  for (const Triplet& triplet : triplets) {
    if (!counts(triplet)) continue;
    result->value += scale * weight[triplet.anchor] * triplet.hinge(rule.margin);
    next[triplet.anchor + 1] += 2;
    next[triplet.positive + 1]++;
    next[triplet.negative + 1]++;
  }
  for (int64_t i = 0; i < rows_; i++) next[i + 1] += next[i];
  const std::vector<int64_t> start = next;
  std::vector<Term> terms(start[rows_]);
  for (const Triplet& triplet : triplets) {
    if (!counts(triplet)) continue;
    const auto [a, p, n, positive, negative] = triplet;
    const double slope = 2 * scale * weight[a];
    terms[next[a]++] = {p, -slope, positive};
    terms[next[a]++] = {n, slope, negative};
    terms[next[p]++] = {a, -slope, positive};
    terms[next[n]++] = {a, slope, negative};
  }
  result->gradient.assign(rows_ * dim_, 0.0f);
  for (Scratch& scratch : scratch_) scratch.row.resize(dim_);
  // dx_i = sum of slope * (xh_j - cos xh_i) / |x_i|
  for_rows([&](int64_t i, int thread) {
    std::vector<double>& total = scratch_[thread].row;
    std::fill(total.begin(), total.end(), 0.0);
    const float* x = batch_.features + i * dim_;
    const RowNorm& norm = norms_[i];
    for (int64_t t = start[i]; t < start[i + 1]; t++) {
      const Term& term = terms[t];
      const double along = norm.has_direction ? -term.slope * term.cosine * norm.inverse : 0.0;
      kernels_.exact_add(batch_.features + int64_t{term.other} * dim_, term.slope * norms_[term.other].inverse, x,
                         along, dim_, total.data());
    }
    for (int32_t d = 0; d < dim_; d++) result->gradient[i * dim_ + d] = static_cast<float>(total[d] * norm.inverse);
  });
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc
