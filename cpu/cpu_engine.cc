#include "cpu/cpu_engine.h"

#include <new>

#include "cpu/pass.h"
#include "cpu/shard.h"

namespace marginfc {

Status CpuEngine::borrow(ClassRange range, ClassShape shape, const ClassRows& weights,
                         std::unique_ptr<ClassShard>* shard) try {
  *shard = std::make_unique<CpuShard>(*this, range, shape, weights.values, weights.storage);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_weights();
}

Status CpuEngine::own(ClassRange range, ClassShape shape, const Optimizer& optimizer,
                      std::unique_ptr<ClassShard>* shard) try {
  if (optimizer.storage == Precision::float16)
    return Status::failure(Code::type, "weights of a head must be stored as float32 or bfloat16");
  auto owned = std::make_unique<CpuShard>(*this, range, shape, nullptr, optimizer.storage);
  MARGINFC_TRY(owned->allocate(optimizer));
  *shard = std::move(owned);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_weights();
}

Status CpuEngine::triplets(const Batch& batch, const TripletRule& rule, const std::vector<double>& weight, bool mean,
                           Triplets* triplets) try {
  CpuShard rows(*this, {0, batch.rows}, batch.dim, batch.features, Precision::float32);
  const std::vector<int32_t> none(batch.rows, -1);
  Batch anchors;
  anchors.features = batch.features;
  anchors.labels = none.data();
  anchors.rows = batch.rows;
  anchors.dim = batch.dim;
  anchors.scale = 1;
  anchors.check_finite = false;
  anchors.cancel = batch.cancel;
  CpuPass pass(rows, anchors);
  MARGINFC_TRY(pass.prepare());
  return pass.triplets(rule, batch.labels, weight, mean, triplets);
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc
