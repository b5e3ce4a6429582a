#include "cpu/cpu_engine.h"

#include <new>

#include "cpu/pass.h"
#include "cpu/shard.h"

namespace marginfc {

Status CpuEngine::borrow(ClassRange range, int32_t dim, const void* weights, Precision storage,
                         std::unique_ptr<ClassShard>* shard) try {
  *shard = std::make_unique<CpuShard>(*this, range, dim, weights, storage);
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

size_t CpuEngine::keep_bytes(int64_t rows, int64_t classes, Precision operands) const {
  const Kernels& kernels = this->kernels(operands);
  const size_t elements = static_cast<size_t>(exponential_stride(rows, kernels)) * classes;
  return elements * (kernels.pairs ? 2 : 4);
}

}  // namespace marginfc
