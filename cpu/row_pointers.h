// Pointers into rows that a loop reads or writes side by side. Included by cpu/kernels.cc only, inside its anonymous namespace.

#if defined(__x86_64__)
// One pointer for three rows: the two others are one and two strides away, which addresses can hold. Opaque, or the compiler makes
// a pointer of each row, of which some are read from the stack in every step.
constexpr int kRowsPerPointer = 3;
template <typename Pointer>
MARGINFC_INLINE void opaque(Pointer& pointer) {
  asm("" : "+r"(pointer));
}
#else
// There are registers for all rows.
constexpr int kRowsPerPointer = 1;
template <typename Pointer>
MARGINFC_INLINE void opaque(Pointer&) {}
#endif

// H rows that lie `stride` bytes apart, of which all are read or written at a place that moves along them.
template <int H, typename Byte>
class RowPointers {
 public:
  template <typename Float>
  MARGINFC_INLINE RowPointers(Float* first, int64_t stride) : stride_(stride) {
#pragma GCC unroll 8
    for (int p = 0; p < kCount; p++) pointers_[p] = reinterpret_cast<Byte*>(first) + kRowsPerPointer * p * stride;
  }
  MARGINFC_INLINE void hide() {
#pragma GCC unroll 8
    for (int p = 0; p < kCount; p++) opaque(pointers_[p]);
  }
  MARGINFC_INLINE void advance(int64_t bytes) {
#pragma GCC unroll 8
    for (int p = 0; p < kCount; p++) pointers_[p] += bytes;
  }
  MARGINFC_INLINE Byte* operator[](int h) const {
    return pointers_[h / kRowsPerPointer] + h % kRowsPerPointer * stride_;
  }

 private:
  static constexpr int kCount = (H + kRowsPerPointer - 1) / kRowsPerPointer;
  const int64_t stride_;
  Byte* pointers_[kCount];
};
