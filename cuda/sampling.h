// The classes of a shard that take part in a step, drawn and listed on the device: the host's draw, engine/sampling.cc, would
// take longer than the step.
#pragma once

#include <vector>

#include "cuda/device.h"
#include "engine/engine.h"
#include "engine/owners.h"

namespace marginfc::cuda {

class SampledClasses {
 public:
  // Launches the draw among `range`; the owners' classes take part besides.
  Status draw(Device& device, const Sampling& sampling, ClassRange range, const std::vector<Owner>& owners);
  // Launches the list, after draw().
  Status list(Device& device);

  // [range.size()], on the device: 1 for those that take part.
  const uint8_t* flags() const { return flags_.as<uint8_t>(); }
  // After list() and settle_downloads(): how many take part, and the place of an owner's class among them.
  int64_t count() const { return places_[0]; }
  int32_t place(size_t owner) const { return places_[1 + owner]; }
  // Classes counted from the range's first, from this place on; on the device.
  const int32_t* index(int64_t place) const { return index_.as<int32_t>(place); }

 private:
  int64_t blocks() const;

  ClassRange range_;
  int64_t most_ = 0;             // that can take part
  DeviceBuffer owner_class_;     // [owners]
  DeviceBuffer flags_;           // [classes] bytes
  DeviceBuffer counts_;          // [blocks]
  DeviceBuffer index_;           // [most]
  DeviceBuffer places_memory_;   // as places_
  std::vector<int32_t> places_;  // [1 + owners]
};

}  // namespace marginfc::cuda
