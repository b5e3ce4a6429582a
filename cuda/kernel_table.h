// The kernels of the embedded image by name. All are looked up when the device is opened, so that an image that lacks
// one is a reason for a missing engine and not a failed call.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/parameters.h"

namespace marginfc::cuda {

struct Driver;
struct FunctionHandle;
struct ModuleHandle;
struct StreamHandle;

// 10 * major + minor from which devices multiply bfloat16.
constexpr int32_t kBfloat16Capability = 80;
// The one that has wgmma.
constexpr int32_t kHopperCapability = 90;

// A kernel and the shape of its blocks.
struct Kernel {
  std::string name;
  FunctionHandle* function = nullptr;
  uint32_t threads = 0;
  uint32_t shared_bytes = 0;  // dynamic
};

// Blocks of a launch.
struct Grid {
  int64_t x = 1;
  int64_t y = 1;
  int64_t z = 1;
};

// Rows of D that the fused update is there for.
constexpr int32_t kUpdateWidths[] = {128, 256, 512};

// The products with the classes that take exponentials.
struct LogitKernels {
  Kernel negatives_hardest, negatives_above, negatives_binary, negatives_shifted;
  Kernel negatives_transformed, negatives_transformed_hard;
  Kernel probabilities, probabilities_transformed, probabilities_binary;
};

// The products of a pass.
struct ProductKernels : LogitKernels {
  LogitKernels sub_centers;  // of classes of several rows
  Kernel negatives, features_product, weights_product;
  int32_t blocks_per_multiprocessor = 1;

  bool available() const { return negatives.function != nullptr; }
};

// Of one operand kind; no functions where the device has none (bfloat16 before compute capability 8.0).
struct TileKernels : ProductKernels {
  // These take Mapped parameters; 16-bit operands on compute capability 9.0 only.
  ProductKernels hopper;
  Kernel features_product_wide, weights_product_wide;
  Kernel cosines;
  Kernel negatives_angles, probabilities_angles;  // float32 only
  Kernel updates[3];                              // by kUpdateWidths; none where shared memory is too small

  // The fused update for rows of this padded width, or null.
  const Kernel* update(int32_t width) const {
    for (int n = 0; n < 3; n++)
      if (width <= kUpdateWidths[n]) return updates[n].function ? &updates[n] : nullptr;
    return nullptr;
  }
};

struct KernelTable {
  Kernel prepare_features, weight_features, prepare_weights, targets, reduce_negatives, add_products, finish_features,
      finish_weights, finish_weights_aided, initialize_weights, select_nearest, draw_classes, list_classes,
      sum_unit_rows, add_unit_sums, cosine_sums, list_sub_centers, targets_sub_centers, flag_sub_centers,
      largest_sub_centers, gather_class_rows, add_class_rows, choose_triplets, triplet_gradients;
  TileKernels tiles[3];  // by OperandKind

  const TileKernels& of(OperandKind kind) const { return tiles[static_cast<int>(kind)]; }
};

// Fills the table from a loaded module; returns what is wrong with the module, or an empty string. With MARGINFC_HOPPER=0
// in the environment compute capability 9.0 gets the kernels of 8.0, for tests.
std::string find_kernels(const Driver& driver, ModuleHandle* module, StreamHandle* stream, int32_t capability,
                         KernelTable* table);

}  // namespace marginfc::cuda
