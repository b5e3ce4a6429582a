#include "cuda/sampling.h"

#include "cuda/plan.h"
#include "engine/sampling.h"

namespace marginfc::cuda {

int64_t SampledClasses::blocks() const { return divide_up(range_.end, kSamplingBlock) - range_.start / kSamplingBlock; }

Status SampledClasses::draw(Device& device, const Sampling& sampling, ClassRange range,
                            const std::vector<Owner>& owners) {
  range_ = range;
  Batch batch;
  batch.rows = static_cast<int64_t>(owners.size());
  batch.sampling = sampling;
  most_ = most_sampled(batch, range);
  std::vector<int32_t> owner_class;
  for (const Owner& owner : owners) owner_class.push_back(owner.index);
  places_.resize(1 + owners.size());
  MARGINFC_TRY(device.upload_all(owner_class, &owner_class_));
  MARGINFC_TRY(flags_.allocate(device, range.size()));
  MARGINFC_TRY(counts_.allocate(device, blocks() * sizeof(int32_t)));
  DrawClassesParameters p{};
  p.seed = sampling.seed;
  p.step = sampling.step;
  p.first_class = range.start;
  p.classes = range.size();
  p.head_classes = sampling.classes;
  p.drawn = static_cast<int32_t>(drawn_of(sampling, kSamplingBlock));
  p.drawn_last = static_cast<int32_t>(drawn_of(sampling, sampling.classes % kSamplingBlock));
  p.owner_class = owner_class_.as<int32_t>();
  p.owners = static_cast<int32_t>(owners.size());
  p.flags = flags_.as<uint8_t>();
  p.counts = counts_.as<int32_t>();
  return device.launch(device.kernels().draw_classes, {blocks()}, p);
}

Status SampledClasses::list(Device& device) {
  const size_t place_bytes = places_.size() * sizeof(int32_t);
  MARGINFC_TRY(index_.allocate(device, most_ * sizeof(int32_t)));
  MARGINFC_TRY(places_memory_.allocate(device, place_bytes));
  ListClassesParameters p{};
  p.first_class = range_.start;
  p.classes = range_.size();
  p.flags = flags_.as<uint8_t>();
  p.counts = counts_.as<int32_t>();
  p.owner_class = owner_class_.as<int32_t>();
  p.owners = static_cast<int32_t>(places_.size()) - 1;
  p.index = index_.as<int32_t>();
  p.places = places_memory_.as<int32_t>();
  MARGINFC_TRY(device.launch(device.kernels().list_classes, {blocks()}, p));
  return device.download(places_.data(), places_memory_, place_bytes);
}

}  // namespace marginfc::cuda
