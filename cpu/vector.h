// A thin vector of floats over the compiler's vector extension: the same source for every width. Included by
// cpu/kernels.cc only, inside its anonymous namespace, after kLanes is defined, so that no symbol of one
// instruction set can be linked into another's code.

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef int32_t UnalignedIntegers __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

MARGINFC_INLINE Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
MARGINFC_INLINE void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
// The first `count` lanes, at most all, and zeros behind; reads nothing behind them.
MARGINFC_INLINE Vector load_first(const float* p, int32_t count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>(count < kLanes ? (1u << (count < 0 ? 0 : count)) - 1 : 0xffff);
  return reinterpret_cast<Vector>(_mm512_maskz_loadu_ps(mask, p));
#elif defined(__AVX2__)
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return reinterpret_cast<Vector>(_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes)));
#else
  Vector some{};
  for (int l = 0; l < kLanes && l < count; l++) some[l] = p[l];
  return some;
#endif
}
MARGINFC_INLINE Integers load(const int32_t* p) { return *reinterpret_cast<const UnalignedIntegers*>(p); }
MARGINFC_INLINE Vector splat(float x) { return x - Vector{}; }
MARGINFC_INLINE Integers splat(int32_t x) { return x - Integers{}; }

MARGINFC_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
MARGINFC_INLINE Vector square_root(Vector x) {
  Vector root;
  for (int l = 0; l < kLanes; l++) root[l] = __builtin_sqrtf(x[l]);
  return root;
}

MARGINFC_INLINE Vector absolute(Vector x) {
  return reinterpret_cast<Vector>(reinterpret_cast<Integers>(x) & 0x7fffffff);
}

// The second where either is NaN.
MARGINFC_INLINE Vector larger(Vector a, Vector b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX__)
  return reinterpret_cast<Vector>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<Vector>(_mm_max_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
#else
  return a > b ? a : b;
#endif
}

// Whether any lane of `a` is above that of `b`.
MARGINFC_INLINE bool any_above(Vector a, Vector b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_GT_OQ) != 0;
#elif defined(__AVX__)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(a > b)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(reinterpret_cast<__m128>(a > b)) != 0;
#else
  const Integers above = a > b;
  return (above[0] | above[1] | above[2] | above[3]) != 0;
#endif
}

// Whether any lane lies in start .. start + count - 1; start + count does not overflow.
MARGINFC_INLINE bool any_within(Integers values, int32_t start, int32_t count) {
#if defined(__AVX512F__)
  return _mm512_cmplt_epu32_mask(reinterpret_cast<__m512i>(values - splat(start)), _mm512_set1_epi32(count)) != 0;
#else
  const Integers inside = (values >= splat(start)) & (values < splat(start + count));
#if defined(__AVX__)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(inside)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(reinterpret_cast<__m128>(inside)) != 0;
#elif defined(__aarch64__)
  return vmaxvq_u32(reinterpret_cast<uint32x4_t>(inside)) != 0;
#else
  return (inside[0] | inside[1] | inside[2] | inside[3]) != 0;
#endif
#endif
}

// Through memory, four lanes at a time: shuffles for every width need constants that compilers spell differently.
MARGINFC_INLINE float sum(Vector v) {
  typedef float Quarter __attribute__((vector_size(16), aligned(4), may_alias));
  float lanes[kLanes];
  store(lanes, v);
  Quarter total = *reinterpret_cast<const Quarter*>(lanes);
#pragma GCC unroll 4
  for (int l = 4; l < kLanes; l += 4) total += *reinterpret_cast<const Quarter*>(lanes + l);
  return (total[0] + total[1]) + (total[2] + total[3]);
}

#if defined(__AVX512F__)
// Each quarter: the sums of a's, b's, c's and d's lanes there.
MARGINFC_INLINE __m512 quarter_sums(Vector a, Vector b, Vector c, Vector d) {
  const auto pair = [](Vector a, Vector b) {  // [a0 + a2, b0 + b2, a1 + a3, b1 + b3] of each quarter
    const auto x = reinterpret_cast<__m512>(a), y = reinterpret_cast<__m512>(b);
    return reinterpret_cast<__m512d>(_mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y)));
  };
  const __m512d low = pair(a, b), high = pair(c, d);
  return _mm512_add_ps(reinterpret_cast<__m512>(_mm512_unpacklo_pd(low, high)),
                       reinterpret_cast<__m512>(_mm512_unpackhi_pd(low, high)));
}
#endif

// sums[n] = sum of the lanes of v[n].
MARGINFC_INLINE void four_sums(const Vector (&v)[4], float* sums) {
#if defined(__AVX512F__)
  const __m512 quarters = quarter_sums(v[0], v[1], v[2], v[3]);
  const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
#elif defined(__AVX__)
  const auto pair = [](Vector a, Vector b) {
    return _mm256_hadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b));
  };
  const __m256 halves = _mm256_hadd_ps(pair(v[0], v[1]), pair(v[2], v[3]));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
#else
  for (int n = 0; n < 4; n++) sums[n] = sum(v[n]);
#endif
}

// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, from where a shift moves it into the exponent.
constexpr float kRounder = 12582912.0f;

// 2^(shifted - kRounder + f), f in [-0.5, 0.5]. Where E is stored in bfloat16, by a minimax polynomial with an error of 2.6e-6, a
// 700th of that rounding; otherwise by 1 + f * q(f), minimax for the relative error of 2^f with the constant held at 1.
MARGINFC_INLINE Vector exp2_of_parts(Vector shifted, Vector f) {
  Vector power;
  if constexpr (kPairs) {
    power = splat(0.009570100344717503f) * f + 0.05591785907745361f;
    power = power * f + 0.240247443318367f;
    power = power * f + 0.6931217908859253f;
    power = power * f + 0.9999992847442627f;
  } else {
    Vector q = splat(0.0013264745939522982f) * f + 0.009671520441770554f;
    q = q * f + 0.05550733953714371f;
    q = q * f + 0.24022242426872253f;
    q = q * f + 0.6931470036506653f;
    power = q * f + 1.0f;
  }
  // Words, which may overflow: exponents beyond 128 come here while offsets are measured, and nobody looks at the result.
  return reinterpret_cast<Vector>(reinterpret_cast<Words>(power) + (reinterpret_cast<Words>(shifted) << 23));
}

// 2^x for -126 <= x < 128; smaller x give 2^-126, and NaN stays NaN. Relative error 1.1e-7 before rounding, or that of exp2_of_parts().
MARGINFC_INLINE Vector exp2(Vector x) {
  x = larger(splat(-126.0f), x);
  const Vector shifted = x + kRounder;
  return exp2_of_parts(shifted, x - (shifted - kRounder));
}

// 2^(a * b) for |a * b| < 126: multiplied inside the additions, and nothing to clamp.
MARGINFC_INLINE Vector exp2_of_product(Vector a, Vector b) {
  const Vector shifted = a * b + kRounder;
  return exp2_of_parts(shifted, a * b - (shifted - kRounder));
}

// Nearest bfloat16, ties to even, as a float32. Not for NaN.
MARGINFC_INLINE Vector round_bfloat16(Vector x) {
  const Integers bits = reinterpret_cast<Integers>(x);
  return reinterpret_cast<Vector>((bits + 0x7fff + ((bits >> 16) & 1)) & static_cast<int32_t>(0xffff0000));
}

// One word in every lane, bit for bit.
MARGINFC_INLINE Vector broadcast(const float* word) {
  float x = *word;
#if defined(__aarch64__)
  // Keeps the load scalar: multiply-adds take a lane of it, and a load that fills all lanes needs a vector unit too.
  asm("" : "+w"(x));
#endif
  return splat(x);
}

// sum += x * b; with pairs the two products of each lane.
#if defined(__AVX512BF16__)
MARGINFC_INLINE void multiply_add(Vector x, Vector b, Vector& sum) {
  sum = reinterpret_cast<Vector>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(b)));
}

// 32 bfloat16: the low vector's lanes, then the high one's.
typedef __m512bh Halves;
MARGINFC_INLINE Halves to_halves(Vector low, Vector high) {
  return _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low));
}
MARGINFC_INLINE void store_halves(void* p, Halves h) { _mm512_storeu_si512(p, reinterpret_cast<__m512i>(h)); }
// Words first .. last - 1.
MARGINFC_INLINE void store_halves(void* p, Halves h, int32_t first, int32_t last) {
  const auto written = static_cast<__mmask16>(((1u << last) - 1) & (0xffffu << first));
  _mm512_mask_storeu_epi32(p, written, reinterpret_cast<__m512i>(h));
}
MARGINFC_INLINE void store_low(uint16_t* p, Halves h) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(reinterpret_cast<__m512i>(h)));
}
MARGINFC_INLINE void store_high(uint16_t* p, Halves h) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_extracti64x4_epi64(reinterpret_cast<__m512i>(h), 1));
}
MARGINFC_INLINE Vector load_halves(const uint16_t* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<Vector>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
// Lane i: low[i] and high[i].
MARGINFC_INLINE Vector interleave(Halves h) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return reinterpret_cast<Vector>(_mm512_permutexvar_epi16(_mm512_load_si512(kOrder), reinterpret_cast<__m512i>(h)));
}
// Two rows of halves as one of words, the first row's in the low halves: words 0 .. 15 and 16 .. 31.
struct PairedWords {
  Vector low, high;
};
MARGINFC_INLINE PairedWords pair_rows(Halves even, Halves odd) {
  alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const auto a = reinterpret_cast<__m512i>(even), b = reinterpret_cast<__m512i>(odd);
  return {reinterpret_cast<Vector>(_mm512_permutex2var_epi16(a, low, b)),
          reinterpret_cast<Vector>(_mm512_permutex2var_epi16(a, high, b))};
}
#else
MARGINFC_INLINE void multiply_add(Vector x, Vector b, Vector& sum) { sum += x * b; }
// Without pairs, for code that is never reached.
struct Halves {};
MARGINFC_INLINE Halves to_halves(Vector, Vector) { return {}; }
MARGINFC_INLINE void store_halves(void*, Halves) {}
MARGINFC_INLINE void store_halves(void*, Halves, int32_t, int32_t) {}
MARGINFC_INLINE void store_low(uint16_t*, Halves) {}
MARGINFC_INLINE void store_high(uint16_t*, Halves) {}
MARGINFC_INLINE Vector load_halves(const uint16_t*) { return Vector{}; }
MARGINFC_INLINE Vector interleave(Halves) { return Vector{}; }
#endif

// A store that goes round the caches; `p` aligned to the vector.
MARGINFC_INLINE void stream(float* p, Vector v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, reinterpret_cast<__m512>(v));
#elif defined(__AVX__)
  _mm256_stream_ps(p, reinterpret_cast<__m256>(v));
#elif defined(__SSE2__)
  _mm_stream_ps(p, reinterpret_cast<__m128>(v));
#else
  store(p, v);
#endif
}
