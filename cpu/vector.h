// A thin vector of floats over the compiler's vector extension: the same source for every width. Included by
// cpu/kernels.cc only, inside its anonymous namespace, after kLanes is defined, so that no symbol of one
// instruction set can be linked into another's code.

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));
typedef int32_t UnalignedIntegers __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

#define MARGINFC_INLINE inline __attribute__((always_inline))

MARGINFC_INLINE Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
MARGINFC_INLINE void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
MARGINFC_INLINE Integers load(const int32_t* p) { return *reinterpret_cast<const UnalignedIntegers*>(p); }
MARGINFC_INLINE Vector splat(float x) { return x - Vector{}; }
MARGINFC_INLINE Integers splat(int32_t x) { return x - Integers{}; }

MARGINFC_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// Halves added until one lane is left.
MARGINFC_INLINE float sum(Vector v) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
    Integers upper{};
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; l++) upper[l] = (l + half) % kLanes;
    v += __builtin_shuffle(v, upper);
  }
  return v[0];
}

// 2^x for -126 <= x < 128; smaller x give 2^-126. Relative error 1.1e-7 before rounding.
MARGINFC_INLINE Vector exp2(Vector x) {
  x = larger(x, splat(-126.0f));
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, from where a shift moves it into the
  // exponent.
  const Vector shifter = splat(12582912.0f);
  const Vector shifted = x + shifter;
  const Vector f = x - (shifted - shifter);  // [-0.5, 0.5]
  // 1 + f * q(f), minimax for the relative error of 2^f with the constant held at 1.
  Vector q = splat(0.0013264745939522982f) * f + 0.009671520441770554f;
  q = q * f + 0.05550733953714371f;
  q = q * f + 0.24022242426872253f;
  q = q * f + 0.6931470036506653f;
  const Vector power = q * f + 1.0f;
  return reinterpret_cast<Vector>(reinterpret_cast<Integers>(power) + (reinterpret_cast<Integers>(shifted) << 23));
}

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
