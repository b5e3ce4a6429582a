#include "nccl/communicator.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "nccl/collectives.h"

namespace gpusim::nccl {

Communicator::Communicator(const UniqueId& id, int rank, int size, int device, Context* context, bool blocking)
    : clique_(id, rank, size, device), device_(device), context_(context), blocking_(blocking) {
  gate_ = static_cast<uint32_t*>(take_pinned(sizeof *gate_));
  *gate_ = 0;
  thread_ = std::thread([this] { serve(); });
}

Communicator::~Communicator() {
  if (thread_.joinable()) abort();
  const Current current(context_);
  for (const Launched& launched : computed_) {
    driver()->event_destroy(launched.ready);
    put_pinned(launched.send, launched.send_bytes);
    put_pinned(launched.receive, launched.receive_bytes);
  }
  put_pinned(gate_, sizeof *gate_);
  driver()->release_context(device_);
}

std::string Communicator::error() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return error_;
}

Result Communicator::fail(Result result, const std::string& why) {
  state_ = result;
  error_ = why;
  return result;
}

Result Communicator::state() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}

Result Communicator::ask() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (pending_.empty() || state_ != in_progress) return state_;
  if (!asked_) {
    asked_ = true;
    return in_progress;
  }
  return launch_pending();
}

Result Communicator::submit(std::vector<Call> calls) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (left_ || leaving_) return invalid_usage;
  if (state_ == in_progress) {
    error_ = "used before the call before it was complete";
    return invalid_argument;
  }
  if (state_ != success) return state_;
  pending_ = std::move(calls);
  asked_ = false;
  state_ = in_progress;
  return blocking_ ? launch_pending() : in_progress;
}

Result Communicator::launch_pending() {
  const Current current(context_);
  Result result = success;
  for (const Call& call : pending_)
    if (result == success && call.request.count > 0) result = launch(call);
  pending_.clear();
  if (result != success) {
    open_gate(number_);
    return result;
  }
  state_ = success;
  wake_.notify_one();
  return success;
}

Result Communicator::check(DevicePointer pointer, size_t bytes, const char* name) {
  if (bytes == 0) return success;
  int device = -1;
  unsigned type = 0;
  uint64_t start = 0;
  size_t whole = 0;
  const auto ask = [&](int attribute, void* value) {
    return driver()->pointer_attribute(value, attribute, pointer) == 0;
  };
  const bool known = ask(2, &type) && type == 2 && ask(9, &device) && ask(11, &start) && ask(12, &whole);
  if (!known || device != device_ || bytes > whole - (pointer - start))
    return fail(invalid_argument, std::string(name) + " is no memory of this communicator's device, or too short");
  return success;
}

Result Communicator::launch(const Call& call) {
  const size_t element = byte_size(call.request.type);
  Launched launched{call, ++number_};
  launched.send_bytes = sent_elements(call.request, rank(), size()) * element;
  launched.receive_bytes = received_elements(call.request, rank(), size()) * element;
  Result result = check(call.send, launched.send_bytes, "sendbuff");
  if (result == success) result = check(call.receive, launched.receive_bytes, "recvbuff");
  if (result != success) return result;
  launched.send = take_pinned(launched.send_bytes);
  launched.receive = take_pinned(launched.receive_bytes);
  if (launched.send == nullptr || launched.receive == nullptr) return fail(system_error, "no memory");
  // What an aborted communicator leaves behind: NaN, or at least nothing that anyone sent.
  std::memset(launched.receive, 0xff, launched.receive_bytes);
  const auto here = reinterpret_cast<DevicePointer>(gate_);
  const Driver& cuda = *driver();
  const bool queued = cuda.event_create(&launched.ready, 2) == 0 &&
                      (launched.send_bytes == 0 ||
                       cuda.copy_to_host(launched.send, call.send, launched.send_bytes, call.stream) == 0) &&
                      cuda.event_record(launched.ready, call.stream) == 0 &&
                      cuda.stream_wait_value(call.stream, here, launched.number, 0) == 0 &&
                      (launched.receive_bytes == 0 ||
                       cuda.copy_to_device(call.receive, launched.receive, launched.receive_bytes, call.stream) == 0);
  if (!queued) return fail(unhandled_cuda_error, "the driver refused a call");
  launched_.push_back(launched);
  return success;
}

void Communicator::open_gate(uint32_t number) { __atomic_store_n(gate_, number, __ATOMIC_RELEASE); }

void Communicator::serve() {
  const Current current(context_);
  const Result joined = clique_.join();
  std::unique_lock<std::mutex> lock(mutex_);
  if (joined == success)
    state_ = success;
  else if (joined != in_progress)
    fail(joined, clique_.error());
  for (;;) {
    busy_ = false;
    idle_.notify_all();
    wake_.wait(lock, [this] { return stopped_ || !launched_.empty() || (leaving_ && !left_); });
    if (stopped_) return;
    busy_ = true;
    if (launched_.empty()) {
      lock.unlock();
      const Result result = clique_.step({}, nullptr, 0, [] {});
      lock.lock();
      if (result == in_progress) return;
      left_ = true;
      if (result == success)
        state_ = success;
      else
        fail(result, clique_.error());
      continue;
    }
    Launched launched = launched_.front();
    launched_.pop_front();
    lock.unlock();
    compute(launched);
    lock.lock();
  }
}

void Communicator::compute(Launched& launched) {
  while (driver()->event_query(launched.ready) == 600) {
    if (stopped_) return;
    usleep(20);
  }
  // The stream has come here, so it is done with what was launched in it before.
  const auto done = [&](const Launched& before) {
    if (before.call.stream != launched.call.stream) return false;
    driver()->event_destroy(before.ready);
    put_pinned(before.send, before.send_bytes);
    put_pinned(before.receive, before.receive_bytes);
    return true;
  };
  computed_.erase(std::remove_if(computed_.begin(), computed_.end(), done), computed_.end());
  const Result result = run(clique_, launched.call.request, launched.send, launched.receive);
  computed_.push_back(launched);
  if (result == in_progress) return;
  if (result != success) {
    // The streams wait on, as for kernels that will not end; abort() ends them.
    const std::lock_guard<std::mutex> lock(mutex_);
    fail(result, clique_.error());
    return;
  }
  open_gate(launched.number);
}

Result Communicator::finalize() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (state_ != success) return state_ == in_progress ? invalid_argument : state_;
  if (leaving_) return invalid_argument;
  leaving_ = true;
  state_ = in_progress;
  wake_.notify_one();
  if (!blocking_) return in_progress;
  idle_.wait(lock, [this] { return left_ || stopped_; });
  return state_;
}

Result Communicator::settle() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!leaving_ && state_ == success) {
    leaving_ = true;
    state_ = in_progress;
    wake_.notify_one();
  }
  idle_.wait(lock, [this] { return left_ || stopped_ || (state_ != success && state_ != in_progress); });
  return success;
}

void Communicator::abort() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    pending_.clear();
  }
  clique_.stop();
  wake_.notify_all();
  idle_.notify_all();
  thread_.join();
  for (const Launched& launched : launched_) computed_.push_back(launched);
  launched_.clear();
  open_gate(number_);
}

}  // namespace gpusim::nccl
