#include "engine/head.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>

namespace marginfc {

Status Head::create(const std::vector<Engine*>& engines, int64_t classes, ClassRange range, ClassShape shape,
                    int64_t shards, const Optimizer& optimizer, std::unique_ptr<Head>* head) try {
  std::unique_ptr<Head> created(new Head(classes, range, shape, optimizer));
  created->shards_.resize(shards);
  for (int64_t r = 0; r < shards; r++) {
    Engine& engine = *engines[r % engines.size()];
    const ClassRange part = shard_range(range.size(), shards, r);
    const ClassRange own{range.start + part.start, range.start + part.end};
    MARGINFC_TRY(engine.own(own, shape, optimizer, &created->shards_[r]));
    created->workers_.push_back(created->shards_[r]->worker());
  }
  *head = std::move(created);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_weights();
}

std::vector<ClassShard*> Head::shards() const {
  std::vector<ClassShard*> shards;
  for (const auto& shard : shards_) shards.push_back(shard.get());
  return shards;
}

Status Head::initialize(double std, uint64_t seed, ClassRange classes) {
  return run_each(workers_, [&](size_t r) {
    const ClassRange own = shards_[r]->range();
    const ClassRange part{std::max(classes.start, own.start), std::min(classes.end, own.end)};
    return part.size() > 0 ? shards_[r]->initialize(std, seed, part) : Status{};
  });
}

Status Head::write(int64_t first, int64_t count, const float* values, ClassArray array) {
  for (const auto& shard : shards_) {
    const int64_t start = std::max(first, shard->range().start), end = std::min(first + count, shard->range().end);
    if (start < end) MARGINFC_TRY(shard->write(array, start, end - start, values + (start - first) * shape_.size()));
  }
  return {};
}

Status Head::read(int64_t first, int64_t count, float* values, ClassArray array) const {
  for (const auto& shard : shards_) {
    const int64_t start = std::max(first, shard->range().start), end = std::min(first + count, shard->range().end);
    if (start < end) MARGINFC_TRY(shard->read(array, start, end - start, values + (start - first) * shape_.size()));
  }
  return {};
}

Status Head::nearest(const Batch& batch, int64_t k, int32_t* classes, float* cosines) try {
  // Each shard gives its own best; the merge keeps k of them. Shards come in class order, so a stable choice of the
  // larger cosine sends ties to the smaller id.
  struct List {
    int64_t k;
    std::vector<int32_t> classes;
    std::vector<float> cosines;
  };
  std::vector<List> lists;
  for (const auto& shard : shards_) {
    const int64_t own = std::min(k, shard->range().size());
    lists.push_back({own, std::vector<int32_t>(batch.rows * own), std::vector<float>(batch.rows * own)});
  }
  MARGINFC_TRY(run_each(workers_, [&](size_t r) {
    List& list = lists[r];
    return list.k == 0 ? Status{} : shards_[r]->nearest(batch, list.k, list.classes.data(), list.cosines.data());
  }));
  std::vector<int64_t> next(lists.size());
  for (int64_t i = 0; i < batch.rows; i++) {
    std::fill(next.begin(), next.end(), 0);
    for (int64_t n = 0; n < k; n++) {
      size_t best = lists.size();
      for (size_t r = 0; r < lists.size(); r++) {
        if (next[r] == lists[r].k) continue;
        if (best == lists.size() ||
            lists[r].cosines[i * lists[r].k + next[r]] > lists[best].cosines[i * lists[best].k + next[best]])
          best = r;
      }
      const int64_t at = i * lists[best].k + next[best]++;
      classes[i * k + n] = lists[best].classes[at];
      cosines[i * k + n] = lists[best].cosines[at];
    }
  }
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status Head::measure(double* square) try {
  std::vector<double> squares(shards_.size());
  MARGINFC_TRY(run_each(workers_, [&](size_t r) {
    WeightSink sink;
    sink.kind = WeightSink::Kind::measure;
    sink.square = &squares[r];
    return shards_[r]->apply(sink, sampling());
  }));
  *square += std::accumulate(squares.begin(), squares.end(), 0.0);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status Head::apply(double learning_rate, Clip clip) try {
  WeightSink sink;
  sink.clip = clip;
  sink.kind = WeightSink::Kind::update;
  sink.learning_rate = learning_rate;
  sink.step = step_count_ + 1;
  MARGINFC_TRY(run_each(workers_, [&](size_t r) { return shards_[r]->apply(sink, sampling()); }));
  accumulated_ = false;
  step_count_++;
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc
