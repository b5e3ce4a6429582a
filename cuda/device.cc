#include "cuda/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "cuda/embedded_kernels.h"

namespace marginfc::cuda {
namespace {

constexpr int32_t kOldestCapability = 75;
// Pinned memory between pageable memory and the device: enough slots that the host copies one while the bus is busy
// with another.
constexpr size_t kSlots = 4;
constexpr size_t kSlotBytes = size_t{4} << 20;
// Calls of pace() that may be under way.
constexpr size_t kPaces = 3;
// Idle memory that the pool keeps at most.
constexpr size_t kMostIdle = size_t{1} << 30;
constexpr size_t kPage = size_t{2} << 20;  // what the driver maps memory in
constexpr size_t kLine = 512;

size_t round_to(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Errors after which no call in this context can succeed; the rest concern one call.
bool loses_device(Result result) {
  const auto code = static_cast<int32_t>(result);
  switch (code) {
    case 4:    // driver shut down
    case 46:   // device unavailable
    case 201:  // invalid context
    case 214:  // uncorrectable memory error
    case 220:  // uncorrectable NVLink error
    case 700:  // illegal address
    case 702:  // launch timed out
    case 999: return true;
    default: return (code >= 709 && code <= 711) || (code >= 714 && code <= 719);
  }
}

}  // namespace

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this == &other) return *this;
  release();
  device_ = std::exchange(other.device_, nullptr);
  address_ = std::exchange(other.address_, 0);
  bytes_ = std::exchange(other.bytes_, 0);
  pooled_ = other.pooled_;
  return *this;
}

Status DeviceBuffer::allocate(Device& device, size_t bytes) {
  if (address_ && bytes_ >= bytes) return {};
  release();
  Device::Block block;
  MARGINFC_TRY(device.take_pooled(bytes, &block));
  device_ = &device;
  address_ = block.address;
  bytes_ = block.bytes;
  pooled_ = true;
  return {};
}

Status DeviceBuffer::allocate_apart(Device& device, size_t bytes) {
  release();
  bytes = std::max<size_t>(bytes, 1);
  MARGINFC_TRY(device.take(bytes, &address_));
  device_ = &device;
  bytes_ = bytes;
  pooled_ = false;
  return {};
}

DeviceBuffer DeviceBuffer::view(const void* address, size_t bytes) {
  DeviceBuffer buffer;
  buffer.address_ = reinterpret_cast<DevicePointer>(address);
  buffer.bytes_ = bytes;
  return buffer;
}

void DeviceBuffer::release() {
  if (!address_) return;
  if (device_) device_->give({address_, bytes_}, pooled_);
  address_ = 0;
  bytes_ = 0;
}

Device::Turn::Turn(Device& device) : device_(device), lock_(device.mutex_) {
  device.turns_++;
  if (device.lost_.ok()) {
    status_ = device.check(device.driver_->context_push(device.context_), "cuCtxPushCurrent");
    pushed_ = status_.ok();
  }
  if (!device.lost_.ok()) status_ = device.lost_;
}

Device::Turn::~Turn() {
  if (--device_.turns_ == 0) {
    device_.drop_downloads();
    device_.free_all(&Device::unused_);
  }
  ContextHandle* popped;
  if (pushed_) device_.driver_->context_pop(&popped);
}

Status Device::open(int32_t index, std::unique_ptr<Device>* device) try {
  const Driver& driver = cuda::driver();
  if (!driver.available()) return Status::failure(Code::unavailable, driver.reason);
  if (index < 0 || index >= driver.devices)
    return Status::failure(Code::unavailable, "the driver has " + std::to_string(driver.devices) +
                                                  (driver.devices == 1 ? " GPU" : " GPUs") + ", counted from 0");
  std::unique_ptr<Device> opened(new Device(index, driver));
  Status status = opened->start();
  // Whatever went wrong before the first batch, there is no engine.
  if (!status.ok()) return Status::failure(Code::unavailable, std::move(status.message));
  *device = std::move(opened);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status Device::start() {
  name_ = "cuda:" + std::to_string(index_);
  const auto attribute = [&](DeviceAttribute which, int32_t* value) {
    return check(driver_->device_attribute(value, which, ordinal_), "cuDeviceGetAttribute");
  };
  MARGINFC_TRY(check(driver_->device_get(&ordinal_, index_), "cuDeviceGet"));
  int32_t major, minor, l2_bytes;
  char name[256] = "";
  size_t bytes;
  MARGINFC_TRY(attribute(DeviceAttribute::major, &major));
  MARGINFC_TRY(attribute(DeviceAttribute::minor, &minor));
  MARGINFC_TRY(attribute(DeviceAttribute::multiprocessors, &multiprocessors_));
  MARGINFC_TRY(attribute(DeviceAttribute::l2_bytes, &l2_bytes));
  MARGINFC_TRY(check(driver_->device_name(name, sizeof name, ordinal_), "cuDeviceGetName"));
  MARGINFC_TRY(check(driver_->device_bytes(&bytes, ordinal_), "cuDeviceTotalMem"));
  capability_ = 10 * major + minor;
  l2_bytes_ = l2_bytes;
  const std::string capability = "compute capability " + std::to_string(major) + "." + std::to_string(minor);
  description_ = std::string(name) + ", " + capability + ", " + std::to_string(bytes >> 20) + " MiB, driver for CUDA " +
                 version_text(driver_.version);
  if (capability_ < kOldestCapability)
    return Status::failure(Code::unavailable, std::string(name) + " has " + capability + ", needed is 7.5 or newer");
  MARGINFC_TRY(check(driver_->context_retain(&context_, ordinal_), "cuDevicePrimaryCtxRetain"));
  const Turn turn(*this);
  MARGINFC_TRY(turn.status());
  MARGINFC_TRY(start_copies());
  MARGINFC_TRY(load_kernels());
  const char* graphs = std::getenv("MARGINFC_GRAPHS");
  return use_graphs(!graphs || std::string(graphs) != "0");
}

Status Device::use_graphs(bool use) {
  const Turn turn(*this);
  MARGINFC_TRY(turn.status());
  graphs_ = use ? std::make_unique<LaunchGraphs>(driver_) : nullptr;
  return {};
}

Status Device::start_copies() {
  const auto make = [this](EventHandle** event) {
    return check(driver_->event_create(event, kEventDisableTiming), "cuEventCreate");
  };
  MARGINFC_TRY(check(driver_->stream_create(&stream_, kStreamNonBlocking), "cuStreamCreate"));
  MARGINFC_TRY(check(driver_->stream_create(&downloads_, kStreamNonBlocking), "cuStreamCreate"));
  for (Handover& handover : handovers_) {
    MARGINFC_TRY(make(&handover.written));
    MARGINFC_TRY(make(&handover.read));
  }
  slots_.resize(kSlots);
  for (Slot& slot : slots_) {
    void* memory;
    MARGINFC_TRY(make(&slot.event));
    MARGINFC_TRY(check(driver_->host_allocate(&memory, kSlotBytes, 0), "cuMemHostAlloc"));
    slot.memory = static_cast<char*>(memory);
  }
  paces_.resize(kPaces);
  for (EventHandle*& event : paces_) {
    MARGINFC_TRY(make(&event));
    MARGINFC_TRY(check(driver_->event_record(event, stream_), "cuEventRecord"));
  }
  return {};
}

Device::~Device() {
  if (!context_) return;
  {
    const Turn turn(*this);
    graphs_.reset();
    // Of a lost device nothing can be given back but the context.
    if (turn.status().ok()) {
      if (stream_) driver_->stream_synchronize(stream_);
      if (downloads_) driver_->stream_synchronize(downloads_);
      if (timing_) (void)stop_timing(nullptr);
      trim();
      for (const Slot& slot : slots_) {
        if (slot.memory) driver_->host_free(slot.memory);
        if (slot.event) driver_->event_destroy(slot.event);
      }
      for (EventHandle* event : paces_)
        if (event) driver_->event_destroy(event);
      for (const Handover& handover : handovers_) {
        if (handover.written) driver_->event_destroy(handover.written);
        if (handover.read) driver_->event_destroy(handover.read);
      }
      if (module_) driver_->module_unload(module_);
      if (downloads_) driver_->stream_destroy(downloads_);
      if (stream_) driver_->stream_destroy(stream_);
    }
  }
  driver_->context_release(ordinal_);
}

Status Device::load_kernels() {
  const auto unavailable = [this](const std::string& why) {
    return Status::failure(Code::unavailable, "the kernels could not be loaded on " + name_ + ": " + why);
  };
  const EmbeddedKernels image = embedded_kernels();
  if (image.missing) return Status::failure(Code::unavailable, image.missing);
  // The compiler's own words, where the driver has to compile.
  char log[1024] = "";
  const JitOption options[] = {JitOption::error_log, JitOption::error_log_bytes};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  const Result result = driver_->module_load(&module_, image.image, 2, options, values);
  if (result != Result::success) {
    log[sizeof log - 1] = 0;
    return unavailable("cuModuleLoadDataEx said " + driver_.describe(result) + (*log ? std::string(": ") + log : "") +
                       " (" + description_ + "; kernels: " + image.contents + ")");
  }

  const std::string wrong = find_kernels(driver_, module_, stream_, capability_, &kernels_);
  return wrong.empty() ? Status{} : unavailable(wrong);
}

Status Device::check(Result result, const char* what) {
  if (result == Result::success) return {};
  const std::string said = what + (" said " + driver_.describe(result));
  if (result == Result::out_of_memory)
    return Status::failure(Code::out_of_memory, "not enough memory on " + name_ + ": " + said);
  if (!loses_device(result)) return Status::failure(Code::internal, name_ + ": " + said);
  if (lost_.ok()) lost_ = Status::failure(Code::unavailable, name_ + " was lost: " + said);
  return lost_;
}

Status Device::launch(const Kernel& kernel, Grid grid, const void* parameters, size_t bytes) {
  if (timing_) return launch_timed(kernel, grid, parameters);
  return keeps_back_ ? keep_back(kernel, grid, parameters, bytes) : enqueue(kernel, grid, parameters);
}

Status Device::keep_back(const Kernel& kernel, Grid grid, const void* parameters, size_t bytes) try {
  const char* from = static_cast<const char*>(parameters);
  kept_back_.push_back({&kernel, grid, {from, from + bytes}});
  return {};
} catch (const std::bad_alloc&) {
  // Without memory to be kept in it goes at once.
  MARGINFC_TRY(hand_over());
  return enqueue(kernel, grid, parameters);
}

Status Device::hand_over() {
  if (kept_back_.empty()) return {};
  const std::vector<Launch> launches = std::exchange(kept_back_, {});
  if (graphs_ && graphs_->launch(launches, stream_)) return {};
  for (const Launch& launch : launches) MARGINFC_TRY(enqueue(*launch.kernel, launch.grid, launch.parameters.data()));
  return {};
}

Status Device::enqueue(const Kernel& kernel, Grid grid, const void* parameters) {
  void* arguments[] = {const_cast<void*>(parameters)};
  return check(driver_->launch(kernel.function, static_cast<uint32_t>(grid.x), static_cast<uint32_t>(grid.y),
                               static_cast<uint32_t>(grid.z), kernel.threads, 1, 1, kernel.shared_bytes, stream_,
                               arguments, nullptr),
               "cuLaunchKernel");
}

Status Device::finish(Slot& slot) {
  if (!slot.busy) return {};
  slot.busy = false;
  void* to = std::exchange(slot.to, nullptr);
  MARGINFC_TRY(check(driver_->event_synchronize(slot.event), "cuEventSynchronize"));
  if (to) std::memcpy(to, slot.memory, slot.bytes);
  return {};
}

Status Device::free_slot(Slot** slot) {
  *slot = &slots_[next_slot_];
  next_slot_ = (next_slot_ + 1) % slots_.size();
  return finish(**slot);
}

void Device::drop_downloads() {
  for (Slot& slot : slots_) slot.to = nullptr;
}

Status Device::upload(const DeviceBuffer& to, const void* from, size_t bytes, size_t offset) {
  MARGINFC_TRY(hand_over());
  const DevicePointer address = to.address() + offset;
  for (size_t at = 0; at < bytes; at += kSlotBytes) {
    Slot* slot;
    MARGINFC_TRY(free_slot(&slot));
    const size_t count = std::min(kSlotBytes, bytes - at);
    std::memcpy(slot->memory, static_cast<const char*>(from) + at, count);
    MARGINFC_TRY(check(driver_->copy_to_device(address + at, slot->memory, count, stream_), "cuMemcpyHtoDAsync"));
    MARGINFC_TRY(check(driver_->event_record(slot->event, stream_), "cuEventRecord"));
    slot->busy = true;
  }
  return {};
}

Status Device::download(void* to, const DeviceBuffer& from, size_t bytes, size_t offset) {
  MARGINFC_TRY(hand_over());
  const Handover& handover = handovers_[2];
  MARGINFC_TRY(check(driver_->event_record(handover.written, stream_), "cuEventRecord"));
  return download_after(handover, to, from.address() + offset, bytes);
}

Status Device::download_after(const Handover& handover, void* to, DevicePointer from, size_t bytes) {
  MARGINFC_TRY(check(driver_->stream_wait(downloads_, handover.written, 0), "cuStreamWaitEvent"));
  for (size_t at = 0; at < bytes; at += kSlotBytes) {
    Slot* slot;
    MARGINFC_TRY(free_slot(&slot));
    const size_t count = std::min(kSlotBytes, bytes - at);
    MARGINFC_TRY(check(driver_->copy_to_host(slot->memory, from + at, count, downloads_), "cuMemcpyDtoHAsync"));
    MARGINFC_TRY(check(driver_->event_record(slot->event, downloads_), "cuEventRecord"));
    slot->busy = true;
    slot->to = static_cast<char*>(to) + at;
    slot->bytes = count;
  }
  return check(driver_->event_record(handover.read, downloads_), "cuEventRecord");
}

Status Device::ready(int buffer) {
  MARGINFC_TRY(hand_over());
  return check(driver_->event_record(handovers_[buffer].written, stream_), "cuEventRecord");
}

Status Device::writable(int buffer) {
  MARGINFC_TRY(hand_over());
  return check(driver_->stream_wait(stream_, handovers_[buffer].read, 0), "cuStreamWaitEvent");
}

Status Device::download_ready(int buffer, void* to, const DeviceBuffer& from, size_t bytes) {
  return download_after(handovers_[buffer], to, from.address(), bytes);
}

Status Device::settle_downloads() {
  MARGINFC_TRY(hand_over());
  for (size_t n = 0; n < slots_.size(); n++) {
    Slot& slot = slots_[(next_slot_ + n) % slots_.size()];
    if (slot.to) MARGINFC_TRY(finish(slot));
  }
  return {};
}

Status Device::settle() {
  MARGINFC_TRY(hand_over());
  for (size_t n = 0; n < slots_.size(); n++) MARGINFC_TRY(finish(slots_[(next_slot_ + n) % slots_.size()]));
  return check(driver_->stream_synchronize(stream_), "cuStreamSynchronize");
}

Status Device::fill(const DeviceBuffer& at, uint32_t word, size_t bytes, size_t offset) {
  if (bytes == 0) return {};
  MARGINFC_TRY(hand_over());
  return check(driver_->fill_words(at.address() + offset, word, bytes / sizeof word, stream_), "cuMemsetD32Async");
}

Status Device::copy(const DeviceBuffer& to, const DeviceBuffer& from, size_t bytes) {
  if (bytes == 0) return {};
  MARGINFC_TRY(hand_over());
  return check(driver_->copy(to.address(), from.address(), bytes, stream_), "cuMemcpyAsync");
}

Status Device::find(const char* argument, const void* address, size_t bytes, bool* here) {
  const auto pointer = reinterpret_cast<DevicePointer>(address);
  const auto ask = [&](PointerAttribute attribute, void* value) {
    return driver_->pointer_attribute(value, attribute, pointer) == Result::success;
  };
  uint32_t type = 0;
  DeviceOrdinal ordinal = -1;
  DevicePointer start = 0;
  size_t whole = 0;
  // Whatever the driver says of an address that it does not know: it is no GPU's.
  if (!ask(PointerAttribute::memory_type, &type) || type != kDeviceMemory || !ask(PointerAttribute::device, &ordinal))
    return Status::failure(Code::type, std::string(argument) + ".devicePtr must be an address of a GPU's memory");
  if (!ask(PointerAttribute::range_start, &start) || !ask(PointerAttribute::range_bytes, &whole) ||
      bytes > whole - (pointer - start))
    return Status::failure(Code::shape, std::string(argument) + " must have " + std::to_string(bytes) +
                                            " bytes of memory at its devicePtr, received " +
                                            std::to_string(whole - (pointer - start)));
  // What is not aligned is copied, so that it gives the same bits.
  if (here) *here = ordinal == ordinal_ && pointer % 16 == 0;
  return {};
}

Status Device::pace() {
  MARGINFC_TRY(hand_over());
  EventHandle* event = paces_[next_pace_];
  next_pace_ = (next_pace_ + 1) % paces_.size();
  MARGINFC_TRY(check(driver_->event_synchronize(event), "cuEventSynchronize"));
  return check(driver_->event_record(event, stream_), "cuEventRecord");
}

Status Device::take(size_t bytes, DevicePointer* address) {
  Result result = driver_->memory_allocate(address, bytes);
  if (result == Result::out_of_memory && trim() > 0) result = driver_->memory_allocate(address, bytes);
  if (result != Result::success) *address = 0;
  return check(result, "cuMemAlloc");
}

Status Device::take_pooled(size_t bytes, Block* block) {
  // In steps, so that a slightly different problem finds the block too.
  bytes = round_to(std::max<size_t>(bytes, 1), bytes >= kPage ? kPage : kLine);
  if (find_idle(bytes, block)) return {};
  block->bytes = bytes;
  return take(bytes, &block->address);
}

// One that is not much larger: the smallest, then the first in memory, so that a step like the one before has the same addresses.
bool Device::find_idle(size_t bytes, Block* block) {
  const std::lock_guard<std::mutex> lock(pool_mutex_);
  const auto better = [](const Block& a, const Block& b) {
    return a.bytes < b.bytes || (a.bytes == b.bytes && a.address < b.address);
  };
  auto best = idle_.end();
  for (auto it = idle_.begin(); it != idle_.end(); ++it)
    if (it->bytes >= bytes && it->bytes <= bytes + bytes / 2 && (best == idle_.end() || better(*it, *best))) best = it;
  if (best == idle_.end()) return false;
  *block = *best;
  idle_.erase(best);
  return true;
}

// The next user of a pooled block comes later on the same stream, so what was launched before may still run.
void Device::give(Block block, bool pooled) {
  {
    const std::lock_guard<std::mutex> lock(pool_mutex_);
    (pooled ? idle_ : unused_).push_back(block);
    size_t total = 0;
    for (const Block& idle : idle_) total += idle.bytes;
    for (; total > kMostIdle; idle_.erase(idle_.begin())) {
      total -= idle_.front().bytes;
      unused_.push_back(idle_.front());
    }
    if (unused_.empty()) return;
  }
  if (!mutex_.try_lock()) return;  // whoever has the turn will free them
  {
    const Turn turn(*this);
  }
  mutex_.unlock();
}

size_t Device::free_all(std::vector<Block> Device::* blocks) {
  std::vector<Block> freed;
  {
    const std::lock_guard<std::mutex> lock(pool_mutex_);
    freed.swap(this->*blocks);
  }
  size_t total = 0;
  for (const Block& block : freed) {
    total += block.bytes;
    // Of a lost device nothing is left to free.
    if (lost_.ok()) (void)check(driver_->memory_free(block.address), "cuMemFree");
  }
  return total;
}

size_t Device::trim() { return free_all(&Device::idle_) + free_all(&Device::unused_); }

}  // namespace marginfc::cuda
