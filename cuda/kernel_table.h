// The kernels of the embedded image by name. All are looked up when the device is opened, so that an image that lacks
// one is a reason for a missing engine and not a failed call.
#pragma once

#include <cstdint>

#include "cuda/parameters.h"

namespace marginfc::cuda {

struct FunctionHandle;

// A kernel and the shape of its blocks.
struct Kernel {
  FunctionHandle* function = nullptr;
  uint32_t threads = 0;
  uint32_t shared_bytes = 0;  // dynamic
};

// Of one operand kind; no functions where the device has none (bfloat16 before compute capability 8.0).
struct TileKernels {
  Kernel negatives, negatives_hardest, negatives_shifted, probabilities, cosines, features_product, weights_product;
  int32_t blocks_per_multiprocessor = 1;

  bool available() const { return negatives.function != nullptr; }
};

struct KernelTable {
  Kernel prepare_features, weight_features, prepare_weights, targets, reduce_negatives, add_products, finish_features,
      finish_weights, initialize_weights, select_nearest;
  TileKernels tiles[3];  // by OperandKind

  const TileKernels& of(OperandKind kind) const { return tiles[static_cast<int>(kind)]; }
};

}  // namespace marginfc::cuda
