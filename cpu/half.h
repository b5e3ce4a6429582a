// 16-bit floats as plain arithmetic without branches, which the compiler turns into vectors. Included by
// cpu/kernels.cc only, inside its anonymous namespace.

MARGINFC_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
MARGINFC_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

MARGINFC_INLINE float from_bfloat16(uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); }

// Nearest, ties to even; a NaN stays one.
MARGINFC_INLINE uint32_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return x != x ? 0x7fc0u : rounded;
}

MARGINFC_INLINE float from_float16(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fffu) << 13;
  // Moves the exponent from bias 15 to 127, subnormal numbers included.
  const uint32_t scaled = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t special = (magnitude & 0x007fffffu) | 0x7f800000u;
  const uint32_t value = magnitude >= 0x0f800000u ? special : scaled;
  return float_of(value | (static_cast<uint32_t>(h & 0x8000u) << 16));
}

// The float16 nearest to x, ties to even, as a float32.
MARGINFC_INLINE float round_float16(float x) {
  const uint32_t bits = bits_of(x), sign = bits & 0x80000000u, magnitude = bits & 0x7fffffffu;
  // Normal: round the mantissa to 10 bits.
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & 0xffffe000u;
  // Subnormal (below 2^-14): a multiple of 2^-24, which adding 2^-1 leaves behind in the last bit.
  const uint32_t small = bits_of((float_of(magnitude) + 0.5f) - 0.5f);
  uint32_t value = magnitude < 0x38800000u ? small : normal;
  value = value >= 0x47800000u ? 0x7f800000u : value;  // 65520 and more
  value = magnitude > 0x7f800000u ? 0x7fc00000u : value;
  return float_of(value | sign);
}

void narrow(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; i++) to[i] = static_cast<uint16_t>(to_bfloat16(from[i]));
}

void widen(const uint16_t* from, int64_t count, bool float16, float* to) {
  if (float16)
    for (int64_t i = 0; i < count; i++) to[i] = from_float16(from[i]);
  else
    for (int64_t i = 0; i < count; i++) to[i] = from_bfloat16(from[i]);
}

void round(const float* from, int64_t count, bool float16, float* to) {
  if (float16)
    for (int64_t i = 0; i < count; i++) to[i] = round_float16(from[i]);
  else
    for (int64_t i = 0; i < count; i++) to[i] = float_of(to_bfloat16(from[i]) << 16);
}
