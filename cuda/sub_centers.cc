#include "cuda/sub_centers.h"

#include "cuda/plan.h"

namespace marginfc::cuda {

SubCenterSlots slots_of(const Device& device, int32_t centers, OperandKind kind) {
  return {centers, device.kernels().of(kind).hopper.available() ? SlotOrder::wgmma : SlotOrder::mma};
}

Status SubCenterList::make(Device& device, const SubCenterSlots& slots, const int32_t* classes, int64_t count) {
  const size_t bytes = slots.count(count) * sizeof(int32_t);
  MARGINFC_TRY(index_.allocate(device, bytes));
  MARGINFC_TRY(device.fill(index_, UINT32_MAX, bytes));
  ListSubCentersParameters p{};
  p.classes = classes;
  p.index = index_.as<int32_t>();
  p.count = count;
  p.slots = slots;
  return device.launch(device.kernels().list_sub_centers, {divide_up(count, 256)}, p);
}

Status flag_rows(Device& device, const uint8_t* flags, const float* gradient, int64_t classes, int32_t centers,
                 int32_t dim, const DeviceBuffer& row_flags) {
  FlagSubCentersParameters p{};
  p.flags = flags;
  p.gradient = gradient;
  p.row_flags = row_flags.as<uint8_t>();
  p.classes = classes;
  p.centers = centers;
  p.dim = dim;
  return device.launch(device.kernels().flag_sub_centers, {row_blocks(classes, device.multiprocessors())}, p);
}

}  // namespace marginfc::cuda
