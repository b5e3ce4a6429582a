#include "cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace marginfc {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
// Below this a block comes from malloc; above, from mmap, which gives zero pages.
constexpr size_t kMapFrom = kHugePage;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

size_t byte_size(size_t floats) { return floats * sizeof(float); }

void* map_huge(size_t bytes) {
  // mmap aligns to 4 KiB only: take one huge page more and give the ends back.
  const size_t padded = bytes + kHugePage;
  void* raw = mmap(nullptr, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const auto start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = round_up(start, kHugePage);
  if (aligned > start) munmap(raw, aligned - start);
  const uintptr_t end = aligned + bytes;
  if (start + padded > end) munmap(reinterpret_cast<void*>(end), start + padded - end);
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);  // advice only: failure costs speed
  return reinterpret_cast<void*>(aligned);
}

}  // namespace

FloatBuffer::~FloatBuffer() { release(); }

void FloatBuffer::release() {
  if (!data_) return;
  const size_t bytes = byte_size(size_);
  if (bytes >= kMapFrom)
    munmap(data_, round_up(bytes, kHugePage));
  else
    std::free(data_);
  data_ = nullptr;
  size_ = 0;
}

bool FloatBuffer::allocate(size_t size) {
  if (data_ && size_ == size) return true;
  release();
  if (size == 0) size = 1;
  if (size > SIZE_MAX / sizeof(float) / 2) return false;
  const size_t bytes = byte_size(size);
  if (bytes >= kMapFrom) {
    data_ = static_cast<float*>(map_huge(round_up(bytes, kHugePage)));
  } else {
    data_ = static_cast<float*>(std::aligned_alloc(kAlignment, round_up(bytes, kAlignment)));
    if (data_) std::memset(data_, 0, bytes);
  }
  size_ = data_ ? size : 0;
  return data_ != nullptr;
}

}  // namespace marginfc
