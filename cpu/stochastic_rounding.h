// Rounding of float32 to bfloat16 by chance: up with a probability that is the part of the step between the two neighbours
// that was cut off, so that the mean is the float32 itself and updates smaller than half a step are not lost. Included by
// cpu/kernels.cc only, inside its anonymous namespace.
//
// A random 16-bit number is added to the 16 bits that are cut off, and its carry rounds the magnitude up. Philox (engine/random.h)
// gives eight such numbers a counter; column c takes number c / 16 % 8, the low half of a word first, of counter
// 16 * (c / 128) + c % 16, so that vectors of up to 16 lanes draw for neighbouring columns.

constexpr int kDrawn = 16, kGroup = 8 * kDrawn;

typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint32_t UnalignedWords __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint64_t DoubleWords __attribute__((vector_size(kLanes * 4)));

// Products of the even words, which are the low halves of double words.
MARGINFC_INLINE DoubleWords multiply_even(DoubleWords a, DoubleWords b) {
#if defined(__AVX512F__)
  return reinterpret_cast<DoubleWords>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<DoubleWords>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<DoubleWords>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// Low and high words of factor * a.
MARGINFC_INLINE void multiply(uint32_t factor, Words a, Words* low, Words* high) {
  constexpr uint64_t kLow = 0xffffffffu;
  const DoubleWords f = DoubleWords{} + factor, words = reinterpret_cast<DoubleWords>(a);
  const DoubleWords even = multiply_even(words, f), odd = multiply_even(words >> 32, f);
  *low = reinterpret_cast<Words>((even & kLow) | (odd << 32));
  *high = reinterpret_cast<Words>((even >> 32) | (odd & ~kLow));
}

// engine/random.h's philox in every lane; counters in `c`, and the random words.
MARGINFC_INLINE void philox(uint64_t key, Words (&c)[4]) {
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; round++) {
    Words low0, high0, low1, high1;
    multiply(0xD2511F53u, c[0], &low0, &high0);
    multiply(0xCD9E8D57u, c[2], &low1, &high1);
    c[0] = high1 ^ c[1] ^ k0;
    c[2] = high0 ^ c[3] ^ k1;
    c[1] = low1;
    c[3] = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// A NaN stays one: with the number added it could look like another.
MARGINFC_INLINE uint32_t to_bfloat16(float x, uint32_t random) {
  const uint32_t rounded = (bits_of(x) + random) >> 16;
  return x != x ? 0x7fc0u : rounded;
}

// Columns first .. first + count - 1 of a class, `first` at a multiple of kGroup.
void round_stochastically(const float* from, int32_t first, int32_t count, const RoundingDraw& draw, uint16_t* to) {
  static_assert(kDrawn % kLanes == 0, "whole vectors of counters");
  uint32_t random[kGroup];
  for (int32_t start = 0; start < count; start += kGroup) {
    for (int part = 0; part < kDrawn; part += kLanes) {
      Words counter = Words{} + static_cast<uint32_t>((first + start) / kGroup * kDrawn + part);
      for (int l = 0; l < kLanes; l++) counter[l] += l;
      Words words[4] = {Words{} + draw.index, Words{} + draw.step, counter, Words{}};
      philox(draw.seed, words);
      for (int w = 0; w < 4; w++) {
        *reinterpret_cast<UnalignedWords*>(random + 2 * w * kDrawn + part) = words[w] & 0xffffu;
        *reinterpret_cast<UnalignedWords*>(random + (2 * w + 1) * kDrawn + part) = words[w] >> 16;
      }
    }
    const int32_t columns = count - start < kGroup ? count - start : kGroup;
    for (int32_t c = 0; c < columns; c++)
      to[start + c] = static_cast<uint16_t>(to_bfloat16(from[start + c], random[c]));
  }
}
