// One GPU: its context, two streams, the kernels, memory and copies.
//
// Everything runs in order on one stream; a second one only carries results to the host while the next chunk is
// computed. A failure that leaves the context useless (an access fault, a launch that timed out, a GPU that fell off the
// bus) marks the device as lost: every later call says so with the driver's words, and nothing else is touched.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/driver.h"
#include "cuda/hopper.h"
#include "cuda/kernel_table.h"
#include "cuda/launch_graphs.h"
#include "engine/status.h"

namespace marginfc::cuda {

class Device;

// Device memory of any contents, back in the device's pool when this goes.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  ~DeviceBuffer() { release(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  // At least `bytes`; as it is when it has them already.
  Status allocate(Device& device, size_t bytes);
  // Exactly `bytes`, for what lives long: goes back to the driver, not to the pool.
  Status allocate_apart(Device& device, size_t bytes);
  void release();
  // Memory that somebody else owns.
  static DeviceBuffer view(const void* address, size_t bytes);

  explicit operator bool() const { return address_ != 0; }
  DevicePointer address() const { return address_; }
  size_t bytes() const { return bytes_; }
  // For a kernel's parameters; not for the host to follow.
  template <class T>
  T* as(int64_t index = 0) const {
    return reinterpret_cast<T*>(address_) + index;
  }

 private:
  friend class Device;
  Device* device_ = nullptr;
  DevicePointer address_ = 0;
  size_t bytes_ = 0;
  bool pooled_ = false;
};

// One launch by the device's own clock.
struct LaunchTime {
  std::string kernel;
  float milliseconds;
};

class Device {
 public:
  // Fails with Code::unavailable and the reason: no driver, no such device, too old a device, no kernels for it.
  static Status open(int32_t index, std::unique_ptr<Device>* device);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // One caller at a time, with the device's context on the calling thread. Everything below needs one.
  class Turn {
   public:
    explicit Turn(Device& device);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    // Fails when the device was lost.
    Status status() const { return status_; }

   private:
    Device& device_;
    const std::lock_guard<std::recursive_mutex> lock_;
    Status status_;
    bool pushed_ = false;  // the context is current
  };

  const std::string& name() const { return name_; }  // "cuda:0"
  // For people: what it is called, what it has, what drives it.
  const std::string& description() const { return description_; }
  const KernelTable& kernels() const { return kernels_; }
  int32_t compute_capability() const { return capability_; }  // 10 * major + minor
  int32_t multiprocessors() const { return multiprocessors_; }
  // What chunks of classes are made to fit; checks make it small, so that there are many.
  int64_t l2_bytes() const { return l2_bytes_; }
  void assume_l2_bytes(int64_t bytes) { l2_bytes_ = bytes; }

  // Launches in stream order. `parameters` are read before this returns.
  template <class Parameters>
  Status launch(const Kernel& kernel, Grid grid, const Parameters& parameters) {
    return launch(kernel, grid, &parameters, sizeof parameters);
  }

  // While one of these lives launches are kept back, where that is asked for, to be handed to the driver together
  // (launch_graphs.h): by end(), or before anything else in the stream.
  class LaunchRun {
   public:
    LaunchRun(Device& device, bool keeps_back) : device_(device) { device.keeps_back_ = keeps_back; }
    ~LaunchRun() {
      device_.keeps_back_ = false;
      device_.kept_back_.clear();
    }
    LaunchRun(const LaunchRun&) = delete;
    LaunchRun& operator=(const LaunchRun&) = delete;
    Status end() {
      device_.keeps_back_ = false;
      return device_.hand_over();
    }

   private:
    Device& device_;
  };

  // From pageable memory, which may change when this returns; in stream order.
  Status upload(const DeviceBuffer& to, const void* from, size_t bytes, size_t offset = 0);
  // All of `values`, to memory that is taken for them; likewise.
  template <class T>
  Status upload_all(const std::vector<T>& values, DeviceBuffer* to) {
    const size_t bytes = values.size() * sizeof(T);
    MARGINFC_TRY(to->allocate(*this, bytes));
    return upload(*to, values.data(), bytes);
  }
  // To pageable memory, which is complete after settle(); behind what was launched before.
  Status download(void* to, const DeviceBuffer& from, size_t bytes, size_t offset = 0);
  // Waits until all downloads are complete; what was launched behind them goes on.
  Status settle_downloads();
  // Waits until everything is done. Downloads that neither of these followed in a turn are dropped with it.
  Status settle();
  // Between GPUs' memory, in stream order.
  Status copy(const DeviceBuffer& to, const DeviceBuffer& from, size_t bytes);
  // Fails, naming the argument, unless the caller's `bytes` from `address` on are a GPU's memory. `here`, nullable: kernels
  // of this one may work on it in place.
  Status find(const char* argument, const void* address, size_t bytes, bool* here);
  // A tensor map of 16-bit rows; see hopper.h.
  Status map_rows(const DeviceBuffer& at, int64_t rows, int64_t columns, TensorMap* map) {
    return check(cuda::map_rows(driver_, at.address(), rows, columns, map), "cuTensorMapEncodeTiled");
  }
  Status fill(const DeviceBuffer& at, uint32_t word, size_t bytes, size_t offset = 0);

  // Large results on their way to the host while the next ones are computed, in two buffers by turns. What was launched
  // before ready(n) has written buffer n; what is launched after writable(n) may write it again.
  Status ready(int buffer);
  Status writable(int buffer);
  Status download_ready(int buffer, void* to, const DeviceBuffer& from, size_t bytes);

  // Waits until all but the last few calls of this are done: bounds what is queued, so that a caller who gives up is
  // heard soon.
  Status pace();

  // Whether launches that are kept back may go as a graph; forgets those that there are. As MARGINFC_GRAPHS says at first: all but 0.
  Status use_graphs(bool use);

  // For benchmarks: until stop_timing(), each launch runs alone, with other data in the L2 cache, and is timed.
  Status start_timing();
  Status stop_timing(std::vector<LaunchTime>* times);

  // Gives idle memory back to the driver; returns how many bytes it was.
  size_t trim();

 private:
  friend class DeviceBuffer;
  // A piece of pinned memory on its way from or to pageable memory.
  struct Slot {
    char* memory = nullptr;
    EventHandle* event = nullptr;
    bool busy = false;   // the event was recorded and not waited for
    void* to = nullptr;  // of a download
    size_t bytes = 0;
  };
  // Between the two streams.
  struct Handover {
    EventHandle* written = nullptr;
    EventHandle* read = nullptr;
  };
  struct Timing {
    EventHandle* start = nullptr;
    EventHandle* end = nullptr;
    DeviceBuffer other;  // fills the cache
    std::vector<LaunchTime> times;
  };
  struct Block {
    DevicePointer address;
    size_t bytes;
  };

  Device(int32_t index, const Driver& driver) : driver_(driver), index_(index) {}
  Status start();
  Status start_copies();
  Status load_kernels();
  Status launch(const Kernel& kernel, Grid grid, const void* parameters, size_t bytes);
  Status keep_back(const Kernel& kernel, Grid grid, const void* parameters, size_t bytes);
  // Enqueues what was kept back.
  Status hand_over();
  Status enqueue(const Kernel& kernel, Grid grid, const void* parameters);
  Status launch_timed(const Kernel& kernel, Grid grid, const void* parameters);
  // `what` is the driver's entry point.
  Status check(Result result, const char* what);
  Status download_after(const Handover& handover, void* to, DevicePointer from, size_t bytes);
  Status free_slot(Slot** slot);
  Status finish(Slot& slot);
  void drop_downloads();
  Status take(size_t bytes, DevicePointer* address);
  Status take_pooled(size_t bytes, Block* block);
  bool find_idle(size_t bytes, Block* block);
  // Needs no turn and waits for none: a garbage collector must not wait for a batch.
  void give(Block block, bool pooled);
  size_t free_all(std::vector<Block> Device::* blocks);

  const Driver& driver_;
  const int32_t index_;
  DeviceOrdinal ordinal_ = 0;
  std::string name_;
  std::string description_;
  int32_t capability_ = 0;
  int32_t multiprocessors_ = 0;
  int64_t l2_bytes_ = 0;
  std::recursive_mutex mutex_;  // one turn at a time
  int turns_ = 0;               // of the thread that has the mutex, one in another
  ContextHandle* context_ = nullptr;
  StreamHandle* stream_ = nullptr;
  StreamHandle* downloads_ = nullptr;
  Handover handovers_[3];  // of the two buffers, and of all other downloads
  ModuleHandle* module_ = nullptr;
  KernelTable kernels_;
  std::unique_ptr<LaunchGraphs> graphs_;  // null: none
  bool keeps_back_ = false;
  std::vector<Launch> kept_back_;
  std::vector<Slot> slots_;
  size_t next_slot_ = 0;
  std::vector<EventHandle*> paces_;
  size_t next_pace_ = 0;
  std::unique_ptr<Timing> timing_;  // while launches are timed
  std::mutex pool_mutex_;
  std::vector<Block> idle_;    // guarded by pool_mutex_; oldest first
  std::vector<Block> unused_;  // guarded by pool_mutex_; go back to the driver when a turn ends
  Status lost_;
};

}  // namespace marginfc::cuda
