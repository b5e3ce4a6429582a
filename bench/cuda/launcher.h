// One launch of a kernel at a size of real use, with parameters as the engine sets them; what launches of all kernels share.
#pragma once

#include <cstdint>
#include <string>

#include "bench/cuda/device_memory.h"
#include "cuda/driver.h"
#include "cuda/kernel_table.h"
#include "cuda/parameters.h"
#include "cuda/plan.h"

namespace marginfc::cuda {

// Of an A100: what the engine cuts launches to.
constexpr int64_t kMultiprocessors = 108;
// Tiles of classes a block of negatives or probabilities takes, of the 14 to 28 it takes at 100 000 classes.
constexpr int32_t kTilesPerBlock = 8;
// Rows of a class that has several.
constexpr int32_t kCenters = 3;

struct Request {
  std::string kernel, variant;
  int32_t rows, dim, classes;
};

class Launcher {
 public:
  Launcher(const KernelTable& kernels, const Request& request)
      : kernels_(kernels),
        request_(request),
        B_(request.rows),
        D_(request.dim),
        C_(request.classes),
        rows_(static_cast<int32_t>(padded_rows(B_))),
        classes_(static_cast<int32_t>(padded_rows(C_))),
        depth_(static_cast<int32_t>(padded_depth(D_))),
        width_(static_cast<int32_t>(padded_width(D_))) {}

 protected:
  // A kernel by its name, and what launches it; false where there is none.
  template <class Launches>
  struct Named {
    const char* name;
    bool (Launches::*run)();
  };
  template <class Launches, size_t kCount>
  bool run_named(Launches& launches, const Named<Launches> (&kernels)[kCount]) {
    for (const Named<Launches>& kernel : kernels)
      if (request_.kernel == kernel.name) return (launches.*kernel.run)();
    return false;
  }

  template <class Parameters>
  bool launch(const Kernel& kernel, int64_t x, int64_t y, int64_t z, const Parameters& p) {
    if (!kernel.function) return false;
    void* arguments[] = {const_cast<Parameters*>(&p)};
    must(driver()->launch(kernel.function, static_cast<uint32_t>(x), static_cast<uint32_t>(y), static_cast<uint32_t>(z),
                          kernel.threads, 1, 1, kernel.shared_bytes, nullptr, arguments, nullptr),
         "cuLaunchKernel");
    must(driver()->stream_synchronize(nullptr), request_.kernel.c_str());
    return true;
  }

  int32_t class_tiles() const { return classes_ / kTileSide; }
  int64_t splits() const { return divide_up(class_tiles(), kTilesPerBlock); }
  Operand features(OperandKind kind) { return memory_.operand(rows_, depth_, kind); }
  Operand weights(OperandKind kind) { return memory_.operand(classes_, depth_, kind); }
  SubCenterSlots slots(SlotOrder order) const { return {kCenters, order}; }
  // That the slots of the classes have room for.
  int32_t classes_of_slots() const { return classes_ / kGroupSlots * slots(SlotOrder::mma).classes_of_group(); }

  FinishWeightsParameters finish(SinkKind sink, OperandKind kind) {
    const int64_t elements = static_cast<int64_t>(C_) * D_;
    FinishWeightsParameters p{};
    p.unscale = 1;
    p.weights = memory_.floats(elements);
    p.sink = sink;
    if (sink == SinkKind::write) p.gradient = memory_.empty<float>(elements);
    if (sink == SinkKind::accumulate) p.gradient = memory_.floats(elements);
    if (sink == SinkKind::sgd || sink == SinkKind::adamw) {
      p.momentum = memory_.floats(elements);
      const Operand operand = weights(kind);
      p.operand = const_cast<uint16_t*>(operand.values);
      p.low = operand.low;
    }
    if (sink == SinkKind::adamw) p.variance = memory_.all(elements, 1.0f);
    p.operand_scale = 1;
    p.features = memory_.floats(static_cast<int64_t>(B_) * D_);
    p.norm = memory_.all(B_, 1.0);
    p.cosine = memory_.all(B_, 0.5);
    p.gamma = memory_.all(B_, 0.5);
    p.owner_class = p.owner_row = memory_.all<int32_t>(1, 0);
    p.sgd_step = {0.1f, 0.9f, 5e-4f, false};
    p.adamw_step = {0.1f, 0.9f, 0.999f, 1, 1e-8f, 1};
    p.classes = C_;
    p.padding = classes_ - C_;
    p.dim = D_;
    p.depth = depth_;
    p.width = width_;
    p.kind = kind;
    p.storage = StorageKind::float32;
    return p;
  }

  const KernelTable& kernels_;
  const Request& request_;
  const int32_t B_, D_, C_;
  const int32_t rows_, classes_, depth_, width_;  // padded
  DeviceMemory memory_;
};

// Each is false where it has no such kernel: those over tiles, over the rows of a batch, and over rows of classes.
bool launch_tiles(const KernelTable& kernels, const Request& request);
bool launch_batch_rows(const KernelTable& kernels, const Request& request);
bool launch_class_rows(const KernelTable& kernels, const Request& request);

}  // namespace marginfc::cuda
