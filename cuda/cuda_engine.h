// The CUDA engine: engine.h on one NVIDIA GPU; driver.h says what is where.
#pragma once

#include <memory>
#include <vector>

#include "cuda/device.h"
#include "engine/engine.h"
#include "engine/worker.h"

namespace marginfc::cuda {

class CudaEngine final : public Engine {
 public:
  // GPU `index` as the driver counts. Code::unavailable with the reason when it cannot be used.
  static Status create(int32_t index, std::shared_ptr<CudaEngine>* engine);

  Status borrow(ClassRange range, ClassShape shape, const ClassRows& weights,
                std::unique_ptr<ClassShard>* shard) override;
  Status own(ClassRange range, ClassShape shape, const Optimizer& optimizer,
             std::unique_ptr<ClassShard>* shard) override;
  Status triplets(const Batch& batch, const TripletRule& rule, const std::vector<double>& weight, bool mean,
                  Triplets* triplets) override;

  const std::string& name() const { return device_->name(); }  // "cuda:0"
  // bfloat16 needs compute capability 8.0.
  bool multiplies(Precision operands) const;
  int32_t compute_capability() const { return device_->compute_capability(); }
  Device& device() { return *device_; }
  Worker& worker() { return worker_; }
  // Gives idle device memory back; returns how many bytes it was.
  size_t trim();

 private:
  explicit CudaEngine(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  std::unique_ptr<Device> device_;
  Worker worker_;
};

// A row for each GPU of this machine, "cuda:0" and so on; without any, one row "cuda:0" that says why.
std::vector<EngineRow> cuda_devices();

}  // namespace marginfc::cuda
