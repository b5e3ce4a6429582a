#include "group/nccl.h"

#include <chrono>
#include <thread>
#include <vector>

namespace marginfc::group {
namespace {

using std::chrono::steady_clock;

// Between questions whether something is complete that takes all ranks.
constexpr std::chrono::milliseconds kPause{1};
// For what an aborted communicator leaves in the stream.
constexpr std::chrono::milliseconds kToDrain{500};

NcclType type_of(Element element) {
  switch (element) {
    case Element::float64: return NcclType::float64;
    case Element::int32: return NcclType::int32;
    case Element::uint8: return NcclType::uint8;
    case Element::float32: break;
  }
  return NcclType::float32;
}

NcclOperation operation_of(Reduction reduction) {
  return reduction == Reduction::max ? NcclOperation::max : NcclOperation::sum;
}

// A round lies in the GPU's memory while NCCL works on it: copied there from pinned host memory, worked on in place, copied
// back, all in the order of one stream. Nothing waits: poll() asks NCCL whether its kernels are in the stream, then puts the
// copy back behind them, and asks the driver whether that has happened.
class NcclTransport final : public Transport {
 public:
  explicit NcclTransport(const NcclPlace& place)
      : place_(place), driver_(cuda::driver()), library_(nccl_library()), stage_(Stage::idle) {}

  ~NcclTransport() override {
    // The other ranks are not told: they find out by their deadlines.
    if (communicator_) library_->abort(communicator_);
    if (!context_) return;
    if (drained()) {
      for (void* memory : pinned_) driver_->host_free(memory);
      if (buffer_) driver_->memory_free(buffer_);
      if (done_) driver_->event_destroy(done_);
      if (stream_) driver_->stream_destroy(stream_);
    }
    cuda::ContextHandle* popped = nullptr;
    driver_->context_pop(&popped);
    driver_->context_release(ordinal_);
  }

  Status open() {
    MARGINFC_TRY(cuda_check(driver_->device_get(&ordinal_, place_.device), "cuDeviceGet"));
    cuda::ContextHandle* context = nullptr;
    MARGINFC_TRY(cuda_check(driver_->context_retain(&context, ordinal_), "cuDevicePrimaryCtxRetain"));
    // For good: this thread makes all calls.
    const cuda::Result pushed = driver_->context_push(context);
    if (pushed != cuda::Result::success) driver_->context_release(ordinal_);
    MARGINFC_TRY(cuda_check(pushed, "cuCtxPushCurrent"));
    context_ = context;
    MARGINFC_TRY(cuda_check(driver_->stream_create(&stream_, cuda::kStreamNonBlocking), "cuStreamCreate"));
    MARGINFC_TRY(cuda_check(driver_->event_create(&done_, cuda::kEventDisableTiming), "cuEventCreate"));
    // All that a round can need: to free memory later would wait for whatever the GPU does.
    MARGINFC_TRY(cuda_check(driver_->memory_allocate(&buffer_, kLargestRound), "cuMemAlloc"));
    MARGINFC_TRY(
        cuda_check(driver_->fill_words(buffer_, 0, kLargestRound / sizeof(int32_t), stream_), "cuMemsetD32Async"));
    NcclConfig config;
    MARGINFC_TRY(nccl_check(library_->initialize(&communicator_, place_.size, place_.id, place_.rank, &config),
                            "ncclCommInitRankConfig"));
    return wait("ncclCommInitRankConfig");
  }

  int32_t rank() const override { return place_.rank; }
  int32_t size() const override { return place_.size; }

  Status allocate(size_t bytes, void** memory) override {
    MARGINFC_TRY(cuda_check(driver_->host_allocate(memory, bytes, 0), "cuMemHostAlloc"));
    pinned_.push_back(*memory);
    return {};
  }

  Status start(const Round& round) override {
    round_ = round;
    offsets_.assign(1, 0);
    const int parts = round.kind == Round::Kind::barrier ? 0 : is_whole() ? 1 : size();
    for (int32_t part = 0; part < parts; part++) offsets_.push_back(offsets_.back() + round.counts[part]);
    // Nobody has anything: the same on all ranks.
    if (round.kind != Round::Kind::barrier && offsets_.back() == 0) return {};
    MARGINFC_TRY(upload());
    MARGINFC_TRY(nccl_check(library_->group_start(), "ncclGroupStart"));
    const Status called = call();
    const NcclResult ended = library_->group_end();
    MARGINFC_TRY(called);
    MARGINFC_TRY(nccl_check(ended, "ncclGroupEnd"));
    stage_ = Stage::launching;
    return {};
  }

  Status poll(bool* done) override {
    *done = false;
    if (stage_ != Stage::idle) MARGINFC_TRY(check_state());
    if (stage_ == Stage::launching && ready_) {
      MARGINFC_TRY(download());
      MARGINFC_TRY(cuda_check(driver_->event_record(done_, stream_), "cuEventRecord"));
      stage_ = Stage::running;
    }
    if (stage_ == Stage::running) {
      const cuda::Result result = driver_->event_query(done_);
      if (result == cuda::Result::not_ready) return {};
      MARGINFC_TRY(cuda_check(result, "cuEventQuery"));
      stage_ = Stage::idle;
    }
    *done = stage_ == Stage::idle;
    return {};
  }

  void abandon() override {
    if (communicator_) library_->abort(std::exchange(communicator_, nullptr));
  }

  Status leave() override {
    MARGINFC_TRY(nccl_check(library_->finalize(communicator_), "ncclCommFinalize"));
    MARGINFC_TRY(wait("ncclCommFinalize"));
    return nccl_check(library_->destroy(std::exchange(communicator_, nullptr)), "ncclCommDestroy");
  }

 private:
  enum class Stage { idle, launching, running };

  std::string name() const { return "cuda:" + std::to_string(place_.device); }

  Status cuda_check(cuda::Result result, const char* what) const {
    if (result == cuda::Result::success) return {};
    const Code code = result == cuda::Result::out_of_memory ? Code::out_of_memory : Code::group;
    return Status::failure(code, name() + ": " + what + " said " + driver_.describe(result));
  }

  Status nccl_check(NcclResult result, const char* what) const {
    if (result == NcclResult::success || result == NcclResult::in_progress) return {};
    return Status::failure(Code::group,
                           std::string("NCCL failed: ") + what + " said " + library_.describe(result, communicator_));
  }

  // Asks NCCL how far it is: a rank that it lost is a failure here and not a deadline.
  Status check_state() {
    NcclResult state = NcclResult::success;
    MARGINFC_TRY(nccl_check(library_->state(communicator_, &state), "ncclCommGetAsyncError"));
    ready_ = state == NcclResult::success;
    return nccl_check(state, "ncclCommGetAsyncError");
  }

  // For what takes all ranks and is no round.
  Status wait(const char* what) {
    const auto end = steady_clock::now() + std::chrono::duration<double>(place_.timeout);
    for (;;) {
      MARGINFC_TRY(check_state());
      if (ready_) return {};
      if (steady_clock::now() >= end)
        return Status::failure(Code::group_timeout, std::string(what) + " was not done in time: a rank is missing");
      std::this_thread::sleep_for(kPause);
    }
  }

  bool drained() {
    if (!stream_ || !done_) return true;
    if (driver_->event_record(done_, stream_) != cuda::Result::success) return false;
    const auto end = steady_clock::now() + kToDrain;
    while (driver_->event_query(done_) == cuda::Result::not_ready) {
      if (steady_clock::now() >= end) return false;
      std::this_thread::sleep_for(kPause);
    }
    return true;
  }

  // Whether the round is of one array that all ranks have.
  bool is_whole() const { return round_.kind == Round::Kind::all_reduce || round_.kind == Round::Kind::broadcast; }
  size_t width() const { return byte_size(round_.element); }
  cuda::DevicePointer part(int32_t rank) const { return buffer_ + offsets_[rank] * width(); }

  Status copy_in(cuda::DevicePointer to, const void* from, size_t bytes) {
    if (bytes == 0) return {};
    return cuda_check(driver_->copy_to_device(to, from, bytes, stream_), "cuMemcpyHtoDAsync");
  }
  Status copy_out(void* to, cuda::DevicePointer from, size_t bytes) {
    if (bytes == 0) return {};
    return cuda_check(driver_->copy_to_host(to, from, bytes, stream_), "cuMemcpyDtoHAsync");
  }

  Status upload() {
    const size_t bytes = offsets_.back() * width();
    switch (round_.kind) {
      case Round::Kind::all_gather: return copy_in(part(rank()), round_.input, round_.counts[rank()] * width());
      case Round::Kind::reduce_scatter: return copy_in(buffer_, round_.input, bytes);
      case Round::Kind::broadcast: return rank() == round_.root ? copy_in(buffer_, round_.output, bytes) : Status{};
      case Round::Kind::all_reduce: return copy_in(buffer_, round_.output, bytes);
      case Round::Kind::barrier: break;
    }
    return {};
  }

  Status download() {
    const size_t bytes = offsets_.back() * width();
    switch (round_.kind) {
      case Round::Kind::reduce_scatter: return copy_out(round_.output, part(rank()), round_.counts[rank()] * width());
      case Round::Kind::broadcast: return rank() != round_.root ? copy_out(round_.output, buffer_, bytes) : Status{};
      case Round::Kind::all_gather:
      case Round::Kind::all_reduce: return copy_out(round_.output, buffer_, bytes);
      case Round::Kind::barrier: break;
    }
    return {};
  }

  // In place. Where parts differ in length NCCL has no call for all of them; then there is one for each, in the order of
  // ranks, which it fuses.
  Status call() {
    const NcclType type = type_of(round_.element);
    const NcclOperation operation = operation_of(round_.reduction);
    void* const whole = address(buffer_);
    const auto count = static_cast<size_t>(offsets_.back());
    switch (round_.kind) {
      case Round::Kind::all_reduce:
        return nccl_check(library_->all_reduce(whole, whole, count, type, operation, communicator_, stream_),
                          "ncclAllReduce");
      case Round::Kind::broadcast:
        return nccl_check(library_->broadcast(whole, whole, count, type, round_.root, communicator_, stream_),
                          "ncclBroadcast");
      case Round::Kind::barrier:
        return nccl_check(
            library_->all_reduce(whole, whole, 1, NcclType::int32, NcclOperation::max, communicator_, stream_),
            "ncclAllReduce");
      case Round::Kind::all_gather:
      case Round::Kind::reduce_scatter: break;
    }
    const bool gathers = round_.kind == Round::Kind::all_gather;
    void* const own = address(part(rank()));
    if (const size_t equal = equal_parts(); equal > 0)
      return gathers
                 ? nccl_check(library_->all_gather(own, whole, equal, type, communicator_, stream_), "ncclAllGather")
                 : nccl_check(library_->reduce_scatter(whole, own, equal, type, operation, communicator_, stream_),
                              "ncclReduceScatter");
    for (int32_t owner = 0; owner < size(); owner++) {
      if (round_.counts[owner] == 0) continue;
      const auto length = static_cast<size_t>(round_.counts[owner]);
      void* const at = address(part(owner));
      MARGINFC_TRY(
          gathers
              ? nccl_check(library_->broadcast(at, at, length, type, owner, communicator_, stream_), "ncclBroadcast")
              : nccl_check(library_->reduce(at, at, length, type, operation, owner, communicator_, stream_),
                           "ncclReduce"));
    }
    return {};
  }

  // The length of every part; 0 where they differ.
  size_t equal_parts() const {
    for (int32_t each = 1; each < size(); each++)
      if (round_.counts[each] != round_.counts[0]) return 0;
    return static_cast<size_t>(round_.counts[0]);
  }

  static void* address(cuda::DevicePointer pointer) { return reinterpret_cast<void*>(pointer); }

  const NcclPlace place_;
  const cuda::Driver& driver_;
  const NcclLibrary& library_;
  cuda::DeviceOrdinal ordinal_ = 0;
  cuda::ContextHandle* context_ = nullptr;  // current on the communication thread
  cuda::StreamHandle* stream_ = nullptr;
  cuda::EventHandle* done_ = nullptr;
  cuda::DevicePointer buffer_ = 0;  // kLargestRound bytes
  NcclCommunicator* communicator_ = nullptr;
  std::vector<void*> pinned_;

  Round round_;
  std::vector<int64_t> offsets_;  // of the parts, and their end; elements
  Stage stage_;
  bool ready_ = false;  // NCCL is done with its part of a call, and can be called again
};

}  // namespace

Status check_nccl(int32_t device) {
  const cuda::Driver& driver = cuda::driver();
  const std::string& reason = driver.available() ? nccl_library().reason : driver.reason;
  if (!reason.empty()) return Status::failure(Code::unavailable, reason);
  if (device >= driver.devices)
    return Status::failure(Code::unavailable, "there is no cuda:" + std::to_string(device) + ": the driver has " +
                                                  std::to_string(driver.devices) +
                                                  (driver.devices == 1 ? " GPU" : " GPUs") + ", counted from 0");
  return {};
}

Status make_nccl_id(NcclId* id) {
  const NcclLibrary& library = nccl_library();
  const NcclResult result = library->unique_id(id);
  if (result == NcclResult::success) return {};
  return Status::failure(Code::group, "NCCL failed: ncclGetUniqueId said " + library.describe(result, nullptr));
}

Status open_nccl(const NcclPlace& place, std::unique_ptr<Transport>* transport) {
  auto opened = std::make_unique<NcclTransport>(place);
  MARGINFC_TRY(opened->open());
  *transport = std::move(opened);
  return {};
}

}  // namespace marginfc::group
