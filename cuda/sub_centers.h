// What the GPU engine keeps of classes of several rows besides their rows: which of them lies where in the products' operand.
#pragma once

#include "cuda/device.h"
#include "cuda/sub_center_slots.h"

namespace marginfc::cuda {

// The slots of an operand of this kind, by the kernels that this device has for it.
SubCenterSlots slots_of(const Device& device, int32_t centers, OperandKind kind);

// Rows by slot, on the device.
class SubCenterList {
 public:
  // Launches the list of `count` classes: those of `classes` on the device, or where that is null the first ones.
  Status make(Device& device, const SubCenterSlots& slots, const int32_t* classes, int64_t count);
  explicit operator bool() const { return static_cast<bool>(index_); }
  const int32_t* index() const { return index_.as<int32_t>(); }

 private:
  DeviceBuffer index_;  // [slots]
};

// Launches flags of rows [classes, centers] from flags of classes; `gradient` is nullable.
Status flag_rows(Device& device, const uint8_t* flags, const float* gradient, int64_t classes, int32_t centers,
                 int32_t dim, const DeviceBuffer& row_flags);

}  // namespace marginfc::cuda
