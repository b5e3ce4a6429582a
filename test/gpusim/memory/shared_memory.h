// A block's shared memory: the bytes, and for each of them who wrote and read it last. A cell stands for a 4-byte word
// until an access of one or two bytes splits it into four, so that neighbours in a word are told apart.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "machine/vector_clock.h"

namespace gpusim {

enum class SharedProblem { none, bounds, unwritten, in_flight, held, barrier_object, race_with_write, race_with_read };

/// Who accesses: the agent's clock, and the stamp it leaves.
struct Accessor {
  const VectorClock* clock;
  Stamp stamp;
};

/// memcpy of 1, 2, 4, 8 or 16 bytes without a call; of any other number with one.
inline void copy_small(void* to, const void* from, uint32_t bytes) {
  switch (bytes) {
    case 1: std::memcpy(to, from, 1); break;
    case 2: std::memcpy(to, from, 2); break;
    case 4: std::memcpy(to, from, 4); break;
    case 8: std::memcpy(to, from, 8); break;
    case 16: std::memcpy(to, from, 16); break;
    default: std::memcpy(to, from, bytes); break;
  }
}

class SharedMemory {
 public:
  void reset(uint32_t bytes, bool checks);
  uint32_t size() const { return size_; }
  uint8_t* data() { return data_.data(); }

  // Each returns the first problem of [offset, offset + bytes), and otherwise records the access.
  SharedProblem read(uint32_t offset, uint32_t bytes, const Accessor& by) {
    if (offset > size_ || bytes > size_ - offset) return SharedProblem::bounds;
    if (!checks_) return SharedProblem::none;
    if (((offset | bytes) & 3) != 0) return read_bytes(offset, bytes, by);
    const uint32_t end = (offset + bytes) >> 2;
    for (uint32_t word = offset >> 2; word < end; word++) {
      if (!ordered(writer_[word], *by.clock)) {
        const SharedProblem problem = read_slowly(word, by);
        if (problem != SharedProblem::none) return problem;
        continue;
      }
      note_reader(word, by.stamp);
    }
    return SharedProblem::none;
  }
  SharedProblem write(uint32_t offset, uint32_t bytes, const void* value, const Accessor& by) {
    if (offset > size_ || bytes > size_ - offset) return SharedProblem::bounds;
    if (checks_) {
      if (((offset | bytes) & 3) != 0) {
        const SharedProblem problem = write_bytes(offset, bytes, value, by);
        if (problem != SharedProblem::none) return problem;
      } else {
        const uint32_t end = (offset + bytes) >> 2;
        for (uint32_t word = offset >> 2; word < end; word++) {
          if (holds_ != 0 || !ordered(writer_[word], *by.clock) || !ordered(reader_[word], *by.clock) ||
              !ordered(other_reader_[word], *by.clock)) {
            const auto* bytes_of = static_cast<const uint8_t*>(value) + (word * 4 - offset);
            const SharedProblem problem = write_slowly(word, bytes_of, by);
            if (problem != SharedProblem::none) return problem;
            continue;
          }
          writer_[word] = by.stamp;
        }
      }
    }
    copy_small(&data_[offset], value, bytes);
    return SharedProblem::none;
  }
  /// Before an atomic operation on 2, 4 or 8 bytes: atomics do not race with each other.
  SharedProblem atomic(uint32_t offset, uint32_t bytes, const Accessor& by);

  /// The destination of an asynchronous copy: as a write, and nobody may touch it until `land`.
  SharedProblem launch_write(uint32_t offset, uint32_t bytes, const Accessor& by);
  /// The copy is complete: its bytes count as written at `stamp`.
  void land(uint32_t offset, uint32_t bytes, const void* value, Stamp stamp);

  /// Sources of asynchronous operations may not be written until released.
  void hold(uint32_t offset, uint32_t bytes, int change);

  SharedProblem make_barrier_object(uint32_t offset, const Accessor& by);
  void drop_barrier_object(uint32_t offset, Stamp stamp);

 private:
  struct Bytes {
    Stamp writer[4], reader[4], other_reader[4];
  };
  void note_reader(uint32_t word, Stamp stamp) {
    const Stamp last = reader_[word];
    if (last == stamp) return;
    // The last reader of another agent is kept too: it is the one that a writer most likely races with.
    if (((last ^ stamp) & 63) != 0) other_reader_[word] = last;
    reader_[word] = stamp;
  }
  SharedProblem classify(Stamp writer) const;
  SharedProblem read_slowly(uint32_t word, const Accessor& by);
  SharedProblem write_slowly(uint32_t word, const uint8_t* value, const Accessor& by);
  SharedProblem read_bytes(uint32_t offset, uint32_t bytes, const Accessor& by);
  SharedProblem write_bytes(uint32_t offset, uint32_t bytes, const void* value, const Accessor& by);
  SharedProblem write_byte(uint32_t offset, uint8_t value, const Accessor& by);
  Bytes& split(uint32_t word);
  void set_words(uint32_t offset, uint32_t bytes, Stamp writer);

  uint32_t size_ = 0;
  bool checks_ = true;
  int holds_ = 0;
  std::vector<uint8_t> data_;
  std::vector<Stamp> writer_, reader_, other_reader_;
  std::vector<uint16_t> held_;  // how many asynchronous operations still read this word
  std::vector<Bytes> split_;
};

const char* describe(SharedProblem problem);

}  // namespace gpusim
