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
  if (optimizer.storage == Precision::float16)
    return Status::failure(Code::type, "weights of a head must be stored as float32 or bfloat16");
  auto owned = std::make_unique<CpuShard>(*this, range, dim, nullptr, optimizer.storage);
  MARGINFC_TRY(owned->allocate(optimizer));
  *shard = std::move(owned);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_weights();
}

}  // namespace marginfc
