// Where the rows of classes of several rows lie in the products' 16-bit copy of the weights: their slots. Host and device.
//
// A thread of a tile kernel has, of each row of the batch, 16 of 64 neighbouring columns of the tile. It finds the largest
// row of a class by itself where it has all of them, so that these 16 are floor(16 / K) whole classes of K rows, and slots
// left over, which hold rows of zeros:
//
//   class p    in group p / (4 G) of 64 slots, with thread (p mod 4 G) / G of four;  G = floor(16 / K)
//   its row k  in position n = (p mod G) K + k of the thread's 16
#pragma once

#include <math.h>
#include <stdint.h>

#include "engine/margin.h"

namespace marginfc {

constexpr int32_t kGroupSlots = 64, kGroupThreads = 4, kThreadSlots = kGroupSlots / kGroupThreads;
constexpr int32_t kMostSubCenters = kThreadSlots;  // K

// Whose columns a thread has: TileSums' permuted ones, or HopperSums'.
enum class SlotOrder : int32_t { mma, wgmma };

struct SubCenterSlots {
  int32_t centers;  // K
  SlotOrder order;

  MARGINFC_HOST_DEVICE int32_t classes_of_thread() const { return kThreadSlots / centers; }
  MARGINFC_HOST_DEVICE int32_t classes_of_group() const { return kGroupThreads * classes_of_thread(); }
  MARGINFC_HOST_DEVICE int64_t slot(int64_t place, int32_t center) const {
    const int64_t group = place / classes_of_group();
    const auto in_group = static_cast<int32_t>(place - group * classes_of_group());
    const int32_t thread = in_group / classes_of_thread();
    const int32_t n = (in_group - thread * classes_of_thread()) * centers + center;
    return group * kGroupSlots +
           (order == SlotOrder::mma ? n / 8 * 32 + thread * 8 + n % 8 : n / 2 * 8 + thread * 2 + n % 2);
  }
  // Of so many classes, whole groups.
  int64_t count(int64_t classes) const { return (classes + classes_of_group() - 1) / classes_of_group() * kGroupSlots; }
};

// What a tile kernel is told of the slots' columns.
struct SubCenterColumns {
  int32_t centers;
  int32_t classes_of_thread;
  int32_t classes;  // of the shard, by place
  // By position: -infinity at each class's first row, and at its last one; else infinity.
  float first[kThreadSlots], last[kThreadSlots];
};

inline SubCenterColumns columns_of(const SubCenterSlots& slots, int32_t classes) {
  SubCenterColumns columns{slots.centers, slots.classes_of_thread(), classes, {}, {}};
  for (int32_t n = 0; n < kThreadSlots; n++) {
    const bool used = n < slots.classes_of_thread() * slots.centers;
    columns.first[n] = used && n % slots.centers == 0 ? -INFINITY : INFINITY;
    columns.last[n] = used && (n + 1) % slots.centers == 0 ? -INFINITY : INFINITY;
  }
  return columns;
}

}  // namespace marginfc
