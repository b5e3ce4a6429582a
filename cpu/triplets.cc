// The triplet loss of a batch, by the products' tile loop with the batch's rows as classes: a block of anchors at a time has its
// cosines to all rows in memory, so that takes O(B) a thread and never B x B.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/pass.h"

namespace marginfc {
namespace {

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
    if (furthest_positive.row >= 0) *triplets = {furthest_positive.row, nearest.row};
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
    triplets[p] = {mining.positives[p].row, best.row >= 0 ? best.row : furthest.row};
  }
}

}  // namespace

Status CpuPass::triplets(const TripletRule& rule, const int32_t* labels, const std::vector<double>& weight, bool mean,
                         Triplets* result) try {
  const TripletPlan plan(labels, rows_, rule, weight, mean);
  const int32_t largest = rows_ == 0 ? 0 : *std::max_element(plan.class_size.begin(), plan.class_size.end());
  std::vector<Triplet> triplets(plan.count());
  const int64_t stride = std::min(kRowBlock, panels_ * kernels_.panel);
  std::vector<Mining> minings(scratch_.size());
  for (Mining& mining : minings) {
    if (!mining.cosines.allocate(engine_.buffers(), classes_ * stride)) return Status::no_workspace();
    mining.positives.resize(rule.semihard ? largest : 0);
    mining.nearest.resize(mining.positives.size());
  }
  const auto cosine = [&](int64_t a, int64_t b) {
    return kernels_.exact_dot(batch_.features + a * dim_, batch_.features + b * dim_, dim_) * norms_[a].inverse *
           norms_[b].inverse;
  };
  Sweep products_alone;
  products_alone.recompute = true;
  engine_.pool().run((rows_ + kRowBlock - 1) / kRowBlock, [&](int64_t task, int thread) {
    const int64_t row = task * kRowBlock, rows = std::min(kRowBlock, rows_ - row);
    if (cancelled() || plan.first[row] == plan.first[row + rows]) return;
    Scratch& scratch = scratch_[thread];
    Mining& mining = minings[thread];
    for (int64_t b = 0; b < blocks_; b++) {
      begin_block(b, products_alone, scratch.block);
      NegativesTask task = product_task(scratch.block, row, rows,
                                        mining.cosines.data() + scratch.block.first() * stride, stride);
      multiply(kernels_.products, task, scratch.block);
    }
    for (int64_t a = row; a < row + rows; a++) {
      if (!plan.has(a)) continue;
      choose(mining.cosines.data() + (a - row), stride, labels, rows_, static_cast<int32_t>(a), rule.semihard, mining,
             triplets.data() + plan.first[a]);
      for (int64_t t = plan.first[a]; t < plan.first[a + 1]; t++) {
        Triplet& triplet = triplets[t];
        if (triplet.positive < 0) continue;
        triplet.positive_cosine = cosine(a, triplet.positive);
        triplet.negative_cosine = cosine(a, triplet.negative);
      }
    }
  });
  if (cancelled()) return Status::aborted();

  const TripletTerms terms(plan, triplets);
  result->value = terms.value;
  result->gradient.assign(rows_ * dim_, 0.0f);
  for (Scratch& scratch : scratch_) scratch.row.resize(dim_);
  for_rows([&](int64_t i, int thread) {
    std::vector<double>& total = scratch_[thread].row;
    std::fill(total.begin(), total.end(), 0.0);
    const auto add = [&](int64_t row, double factor) {
      const float* x = batch_.features + row * dim_;
      kernels_.exact_add(x, factor * norms_[row].inverse, x, 0.0, dim_, total.data());
    };
    const int64_t begin = terms.start[i], end = terms.start[i + 1];
    for (int64_t t = begin; t < end; t++) add(terms.other[t], terms.slope[t]);
    const RowNorm& norm = norms_[i];
    if (begin < end && norm.has_direction) add(i, terms.along[i]);
    for (int32_t d = 0; d < dim_; d++) result->gradient[i * dim_ + d] = static_cast<float>(total[d] * norm.inverse);
  });
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc
