// Aligned memory for operands, workspaces and owned weights. Large blocks come straight from the system on
// huge pages: page faults on fresh 4 KiB pages cost more than most kernel details.
#pragma once

#include <cstddef>
#include <utility>

namespace marginfc {

// Movable owner of `size()` floats, 64-byte aligned, zero at first. Not an std::vector: a failed allocation
// is a value, and large zero blocks cost no pass over them.
class FloatBuffer {
 public:
  FloatBuffer() = default;
  FloatBuffer(FloatBuffer&& other) noexcept { swap(other); }
  FloatBuffer& operator=(FloatBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  FloatBuffer(const FloatBuffer&) = delete;
  FloatBuffer& operator=(const FloatBuffer&) = delete;
  ~FloatBuffer();

  // Zeros; drops the old contents. False when there is not enough memory. Does nothing when it has this size already.
  [[nodiscard]] bool allocate(size_t size);

  float* data() { return data_; }
  const float* data() const { return data_; }
  size_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }
  void release();

 private:
  void swap(FloatBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  float* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace marginfc
