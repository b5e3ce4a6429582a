#include "cpu/cpu_engine.h"

#include <new>

#include "cpu/pass.h"
#include "cpu/shard.h"

namespace marginfc {

Status CpuEngine::borrow(ClassRange range, int32_t dim, const ClassRows& weights,
                         std::unique_ptr<ClassShard>* shard) try {
  *shard = std::make_unique<CpuShard>(*this, range, dim, weights.values, weights.storage);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_weights();
}

Status CpuEngine::own(ClassRange range, int32_t dim, const Optimizer& optimizer,
                      std::unique_ptr<ClassShard>* shard) try {
  auto owned = std::make_unique<CpuShard>(*this, range, dim, nullptr, Precision::float32);
  MARGINFC_TRY(owned->allocate(optimizer));
  *shard = std::move(owned);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_weights();
}

}  // namespace marginfc
