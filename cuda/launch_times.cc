// Device's timing of launches, for benchmarks.
#include <utility>

#include "cuda/device.h"

namespace marginfc::cuda {
namespace {

// Of the L2 cache's size: enough that nothing of a kernel's own data is left in it.
constexpr size_t kOtherCaches = 2;

}  // namespace

Status Device::start_timing() {
  if (!driver_->event_elapsed) return Status::failure(Code::unavailable, "the driver has no cuEventElapsedTime");
  const Turn turn(*this);
  MARGINFC_TRY(turn.status());
  if (timing_) return {};
  auto timing = std::make_unique<Timing>();
  MARGINFC_TRY(timing->other.allocate_apart(*this, kOtherCaches * l2_bytes_));
  MARGINFC_TRY(check(driver_->event_create(&timing->start, 0), "cuEventCreate"));
  MARGINFC_TRY(check(driver_->event_create(&timing->end, 0), "cuEventCreate"));
  timing_ = std::move(timing);
  return {};
}

Status Device::stop_timing(std::vector<LaunchTime>* times) {
  const Turn turn(*this);
  MARGINFC_TRY(turn.status());
  if (!timing_) return {};
  const std::unique_ptr<Timing> timing = std::move(timing_);
  if (times) *times = std::move(timing->times);
  driver_->event_destroy(timing->start);
  driver_->event_destroy(timing->end);
  return {};
}

Status Device::launch_timed(const Kernel& kernel, Grid grid, const void* parameters) {
  Timing& timing = *timing_;
  MARGINFC_TRY(fill(timing.other, static_cast<uint32_t>(timing.times.size()), timing.other.bytes() / 4 * 4));
  MARGINFC_TRY(check(driver_->event_record(timing.start, stream_), "cuEventRecord"));
  MARGINFC_TRY(enqueue(kernel, grid, parameters));
  MARGINFC_TRY(check(driver_->event_record(timing.end, stream_), "cuEventRecord"));
  MARGINFC_TRY(check(driver_->event_synchronize(timing.end), "cuEventSynchronize"));
  float milliseconds = 0;
  MARGINFC_TRY(check(driver_->event_elapsed(&milliseconds, timing.start, timing.end), "cuEventElapsedTime"));
  timing.times.push_back({kernel.name, milliseconds});
  return {};
}

}  // namespace marginfc::cuda
