#include "memory/shared_memory.h"

namespace gpusim {
namespace {

/// Bytes of shared memory that nobody wrote hold a NaN of every width, so that using them shows.
constexpr uint8_t kPoison = 0xff;

}  // namespace

const char* describe(SharedProblem problem) {
  switch (problem) {
    case SharedProblem::none: return "no problem";
    case SharedProblem::bounds: return "is outside shared memory";
    case SharedProblem::unwritten: return "reads shared memory that nobody wrote";
    case SharedProblem::in_flight: return "touches the destination of an asynchronous copy before it was waited for";
    case SharedProblem::held: return "writes shared memory that an asynchronous operation still reads";
    case SharedProblem::barrier_object: return "touches an mbarrier object as if it were ordinary memory";
    case SharedProblem::race_with_write: return "races with a write of another warp";
    case SharedProblem::race_with_read: return "races with a read of another warp";
  }
  return "";
}

void SharedMemory::reset(uint32_t bytes, bool checks) {
  size_ = bytes;
  checks_ = checks;
  holds_ = 0;
  const size_t words = (size_t{bytes} + 3) / 4;
  data_.assign(words * 4 + 16, kPoison);
  if (!checks) return;
  writer_.assign(words, kUnwritten);
  reader_.assign(words, 0);
  other_reader_.assign(words, 0);
  held_.assign(words, 0);
  split_.clear();
}

SharedProblem SharedMemory::classify(Stamp writer) const {
  if (writer == kUnwritten) return SharedProblem::unwritten;
  if (writer == kInFlight) return SharedProblem::in_flight;
  if (writer == kBarrierObject) return SharedProblem::barrier_object;
  return SharedProblem::race_with_write;
}

SharedMemory::Bytes& SharedMemory::split(uint32_t word) {
  if (agent_of(writer_[word]) != kSplitAgent) {
    Bytes bytes;
    for (int i = 0; i < 4; i++) {
      bytes.writer[i] = writer_[word];
      bytes.reader[i] = reader_[word];
      bytes.other_reader[i] = other_reader_[word];
    }
    writer_[word] = make_stamp(kSplitAgent, static_cast<uint32_t>(split_.size()) + 1);
    split_.push_back(bytes);
  }
  return split_[count_of(writer_[word]) - 1];
}

SharedProblem SharedMemory::read_slowly(uint32_t word, const Accessor& by) {
  const Stamp writer = writer_[word];
  if (agent_of(writer) == kSplitAgent && writer < kAtomicFlag && writer != kUnwritten)
    return read_bytes(word * 4, 4, by);
  if ((writer & kAtomicFlag) != 0 && ordered(writer & ~kAtomicFlag, *by.clock)) {
    note_reader(word, by.stamp);
    return SharedProblem::none;
  }
  return classify(writer);
}

SharedProblem SharedMemory::read_bytes(uint32_t offset, uint32_t bytes, const Accessor& by) {
  for (uint32_t at = offset; at < offset + bytes; at++) {
    Bytes& cells = split(at >> 2);
    const uint32_t i = at & 3;
    if (!ordered(cells.writer[i] & ~kAtomicFlag, *by.clock)) return classify(cells.writer[i]);
    if (((cells.reader[i] ^ by.stamp) & 63) != 0) cells.other_reader[i] = cells.reader[i];
    cells.reader[i] = by.stamp;
  }
  return SharedProblem::none;
}

SharedProblem SharedMemory::write_slowly(uint32_t word, const uint8_t* value, const Accessor& by) {
  if (held_[word] != 0) return SharedProblem::held;
  const Stamp writer = writer_[word];
  if (agent_of(writer) == kSplitAgent && writer < kAtomicFlag) {
    for (uint32_t i = 0; i < 4; i++) {
      const SharedProblem problem = write_byte(word * 4 + i, value[i], by);
      if (problem != SharedProblem::none) return problem;
    }
    return SharedProblem::none;
  }
  if (writer == kInFlight || writer == kBarrierObject) return classify(writer);
  // Equal values written by two warps are benign: compilers emit them.
  if (writer != kUnwritten && !ordered(writer & ~kAtomicFlag, *by.clock) &&
      std::memcmp(&data_[word * 4], value, 4) != 0)
    return SharedProblem::race_with_write;
  if (!ordered(reader_[word], *by.clock) || !ordered(other_reader_[word], *by.clock))
    return std::memcmp(&data_[word * 4], value, 4) == 0 ? SharedProblem::none : SharedProblem::race_with_read;
  writer_[word] = by.stamp;
  return SharedProblem::none;
}

SharedProblem SharedMemory::write_bytes(uint32_t offset, uint32_t bytes, const void* value, const Accessor& by) {
  for (uint32_t i = 0; i < bytes; i++) {
    const SharedProblem problem = write_byte(offset + i, static_cast<const uint8_t*>(value)[i], by);
    if (problem != SharedProblem::none) return problem;
  }
  return SharedProblem::none;
}

SharedProblem SharedMemory::write_byte(uint32_t offset, uint8_t value, const Accessor& by) {
  if (held_[offset >> 2] != 0) return SharedProblem::held;
  Bytes& cells = split(offset >> 2);
  const uint32_t i = offset & 3;
  const Stamp writer = cells.writer[i];
  if (writer == kInFlight || writer == kBarrierObject) return classify(writer);
  const bool same = data_[offset] == value;
  if (writer != kUnwritten && !ordered(writer & ~kAtomicFlag, *by.clock) && !same)
    return SharedProblem::race_with_write;
  if ((!ordered(cells.reader[i], *by.clock) || !ordered(cells.other_reader[i], *by.clock)) && !same)
    return SharedProblem::race_with_read;
  cells.writer[i] = by.stamp;
  return SharedProblem::none;
}

SharedProblem SharedMemory::atomic(uint32_t offset, uint32_t bytes, const Accessor& by) {
  if (offset > size_ || bytes > size_ - offset) return SharedProblem::bounds;
  if (!checks_) return SharedProblem::none;
  for (uint32_t word = offset >> 2; word < (offset + bytes + 3) >> 2; word++) {
    if (agent_of(writer_[word]) == kSplitAgent && writer_[word] < kAtomicFlag && writer_[word] != kUnwritten) {
      const SharedProblem problem = read_bytes(word * 4, 4, by);
      if (problem != SharedProblem::none) return problem;
    } else if ((writer_[word] & kAtomicFlag) == 0) {
      if (!ordered(writer_[word], *by.clock)) return classify(writer_[word]);
      if (!ordered(reader_[word], *by.clock)) return SharedProblem::race_with_read;
    }
    if (held_[word] != 0) return SharedProblem::held;
    writer_[word] = by.stamp | kAtomicFlag;
    note_reader(word, by.stamp);  // so that a later plain write finds every warp's atomics, not only the last
  }
  return SharedProblem::none;
}

SharedProblem SharedMemory::launch_write(uint32_t offset, uint32_t bytes, const Accessor& by) {
  if (offset > size_ || bytes > size_ - offset) return SharedProblem::bounds;
  if (!checks_) return SharedProblem::none;
  for (uint32_t word = offset >> 2; word < (offset + bytes + 3) >> 2; word++) {
    if (held_[word] != 0) return SharedProblem::held;
    Stamp writer = writer_[word];
    if (agent_of(writer) == kSplitAgent && writer != kUnwritten) {
      const Bytes& cells = split(word);
      writer = 0;
      for (int i = 0; i < 4; i++) {
        if (cells.writer[i] != kUnwritten && !ordered(cells.writer[i] & ~kAtomicFlag, *by.clock))
          return classify(cells.writer[i]);
        if (!ordered(cells.reader[i], *by.clock)) return SharedProblem::race_with_read;
      }
    }
    if (writer == kInFlight) return SharedProblem::in_flight;
    if (writer != kUnwritten && !ordered(writer & ~kAtomicFlag, *by.clock)) return classify(writer);
    if (!ordered(reader_[word], *by.clock) || !ordered(other_reader_[word], *by.clock))
      return SharedProblem::race_with_read;
    writer_[word] = kInFlight;
  }
  std::memset(&data_[offset], kPoison, bytes);
  return SharedProblem::none;
}

void SharedMemory::land(uint32_t offset, uint32_t bytes, const void* value, Stamp stamp) {
  std::memcpy(&data_[offset], value, bytes);
  if (checks_) set_words(offset, bytes, stamp);
}

void SharedMemory::set_words(uint32_t offset, uint32_t bytes, Stamp writer) {
  for (uint32_t word = offset >> 2; word < (offset + bytes + 3) >> 2; word++) {
    writer_[word] = writer;
    reader_[word] = other_reader_[word] = 0;
  }
}

void SharedMemory::hold(uint32_t offset, uint32_t bytes, int change) {
  if (!checks_ || offset > size_ || bytes > size_ - offset) return;
  holds_ += change;
  for (uint32_t word = offset >> 2; word < (offset + bytes + 3) >> 2; word++)
    held_[word] = static_cast<uint16_t>(held_[word] + change);
}

SharedProblem SharedMemory::make_barrier_object(uint32_t offset, const Accessor& by) {
  const uint64_t zero = 0;
  const SharedProblem problem = write(offset, 8, &zero, by);
  if (problem == SharedProblem::none && checks_) set_words(offset, 8, kBarrierObject);
  return problem;
}

void SharedMemory::drop_barrier_object(uint32_t offset, Stamp stamp) {
  if (checks_) set_words(offset, 8, stamp);
}

}  // namespace gpusim
