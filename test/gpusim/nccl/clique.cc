#include "nccl/clique.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <thread>

namespace gpusim::nccl {
namespace {

constexpr char kPrefix[] = "/gpusim-nccl-";

}  // namespace

// Zero, as fresh shared memory is, means that nothing has happened.
struct Clique::Member {
  std::atomic<uint32_t> claimed;  // by a rank
  std::atomic<uint32_t> present;  // what follows is set
  std::atomic<uint32_t> posted;   // steps
  std::atomic<uint32_t> taken;    // steps whose pieces this rank has read
  int32_t device;
  Request request;
  alignas(64) uint8_t piece[kPieceBytes];
};

struct Clique::Shared {
  std::atomic<uint32_t> size;
  Member members[kMostRanks];
};

bool operator==(const Request& a, const Request& b) {
  return a.kind == b.kind && a.type == b.type && a.operation == b.operation && a.root == b.root && a.count == b.count;
}

UniqueId Clique::make_id() {
  uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number) number = static_cast<uint64_t>(getpid());
  UniqueId id{};
  std::snprintf(id.internal, sizeof id.internal, "%s%016llx", kPrefix, static_cast<unsigned long long>(number));
  return id;
}

Clique::Clique(const UniqueId& id, int rank, int size, int device)
    : name_(id.internal, strnlen(id.internal, sizeof id.internal)), rank_(rank), size_(size), device_(device) {}

Clique::~Clique() {
  if (shared_ == nullptr) return;
  munmap(shared_, sizeof(Shared));
  // All have it open by now, or somebody never came.
  if (rank_ == 0) shm_unlink(name_.c_str());
}

Result Clique::fail(Result result, const std::string& why) {
  error_ = why;
  return result;
}

Result Clique::join() {
  if (name_.compare(0, sizeof kPrefix - 1, kPrefix) != 0) return fail(invalid_argument, "the unique id is not one");
  const int file = shm_open(name_.c_str(), O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return fail(system_error, "no shared memory");
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) return fail(system_error, "no shared memory");
  shared_ = static_cast<Shared*>(memory);

  uint32_t none = 0;
  const auto size = static_cast<uint32_t>(size_);
  if (!shared_->size.compare_exchange_strong(none, size) && none != size)
    return fail(invalid_argument, "ranks disagree about their number");
  Member& self = shared_->members[rank_];
  if (self.claimed.exchange(1) != 0) return fail(invalid_usage, "rank " + std::to_string(rank_) + " is there already");
  self.device = device_;
  self.present = 1;
  if (!wait([this] { return all(&Member::present, 1); })) return in_progress;
  for (int other = 0; other < size_; other++)
    if (other != rank_ && shared_->members[other].device == device_)
      return fail(invalid_usage, "duplicate GPU detected: ranks " + std::to_string(rank_) + " and " +
                                     std::to_string(other) + " both on device " + std::to_string(device_));
  return success;
}

bool Clique::wait(const std::function<bool()>& ready) const {
  for (int tries = 0; !ready(); tries++) {
    if (stopped_) return false;
    if (tries < 100)
      std::this_thread::yield();
    else
      usleep(50);
  }
  return true;
}

bool Clique::all(std::atomic<uint32_t> Member::* number, uint32_t least) const {
  for (int rank = 0; rank < size_; rank++)
    if ((shared_->members[rank].*number).load(std::memory_order_acquire) < least) return false;
  return true;
}

Result Clique::step(const Request& request, const void* piece, size_t bytes, const std::function<void()>& read) {
  Member& self = shared_->members[rank_];
  // This rank's last piece may still be read.
  if (!wait([this] { return all(&Member::taken, steps_); })) return in_progress;
  self.request = request;
  if (bytes > 0) std::memcpy(self.piece, piece, bytes);
  steps_++;
  self.posted.store(steps_, std::memory_order_release);
  if (!wait([this] { return all(&Member::posted, steps_); })) return in_progress;
  for (int rank = 0; rank < size_; rank++)
    if (!(shared_->members[rank].request == request))
      return fail(invalid_usage,
                  "ranks " + std::to_string(rank_) + " and " + std::to_string(rank) + " ask for different collectives");
  read();
  self.taken.store(steps_, std::memory_order_release);
  return success;
}

const uint8_t* Clique::piece(int rank) const { return shared_->members[rank].piece; }

}  // namespace gpusim::nccl
