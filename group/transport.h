// How processes talk. Start reading here.
//
// A head's classes may be shared between processes, which exchange features, labels, row sums and gradients through
// collectives: every process ("rank") calls the same ones in the same order. A Transport does one at a time, over an
// existing engine: MPI (group/mpi.h) or NCCL (group/nccl.h). What it need not do is done above it, by
// group/communicator.h: the caller's arrays are copied through memory of the transport's own, long ones in rounds;
// ranks agree on lengths and types before each collective; calls queue; deadlines are kept.
//
//   transport     this contract
//   communicator  collectives on arrays of any length, over a transport, with a deadline
//   mpi           the transport of processes that mpirun started; mpi_shim is the one file that sees mpi.h
//   nccl          the transport of processes with a GPU each; nccl_library has NCCL's entry points
//
// All calls of a Transport, from the function that opens it to leave(), come from one thread, which has nothing else to
// do. Opening and leave() may block until every rank does the same; start() and poll() never block: a rank that does not
// answer must not hold up another's deadline. Those who wait for that thread give up on their own, so a call that never
// returns costs the thread, not the process. No exception leaves these functions.
//
// group/ may include engine/status.h and the system, nothing else; nccl_library.h also cuda/driver.h, since NCCL works in
// the memory and the streams of that driver.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/status.h"

namespace marginfc::group {

enum class Element { float32, float64, int32, uint8 };
inline size_t byte_size(Element element) {
  switch (element) {
    case Element::float64: return 8;
    case Element::float32:
    case Element::int32: return 4;
    case Element::uint8: break;
  }
  return 1;
}

enum class Reduction { sum, max };

// A transport is asked for no more at once (of the whole of all ranks): counts fit in an int.
constexpr size_t kLargestRound = size_t{1} << 25;

// One collective. Its ranks have the same kind, element, reduction, root and counts. `input` and `output` lie in memory of
// Transport::allocate() and are the transport's from start() until poll() says done.
struct Round {
  enum class Kind { all_gather, all_reduce, reduce_scatter, broadcast, barrier };
  Kind kind = Kind::barrier;
  Element element = Element::float32;
  Reduction reduction = Reduction::sum;  // all_reduce, reduce_scatter
  int32_t root = 0;                      // broadcast
  // all_gather, reduce_scatter: [size], elements of each rank's part, may be 0. all_reduce, broadcast: [1]. barrier: null.
  // Valid as long as input and output.
  const int32_t* counts = nullptr;
  const void* input = nullptr;  // all_gather: this rank's part. reduce_scatter: the whole, parts in the order of ranks
  void* output = nullptr;  // all_gather: the whole. reduce_scatter: this rank's part. all_reduce, broadcast: in place
};

class Transport {
 public:
  // Frees everything that was allocated, unless a collective was abandoned: what may still be written is never freed.
  virtual ~Transport() = default;

  virtual int32_t rank() const = 0;
  virtual int32_t size() const = 0;

  // Host memory in which collectives are quick, such as pinned memory; lives as long as the transport.
  virtual Status allocate(size_t bytes, void** memory) = 0;

  // Begins a collective; none may be under way. A failure is final: the transport is abandoned.
  virtual Status start(const Round& round) = 0;
  // Moves the collective on, and says whether it is complete on this rank. Cheap enough to be called in a loop. A failure
  // is final.
  virtual Status poll(bool* done) = 0;
  // A collective under way will not be waited for, and nothing else follows but the destructor.
  virtual void abandon() = 0;

  // Ends the use of the engine in order, with nothing under way; nothing but the destructor follows.
  virtual Status leave() = 0;
};

}  // namespace marginfc::group
