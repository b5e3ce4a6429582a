// Ranks of one communicator, in several processes or in threads of one, in POSIX shared memory that is named by the unique
// id. Everything is a step: each rank posts what it wants and a piece of its operand, waits until all have, and reads the
// others' pieces. A rank that died or stopped leaves the others waiting, until they are told to stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "nccl/api.h"

namespace gpusim::nccl {

constexpr int kMostRanks = 16;
constexpr size_t kPieceBytes = 64 << 10;

/// What must be the same on all ranks.
struct Request {
  enum class Kind : int32_t { leave, all_reduce, all_gather, reduce_scatter, broadcast, reduce };
  Kind kind = Kind::leave;
  Type type = Type::uint8;
  Operation operation = Operation::sum;
  int32_t root = 0;
  uint64_t count = 0;
};
bool operator==(const Request& a, const Request& b);

class Clique {
 public:
  static UniqueId make_id();

  Clique(const UniqueId& id, int rank, int size, int device);
  ~Clique();
  Clique(const Clique&) = delete;
  Clique& operator=(const Clique&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// Waits for all ranks.
  Result join();
  /// Posts `bytes` of `piece`; `read` is called when all ranks have posted.
  Result step(const Request& request, const void* piece, size_t bytes, const std::function<void()>& read);
  /// What rank posted; in `read`.
  const uint8_t* piece(int rank) const;
  /// Makes all waiting, now and later, end with in_progress.
  void stop() { stopped_ = true; }
  const std::string& error() const { return error_; }

 private:
  struct Member;
  struct Shared;

  bool wait(const std::function<bool()>& ready) const;
  bool all(std::atomic<uint32_t> Member::* number, uint32_t least) const;
  Result fail(Result result, const std::string& why);

  const std::string name_;
  const int rank_, size_, device_;
  Shared* shared_ = nullptr;
  uint32_t steps_ = 0;
  std::atomic<bool> stopped_{false};
  std::string error_;
};

}  // namespace gpusim::nccl
