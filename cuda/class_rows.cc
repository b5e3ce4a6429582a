// Rows of a few of a shard's classes on their way to the host, and the gradient that it keeps for the next pass.
#include <algorithm>
#include <new>

#include "cuda/plan.h"
#include "cuda/shard.h"

namespace marginfc::cuda {

std::vector<Owner> CudaShard::own(const int32_t* classes, int64_t count) const {
  Batch batch;
  batch.labels = classes;
  batch.rows = count;
  return find_owners(batch, range_);
}

Status CudaShard::list(const std::vector<Owner>& own, DeviceBuffer* index) const {
  std::vector<int32_t> values;
  for (const Owner& owner : own) values.push_back(owner.index);
  return device_.upload_all(values, index);
}

Status CudaShard::gather(const int32_t* classes, int64_t count, float* rows) try {
  const std::vector<Owner> own = this->own(classes, count);
  if (own.empty()) return {};
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  const int64_t size = int64_t{sub_centers_} * dim_;
  const size_t row_bytes = size * byte_size(storage());
  const auto* from = borrowed_.values ? static_cast<const char*>(borrowed_.values) : weights_.as<char>();
  bool here = !borrowed_.values;
  if (!here && borrowed_.place == Place::device)
    MARGINFC_TRY(device_.find("weights", from, this->classes() * row_bytes, &here));
  DeviceBuffer index, copies, out;
  if (here) {
    MARGINFC_TRY(list(own, &index));
  } else if (borrowed_.place == Place::host) {
    std::vector<char> stored;
    for (const Owner& owner : own) {
      const char* row = from + owner.index * row_bytes;
      stored.insert(stored.end(), row, row + row_bytes);
    }
    MARGINFC_TRY(device_.upload_all(stored, &copies));
  } else {
    MARGINFC_TRY(copies.allocate(device_, own.size() * row_bytes));
    for (size_t o = 0; o < own.size(); o++)
      MARGINFC_TRY(device_.copy(DeviceBuffer::view(copies.as<char>(o * row_bytes), row_bytes),
                                DeviceBuffer::view(from + own[o].index * row_bytes, row_bytes), row_bytes));
  }
  const size_t bytes = own.size() * size * sizeof(float);
  MARGINFC_TRY(out.allocate(device_, bytes));
  GatherClassRowsParameters p{};
  p.rows = here ? from : copies.as<char>();
  p.index = index.as<int32_t>();
  p.out = out.as<float>();
  p.count = static_cast<int32_t>(own.size());
  p.dim = static_cast<int32_t>(size);
  p.storage = storage_kind(storage());
  MARGINFC_TRY(device_.launch(device_.kernels().gather_class_rows, {divide_up(p.count, kRowWarps)}, p));
  std::vector<float> values(own.size() * size);
  MARGINFC_TRY(device_.download(values.data(), out, bytes));
  MARGINFC_TRY(device_.settle());
  for (size_t o = 0; o < own.size(); o++) std::copy_n(values.data() + o * size, size, rows + own[o].row * size);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status CudaShard::kept_gradient(float** gradient, Place* place) {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  if (!kept_) MARGINFC_TRY(kept_.allocate_apart(device_, rows() * dim_ * sizeof(float)));
  *gradient = kept_.as<float>();
  *place = Place::device;
  return {};
}

Status CudaShard::add_to_kept(const int32_t* classes, int64_t count, const float* rows) try {
  const std::vector<Owner> own = this->own(classes, count);
  if (own.empty()) return {};
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  const int64_t size = int64_t{sub_centers_} * dim_;
  std::vector<float> values;
  for (const Owner& owner : own) values.insert(values.end(), rows + owner.row * size, rows + (owner.row + 1) * size);
  DeviceBuffer index, added;
  MARGINFC_TRY(list(own, &index));
  MARGINFC_TRY(device_.upload_all(values, &added));
  AddClassRowsParameters p{};
  p.rows = added.as<float>();
  p.index = index.as<int32_t>();
  p.to = kept_.as<float>();
  p.count = static_cast<int32_t>(own.size());
  p.dim = static_cast<int32_t>(size);
  MARGINFC_TRY(device_.launch(device_.kernels().add_class_rows, {divide_up(p.count, kRowWarps)}, p));
  return device_.settle();
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc::cuda
