// A communicator as nccl.h has it: collectives are put into streams and computed by a thread of the communicator's own once
// the streams have come to them; the streams wait for that thread, as they would for NCCL's kernels. As with the software
// device, everything happens at the latest legal moment: a non-blocking communicator puts nothing into a stream before it
// has been asked twice how far it is, operands are read when the stream comes to them and results written when it goes on.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nccl/clique.h"
#include "nccl/driver.h"

namespace gpusim::nccl {

/// One call.
struct Call {
  Request request;
  DevicePointer send = 0, receive = 0;
  Stream* stream = nullptr;
};

struct Communicator {
 public:
  /// Of the calling thread's device, which must be retained by the caller.
  Communicator(const UniqueId& id, int rank, int size, int device, Context* context, bool blocking);
  ~Communicator();

  bool blocking() const { return blocking_; }
  int rank() const { return clique_.rank(); }
  int size() const { return clique_.size(); }

  /// in_progress while a non-blocking call or the start is not complete; errors stay.
  Result state();
  /// As state(), but counts as asking: what was submitted goes into its streams at the second time.
  Result ask();
  Result submit(std::vector<Call> calls);
  /// Everything done, and all ranks here.
  Result finalize();
  /// Waits until nothing is under way.
  Result settle();
  void abort();
  std::string error();

 private:
  /// A call that is in its stream.
  struct Launched {
    Call call;
    uint32_t number;  // the gate opens for its stream when it reaches this
    void *send = nullptr, *receive = nullptr;
    size_t send_bytes = 0, receive_bytes = 0;
    Event* ready = nullptr;  // the operand has been read
  };

  Result fail(Result result, const std::string& why);
  Result launch_pending();
  Result launch(const Call& call);
  Result check(DevicePointer pointer, size_t bytes, const char* name);
  void serve();
  void compute(Launched& launched);
  void open_gate(uint32_t number);

  Clique clique_;
  const int device_;
  Context* const context_;
  const bool blocking_;
  uint32_t* gate_ = nullptr;  // pinned

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  Result state_ = in_progress;     // guarded by mutex_
  std::string error_;              // guarded by mutex_
  std::vector<Call> pending_;      // submitted, not in a stream; guarded by mutex_
  bool asked_ = false;             // guarded by mutex_
  std::deque<Launched> launched_;  // guarded by mutex_
  bool busy_ = true;               // the thread is at something; guarded by mutex_
  bool leaving_ = false;           // guarded by mutex_
  bool left_ = false;              // guarded by mutex_
  std::atomic<bool> stopped_{false};
  uint32_t number_ = 0;
  std::vector<Launched> computed_;  // their memory may be in use until a stream comes to a later call
  std::thread thread_;
};

}  // namespace gpusim::nccl
