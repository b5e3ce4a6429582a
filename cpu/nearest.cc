// The nearest classes of each row, by the products' tile loop and a short list per row.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/pass.h"

namespace marginfc {
namespace {

struct Candidate {
  float cosine;
  int32_t index;
};

bool better(const Candidate& a, const Candidate& b) {
  return a.cosine > b.cosine || (a.cosine == b.cosine && a.index < b.index);
}

// Keeps the best `k` in order of badness, worst first (a heap).
void offer(std::vector<Candidate>& list, int64_t k, const Candidate& candidate) {
  if (static_cast<int64_t>(list.size()) < k) {
    list.push_back(candidate);
    std::push_heap(list.begin(), list.end(), better);
  } else if (better(candidate, list.front())) {
    std::pop_heap(list.begin(), list.end(), better);
    list.back() = candidate;
    std::push_heap(list.begin(), list.end(), better);
  }
}

}  // namespace

Status CpuPass::nearest(int64_t k, int32_t* classes, float* cosines) try {
  const int64_t lanes = panels_ * kernels_.panel;
  std::vector<std::vector<Candidate>> lists(chunks_ * rows_);
  for (auto& list : lists) list.reserve(k);
  bad_class_ = INT64_MAX;
  Sweep products_alone;
  products_alone.recompute = true;
  engine_.pool().run(chunks_, [&](int64_t chunk, int thread) {
    Scratch& scratch = scratch_[thread];
    for (int64_t b = blocks_ * chunk / chunks_; b < blocks_ * (chunk + 1) / chunks_ && !cancelled(); b++) {
      const int32_t count = begin_block(b, products_alone, scratch.block);
      const int64_t start = scratch.block.first();
      for (int64_t row = 0; row < rows_; row += kRowBlock) {
        const int64_t rows = std::min(kRowBlock, rows_ - row);
        const int64_t stride = std::min(kRowBlock, lanes);
        const float* products = scratch.exponentials.data();
        NegativesTask task = product_task(scratch.block, row, rows, scratch.exponentials.data(), stride);
        multiply(kernels_.products, task, scratch.block);
        for (int32_t c = 0; c < count; c += sub_centers_)
          for (int64_t i = 0; i < rows; i++) {
            float cosine = products[c * stride + i];
            for (int32_t n = c + 1; n < c + sub_centers_; n++) cosine = std::max(cosine, products[n * stride + i]);
            offer(lists[chunk * rows_ + row + i], k, {cosine, static_cast<int32_t>((start + c) / sub_centers_)});
          }
      }
    }
  });
  if (cancelled()) return Status::aborted();
  MARGINFC_TRY(check_weights());

  const double unscale = 1 / feature_scale();
  std::vector<Candidate> merged;
  for (int64_t i = 0; i < rows_; i++) {
    merged.clear();
    for (int64_t chunk = 0; chunk < chunks_; chunk++) {
      const auto& list = lists[chunk * rows_ + i];
      merged.insert(merged.end(), list.begin(), list.end());
    }
    std::sort(merged.begin(), merged.end(), better);
    for (int64_t n = 0; n < k; n++) {
      classes[i * k + n] = static_cast<int32_t>(merged[n].index + shard_.range().start);
      const double cosine = merged[n].cosine * unscale;
      cosines[i * k + n] = static_cast<float>(std::max(-1.0, std::min(1.0, cosine)));
    }
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc
