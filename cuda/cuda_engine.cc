#include "cuda/cuda_engine.h"

#include <cstdint>
#include <new>

#include "cuda/shard.h"

namespace marginfc::cuda {
namespace {

EngineRow device_row(int32_t index) {
  EngineRow row;
  row.name = "cuda:" + std::to_string(index);
  // All of it, kernels too: a device that is listed can compute.
  std::unique_ptr<Device> device;
  const Status status = Device::open(index, &device);
  row.available = status.ok();
  if (status.ok())
    row.detail = device->description();
  else
    row.reason = status.message;
  return row;
}

Status check_shape(const ClassShape& shape) {
  return shape.sub_centers > kMostSubCenters
             ? Status::failure(Code::unavailable,
                               "GPUs have no more than " + std::to_string(kMostSubCenters) + " sub-centres a class")
             : Status{};
}

}  // namespace

Status CudaEngine::create(int32_t index, std::shared_ptr<CudaEngine>* engine) try {
  std::unique_ptr<Device> device;
  MARGINFC_TRY(Device::open(index, &device));
  engine->reset(new CudaEngine(std::move(device)));
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status CudaEngine::borrow(ClassRange range, ClassShape shape, const ClassRows& weights,
                          std::unique_ptr<ClassShard>* shard) try {
  MARGINFC_TRY(check_shape(shape));
  *shard = std::make_unique<CudaShard>(*this, range, shape, weights);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_weights();
}

Status CudaEngine::own(ClassRange range, ClassShape shape, const Optimizer& optimizer,
                       std::unique_ptr<ClassShard>* shard) try {
  MARGINFC_TRY(check_shape(shape));
  if (optimizer.storage != Precision::float32)
    return Status::failure(Code::type, "weights of a head on a GPU must be stored as float32");
  auto owned = std::make_unique<CudaShard>(*this, range, shape, ClassRows{});
  MARGINFC_TRY(owned->allocate(optimizer));
  *shard = std::move(owned);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_weights();
}

bool CudaEngine::multiplies(Precision operands) const {
  return device_->kernels().of(operand_kind(operands)).available();
}

size_t CudaEngine::trim() {
  const Device::Turn turn(*device_);
  return turn.status().ok() ? device_->trim() : 0;
}

std::vector<EngineRow> cuda_devices() {
  const Driver& driver = cuda::driver();
  std::vector<EngineRow> rows;
  if (!driver.available()) {
    EngineRow row;
    row.name = "cuda:0";
    row.reason = driver.reason;
    rows.push_back(row);
  }
  for (int32_t index = 0; driver.available() && index < driver.devices; index++) rows.push_back(device_row(index));
  return rows;
}

}  // namespace marginfc::cuda
