#include "group/communicator.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace marginfc::group {
namespace {

using std::chrono::microseconds;
using std::chrono::steady_clock;

// How a collective is waited for: polled for a moment without a pause, then in bursts, since each poll moves on only so much
// of a long one, with pauses that grow with the wait.
constexpr microseconds kSpin{50}, kShortestPause{20}, kLongestPause{1000};
constexpr int kBurst = 32, kPausesInWait = 50;
// For the communication thread to see that it should end. It looks after each pause.
constexpr std::chrono::seconds kToStop{2};
constexpr size_t kLeastMemory = 4096;

// Never unloads this library, as Node would after the last worker that uses it: a communication thread that a transport
// keeps still has its code here.
void pin_this_library() {
  Dl_info place;
  if (dladdr(reinterpret_cast<void*>(&pin_this_library), &place) && place.dli_fname)
    dlopen(place.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%g second%s", seconds, seconds == 1 ? "" : "s");
  return text;
}

}  // namespace

// Of both threads; lives as long as either.
struct Communicator::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::function<Status(Shared&)> work;  // what the communication thread should do next
  bool kept = false;                    // by a call of the transport that may never return
  bool done = false;                    // with the work; `status` is its result
  Status status;
  bool ended = false;
  std::atomic<bool> stopping{false};

  // Of the communication thread only.
  std::unique_ptr<Transport> transport;
  bool under_way = false;

  Status complete(const Round& round) {
    under_way = true;
    MARGINFC_TRY(transport->start(round));
    const auto start = steady_clock::now();
    for (bool complete = false; !complete;) {
      for (int i = 0; i < kBurst && !complete; i++) MARGINFC_TRY(transport->poll(&complete));
      if (complete) break;
      if (stopping) return Status::aborted();
      const auto waited = std::chrono::duration_cast<microseconds>(steady_clock::now() - start);
      if (waited < kSpin)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::clamp(waited / kPausesInWait, kShortestPause, kLongestPause));
    }
    under_way = false;
    return {};
  }
};

void Communicator::serve(const std::shared_ptr<Shared>& shared) {
  std::unique_lock<std::mutex> lock(shared->mutex);
  for (;;) {
    shared->changed.wait(lock, [&] { return shared->stopping || shared->work; });
    if (shared->stopping) break;
    const auto work = std::move(shared->work);
    shared->work = nullptr;
    lock.unlock();
    Status status;
    try {
      status = work(*shared);
    } catch (const std::bad_alloc&) {
      status = Status::failure(Code::out_of_memory, "not enough memory for a group's exchange");
    }
    lock.lock();
    shared->status = std::move(status);
    shared->done = true;
    shared->kept = false;
    shared->changed.notify_all();
  }
  lock.unlock();
  if (shared->under_way && shared->transport) shared->transport->abandon();
  shared->transport.reset();
  lock.lock();
  shared->ended = true;
  shared->changed.notify_all();
}

Communicator::Communicator(std::string name, Open open, double timeout)
    : name_(std::move(name)), open_(std::move(open)), timeout_(timeout), shared_(std::make_shared<Shared>()) {}

Communicator::~Communicator() { stop(); }

Communicator::Deadline Communicator::deadline() const {
  return steady_clock::now() +
         std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(timeout_));
}

void Communicator::cancel() {
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->stopping = true;
  }
  shared_->changed.notify_all();
}

void Communicator::stop() {
  if (!opened_ || stopped_) return;
  stopped_ = true;
  cancel();
  std::unique_lock<std::mutex> lock(shared_->mutex);
  shared_->changed.wait_for(lock, kToStop, [this] { return shared_->ended || shared_->kept; });
}

Status Communicator::perform(const char* name, Deadline deadline, Wait wait, std::function<Status(Shared&)> work) {
  Status status;
  {
    std::unique_lock<std::mutex> lock(shared_->mutex);
    shared_->done = false;
    shared_->kept = wait == Wait::unbounded;
    shared_->work = std::move(work);
    shared_->changed.notify_all();
    const bool decided = shared_->changed.wait_until(lock, deadline,
                                                     [this] { return shared_->done || shared_->stopping; });
    if (shared_->done)
      status = shared_->status;
    else if (decided)
      status = Status::aborted();
    else
      status = Status::failure(
          Code::group_timeout,
          std::string(name) +
              (size_ > 0 ? " on rank " + std::to_string(rank_) + " of " + std::to_string(size_) : std::string()) +
              " was not done after " + seconds_text(timeout_) +
              ": another rank has stopped or has not called it; this group cannot be used any more");
  }
  if (status.ok()) return status;
  broken_ = status;
  stop();
  return status;
}

Status Communicator::open() {
  pin_this_library();
  try {
    std::thread([shared = shared_] { serve(shared); }).detach();
  } catch (const std::system_error&) {
    return Status::failure(Code::out_of_memory, "the system has no thread left for a group's communication");
  }
  opened_ = true;
  // Copies: the communication thread may be kept for longer than this object lives.
  auto place = std::make_shared<std::pair<int32_t, int32_t>>();
  MARGINFC_TRY(perform(name_.c_str(), deadline(), Wait::unbounded, [open = open_, place](Shared& shared) -> Status {
    MARGINFC_TRY(open(&shared.transport));
    *place = {shared.transport->rank(), shared.transport->size()};
    return {};
  }));
  rank_ = place->first;
  size_ = place->second;
  return {};
}

Status Communicator::require(const char* name, Deadline deadline, size_t bytes, Memory* memory) {
  if (bytes <= memory->bytes) return {};
  size_t enough = std::max(kLeastMemory, memory->bytes);
  while (enough < bytes) enough *= 2;
  auto start = std::make_shared<void*>();
  MARGINFC_TRY(perform(name, deadline, Wait::bounded,
                       [start, enough](Shared& shared) { return shared.transport->allocate(enough, start.get()); }));
  *memory = {static_cast<char*>(*start), enough};
  return {};
}

Status Communicator::set_counts(const char* name, Deadline deadline, const std::vector<int32_t>& counts, Round* round) {
  const size_t bytes = counts.size() * sizeof(int32_t);
  MARGINFC_TRY(require(name, deadline, bytes, &counts_));
  std::memcpy(counts_.start, counts.data(), bytes);
  round->counts = reinterpret_cast<const int32_t*>(counts_.start);
  return {};
}

Status Communicator::run_round(const char* name, Deadline deadline, const Round& round) {
  return perform(name, deadline, Wait::bounded, [round](Shared& shared) { return shared.complete(round); });
}

Status Communicator::exchange(const char* name, Deadline deadline, const Announcement& own,
                              std::vector<Announcement>* ranks) {
  const size_t bytes = sizeof(Announcement);
  MARGINFC_TRY(require(name, deadline, bytes, &announcement_));
  MARGINFC_TRY(require(name, deadline, size_ * bytes, &announcements_));
  std::memcpy(announcement_.start, &own, bytes);
  Round round;
  round.kind = Round::Kind::all_gather;
  round.element = Element::uint8;
  MARGINFC_TRY(set_counts(name, deadline, std::vector<int32_t>(size_, static_cast<int32_t>(bytes)), &round));
  round.input = announcement_.start;
  round.output = announcements_.start;
  MARGINFC_TRY(run_round(name, deadline, round));
  ranks->resize(size_);
  std::memcpy(ranks->data(), announcements_.start, size_ * bytes);
  return {};
}

Status Communicator::run(const Collective& collective) {
  if (closed_) return Status::failure(Code::disposed, "the group has been closed");
  if (!broken_.ok()) return broken_;
  const Deadline end = deadline();
  const char* name = name_of(collective.kind);
  std::vector<Announcement> ranks;
  MARGINFC_TRY(exchange(name, end, announce(collective), &ranks));
  if (const int32_t gone = first_leaving(ranks); gone >= 0)
    return broken_ = Status::failure(Code::group, "rank " + std::to_string(gone) + " of " + std::to_string(size_) +
                                                      " has left the group: " + name + " on rank " +
                                                      std::to_string(rank_) + " cannot be done");
  MARGINFC_TRY(check_agreement(ranks));
  std::vector<int64_t> lengths;
  switch (collective.kind) {
    case Round::Kind::all_gather:
    case Round::Kind::reduce_scatter:
      for (const Announcement& each : ranks)
        lengths.push_back(collective.kind == Round::Kind::all_gather ? each.input_length : each.output_length);
      return run_parts(collective, end, lengths);
    case Round::Kind::all_reduce:
    case Round::Kind::broadcast: return run_values(collective, end);
    // The exchange was one.
    case Round::Kind::barrier: break;
  }
  return {};
}

Status Communicator::run_parts(const Collective& collective, Deadline deadline, const std::vector<int64_t>& lengths) {
  const bool gathers = collective.kind == Round::Kind::all_gather;
  const char* name = name_of(collective.kind);
  const size_t width = byte_size(collective.element);
  const int64_t most = static_cast<int64_t>(kLargestRound / width) / size_;  // of a part, in a round
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const int64_t own = lengths[rank_];
  for (int64_t start = 0; start < longest; start += most) {
    std::vector<int32_t> counts;
    int64_t total = 0;
    for (const int64_t length : lengths) {
      counts.push_back(static_cast<int32_t>(std::clamp<int64_t>(length - start, 0, most)));
      total += counts.back();
    }
    const size_t part_bytes = counts[rank_] * width;
    const size_t whole_bytes = total * width;
    MARGINFC_TRY(require(name, deadline, gathers ? part_bytes : whole_bytes, &input_));
    MARGINFC_TRY(require(name, deadline, gathers ? whole_bytes : part_bytes, &output_));
    Round round;
    round.kind = collective.kind;
    round.element = collective.element;
    MARGINFC_TRY(set_counts(name, deadline, counts, &round));
    round.input = input_.start;
    round.output = output_.start;

    // The slices of this round, one of each part, lie side by side in the transport's memory.
    const auto each_slice = [&](auto&& copy) {
      size_t part = 0, slice = 0;
      for (int32_t rank = 0; rank < size_; rank++) {
        if (counts[rank] > 0) copy((part + start) * width, slice * width, counts[rank] * width);
        part += lengths[rank];
        slice += counts[rank];
      }
    };
    const auto* input = static_cast<const char*>(collective.input);
    auto* output = static_cast<char*>(collective.output);
    if (!gathers)
      each_slice(
          [&](size_t whole, size_t slice, size_t bytes) { std::memcpy(input_.start + slice, input + whole, bytes); });
    else if (part_bytes > 0)
      std::memcpy(input_.start, input + start * width, part_bytes);
    MARGINFC_TRY(run_round(name, deadline, round));
    if (gathers)
      each_slice(
          [&](size_t whole, size_t slice, size_t bytes) { std::memcpy(output + whole, output_.start + slice, bytes); });
    else if (start < own)
      std::memcpy(output + start * width, output_.start, part_bytes);
  }
  return {};
}

Status Communicator::run_values(const Collective& collective, Deadline deadline) {
  const char* name = name_of(collective.kind);
  const size_t width = byte_size(collective.element);
  const auto most = static_cast<int64_t>(kLargestRound / width);
  const bool reads = collective.kind == Round::Kind::all_reduce || collective.root == rank_;
  const bool writes = collective.kind == Round::Kind::all_reduce || collective.root != rank_;
  auto* values = static_cast<char*>(collective.output);
  for (int64_t start = 0; start < collective.output_length; start += most) {
    const auto count = static_cast<int32_t>(std::min(most, collective.output_length - start));
    MARGINFC_TRY(require(name, deadline, count * width, &output_));
    Round round;
    round.kind = collective.kind;
    round.element = collective.element;
    round.reduction = collective.reduction;
    round.root = collective.root;
    MARGINFC_TRY(set_counts(name, deadline, {count}, &round));
    round.output = output_.start;
    if (reads) std::memcpy(output_.start, values + start * width, count * width);
    MARGINFC_TRY(run_round(name, deadline, round));
    if (writes) std::memcpy(values + start * width, output_.start, count * width);
  }
  return {};
}

Status Communicator::close() {
  if (closed_) return {};
  closed_ = true;
  // The transport of a call that was given up cannot be ended in order.
  if (!opened_ || stopped_) return {};
  const Deadline end = deadline();
  std::vector<Announcement> ranks;
  Announcement leaving;
  leaving.kind = kLeaving;
  if (broken_.ok()) MARGINFC_TRY(exchange("close", end, leaving, &ranks));
  const Status status = perform("close", end, Wait::unbounded, [](Shared& shared) {
    const Status left = shared.transport ? shared.transport->leave() : Status{};
    shared.transport.reset();
    return left;
  });
  stop();
  return status;
}

}  // namespace marginfc::group
