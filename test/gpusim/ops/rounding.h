// Number formats and rounding: every conversion between formats goes through here. `Round` is PTX's modifier.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace gpusim {

/// .rn nearest even, .rz toward zero, .rm down, .rp up, .rna nearest away from zero on ties (ISA 9.7.9.21).
enum class Round : uint8_t { nearest, zero, down, up, away };

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint64_t bits_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  return bits;
}
inline double double_of(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}

constexpr uint32_t kNan32 = 0x7fffffffu;  // the device's canonical NaNs
constexpr uint16_t kNan16 = 0x7fffu;

/// Canonical NaN for the results of float32 arithmetic (ISA 9.7.3).
inline float canonical(float x) { return x != x ? float_of(kNan32) : x; }

/// Subnormals become zeros of the same sign: .ftz.
inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

/// The bits of x in a format of `exponent_bits` and `mantissa_bits`, rounded once. Overflow goes to infinity or to the
/// largest finite number as the mode says (IEEE 754 section 7.4).
inline uint32_t round_to_format(double x, int exponent_bits, int mantissa_bits, Round mode) {
  const uint32_t sign = std::signbit(x) ? 1u << (exponent_bits + mantissa_bits) : 0;
  const uint32_t infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  if (x != x) return infinity | ((1u << mantissa_bits) - 1);
  if (std::isinf(x)) return sign | infinity;
  const double magnitude = std::fabs(x);
  if (magnitude == 0) return sign;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  int exponent;
  std::frexp(magnitude, &exponent);  // magnitude = [0.5, 1) * 2^exponent
  int step = exponent - 1 - mantissa_bits;
  const int smallest = 1 - bias - mantissa_bits;  // the step of subnormals
  if (step < smallest) step = smallest;
  const double scaled = std::ldexp(magnitude, -step);  // exact
  double whole = std::floor(scaled);
  const double rest = scaled - whole;
  const bool negative = sign != 0;
  bool up = false;
  switch (mode) {
    case Round::nearest: up = rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2) != 0); break;
    case Round::away: up = rest >= 0.5; break;
    case Round::zero: break;
    case Round::down: up = rest > 0 && negative; break;
    case Round::up: up = rest > 0 && !negative; break;
  }
  whole += up;
  const auto units = static_cast<uint64_t>(whole);
  // A carry out of the mantissa moves into the exponent by itself.
  const uint64_t bits = step == smallest ? units : ((static_cast<uint64_t>(step - smallest) << mantissa_bits) + units);
  if (bits >= infinity) {
    const bool to_infinity = mode == Round::nearest || mode == Round::away || (mode == Round::up && !negative) ||
                             (mode == Round::down && negative);
    return sign | (to_infinity ? infinity : infinity - 1);
  }
  return sign | static_cast<uint32_t>(bits);
}

inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t rest = h & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000u | (rest & 0x3ff) << 13);
  // Scaling by 2^112 moves the exponent's bias, and is exact for subnormals too.
  return float_of(sign | bits_of(float_of(rest << 13) * 0x1p112f));
}
inline float bf16_to_f32(uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); }

inline uint16_t f32_to_bf16(float x) {
  if (x != x) return kNan16;
  const uint32_t bits = bits_of(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint16_t f32_to_f16(float x) {
  const uint32_t sign = bits_of(x) >> 16 & 0x8000;
  const float magnitude = std::fabs(x);
  if (x != x) return kNan16;
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 0x1p-14f) {
    // Adding 0.5 lets the adder round at the step of subnormals, 2^-24.
    return static_cast<uint16_t>(sign | (bits_of(magnitude + 0.5f) - 0x3f000000u));
  }
  const uint32_t bits = bits_of(magnitude);
  return static_cast<uint16_t>(sign | ((bits - 0x38000000u + 0xfff + (bits >> 13 & 1)) >> 13));
}
inline uint16_t to_f16(double x, Round mode) { return static_cast<uint16_t>(round_to_format(x, 5, 10, mode)); }
inline uint16_t to_bf16(double x, Round mode) { return static_cast<uint16_t>(round_to_format(x, 8, 7, mode)); }
inline float to_f32(double x, Round mode) {
  return mode == Round::nearest ? canonical(static_cast<float>(x)) : float_of(round_to_format(x, 8, 23, mode));
}
/// tf32 keeps 10 bits of mantissa in the upper 19 bits of a float32.
inline uint32_t to_tf32(float x, Round mode) {
  if (x != x) return kNan32;
  return round_to_format(x, 8, 10, mode) << 13;
}

/// a * b + c rounded to odd in float64, for a and b of at most 24 bits: rounding that once more to any format of at most
/// 50 bits is as if the exact result had been rounded (Boldo and Melquiond 2008).
inline double fma_to_odd(double a, double b, double c) {
  const double product = a * b;  // exact
  const double sum = product + c;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - product;
  const double error = (product - (sum - part)) + (c - part);
  if (error == 0 || (bits_of(sum) & 1) != 0) return sum;
  const bool away = (error > 0) == (sum > 0);
  return double_of(away ? bits_of(sum) + 1 : bits_of(sum) - 1);
}

}  // namespace gpusim
