// Collectives on arrays of any length over a transport, one at a time, each with a deadline.
//
// Two threads: the caller's waits, and copies between the caller's arrays and the transport's memory; the
// communication thread makes every call of the transport, and touches nothing else. So whoever waits can give up at any
// moment, after which nothing ever writes to the caller's arrays, and a transport that does not return from a call keeps
// nobody but its own thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "group/collective.h"

namespace marginfc::group {

class Communicator {
 public:
  using Open = std::function<Status(std::unique_ptr<Transport>*)>;

  // `name` of the transport, for messages. A call that is not done after `timeout` seconds fails with Code::group_timeout.
  Communicator(std::string name, Open open, double timeout);
  // Leaves a group that was not closed as it is: its other ranks find out by their deadline, or from their launcher.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // The first call; returns when every rank has made it. open(), run() and close() are for one thread at a time.
  Status open();
  int32_t rank() const { return rank_; }
  int32_t size() const { return size_; }

  // Runs a collective when every rank asks for the same; else fails on every rank. After a failure of the transport, a
  // deadline that passed or a rank that has left, every later call fails likewise, at once.
  Status run(const Collective& collective);

  // Leaves the group, when every rank does or with those that remain told so by their next call.
  Status close();

  // Makes the call under way, and every later one, return soon. From any thread.
  void cancel();

 private:
  struct Shared;
  using Deadline = std::chrono::steady_clock::time_point;
  enum class Wait { bounded, unbounded };  // whether the transport may keep the communication thread

  static void serve(const std::shared_ptr<Shared>& shared);
  Deadline deadline() const;
  // Has the communication thread do `work`, a part of the call `name`.
  Status perform(const char* name, Deadline deadline, Wait wait, std::function<Status(Shared&)> work);
  Status run_round(const char* name, Deadline deadline, const Round& round);
  // Tells every rank of this one's call, and learns of theirs.
  Status exchange(const char* name, Deadline deadline, const Announcement& own, std::vector<Announcement>* ranks);
  // The transport's, which frees it when nothing can write to it any more.
  struct Memory {
    char* start = nullptr;
    size_t bytes = 0;
  };
  Status require(const char* name, Deadline deadline, size_t bytes, Memory* memory);
  Status set_counts(const char* name, Deadline deadline, const std::vector<int32_t>& counts, Round* round);
  // all_gather and reduce_scatter, with the length of each rank's part.
  Status run_parts(const Collective& collective, Deadline deadline, const std::vector<int64_t>& lengths);
  // all_reduce and broadcast.
  Status run_values(const Collective& collective, Deadline deadline);
  // Ends the communication thread, and waits for that unless the transport keeps it.
  void stop();

  const std::string name_;
  const Open open_;
  const double timeout_;
  const std::shared_ptr<Shared> shared_;
  int32_t rank_ = 0, size_ = 0;  // known once open
  Memory input_, output_, counts_, announcement_, announcements_;
  Status broken_;  // what every later call returns
  bool opened_ = false, stopped_ = false, closed_ = false;
};

}  // namespace marginfc::group
