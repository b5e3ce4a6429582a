// cvt in every rounding mode, at the edges of every format.
#include <cmath>
#include <limits>

#include "ops/rounding.h"
#include "tests/instruction.h"

namespace gpusim {
namespace {

enum class Mode { rn, rz, rm, rp };
const std::pair<const char*, Mode> kModes[] = {{"rn", Mode::rn}, {"rz", Mode::rz}, {"rm", Mode::rm}, {"rp", Mode::rp}};

/// The two neighbours of x in a format, found by search, and the one that the mode takes. No arithmetic of the device.
template <class Widen>
uint64_t search(double x, uint32_t infinity, uint32_t sign, Mode mode, Widen widen) {
  if (x != x) return 0x7fff;
  const double magnitude = std::fabs(x);
  const uint64_t sign_bit = std::signbit(x) ? sign : 0;
  if (std::isinf(x)) return sign_bit | infinity;
  uint32_t low = 0, high = infinity;  // widen(low) <= magnitude < widen(high)
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (widen(middle) <= magnitude ? low : high) = middle;
  }
  if (widen(low) == magnitude) return sign_bit | low;
  const bool negative = sign_bit != 0;
  // Beyond the largest number, the next step stands where infinity is.
  const double step = widen(low) - widen(low - 1);
  const double above = high == infinity ? widen(low) + step : widen(high);
  bool up = false;
  if (mode == Mode::rn) {
    const double down_by = magnitude - widen(low), up_by = above - magnitude;
    up = up_by < down_by || (up_by == down_by && (low & 1) != 0);
  }
  if (mode == Mode::rm) up = negative;
  if (mode == Mode::rp) up = !negative;
  return sign_bit | (up ? high : low);
}

std::vector<uint64_t> floats() {
  std::vector<uint64_t> bits;
  for (uint32_t exponent = 0; exponent < 256; exponent += 1)
    for (const uint32_t mantissa :
         {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0x18000u, 0x7fffffu}) {
      bits.push_back(exponent << 23 | mantissa);
      bits.push_back(0x80000000u | exponent << 23 | mantissa);
    }
  return bits;
}

void narrow_floats() {
  const std::vector<uint64_t> values = floats();
  for (const auto& [name, mode] : kModes) {
    const auto as = [](uint64_t bits) { return double{float_of(static_cast<uint32_t>(bits))}; };
    if (mode == Mode::rn || mode == Mode::rz) {  // float16 and bfloat16 know these two
      check_unary(std::string("cvt.") + name + ".bf16.f32", "hf", values, [&, m = mode](uint64_t a) {
        return search(as(a), 0x7f80, 0x8000, m,
                      [](uint32_t h) { return double{bf16_to_f32(static_cast<uint16_t>(h))}; });
      });
      check_unary(std::string("cvt.") + name + ".f16.f32", "hf", values, [&, m = mode](uint64_t a) {
        return search(as(a), 0x7c00, 0x8000, m,
                      [](uint32_t h) { return double{f16_to_f32(static_cast<uint16_t>(h))}; });
      });
    }
    std::vector<uint64_t> doubles;
    for (const double x : {0.0, 1.0, 1.0 + 0x1p-24, 1.0 + 0x1p-23 + 0x1p-24, 0x1p-149, 0x1p-150, 0x1.8p-150, 3.5e38,
                           1e300, 1e-300, 0.1}) {
      doubles.push_back(bits_of(x));
      doubles.push_back(bits_of(-x));
    }
    check_unary(std::string("cvt.") + name + ".f32.f64", "fg", doubles, [m = mode](uint64_t a) {
      return search(double_of(a), 0x7f800000, 0x80000000, m, [](uint32_t f) { return double{float_of(f)}; });
    });
  }
  const auto pair = evaluate("cvt.rn.bf16x2.f32", "rff", {{bits_of(1.0f)}, {bits_of(2.0f)}}).results[0];
  check(pair == 0x3f804000, "cvt.rn.bf16x2.f32 puts the first source into the upper half");
  check(evaluate("cvt.rn.relu.f16x2.f32", "rff", {{bits_of(-1.0f)}, {bits_of(2.0f)}}).results[0] == 0x4000, "relu");
  check(evaluate("cvt.rna.tf32.f32", "rf", {{0x3f801000}}).results[0] == 0x3f802000, "cvt.rna.tf32 rounds ties away");
  check(evaluate("cvt.rn.satfinite.f16.f32", "hf", {{bits_of(1e6f)}}).results[0] == 0x7bff, "satfinite");
}

void widen_halves() {
  std::vector<uint64_t> all(65536);
  for (size_t i = 0; i < all.size(); i++) all[i] = i;
  const auto check_all = [&](const char* opcode, int mantissa_bits, int bias) {
    const Evaluation got = evaluate(opcode, "fh", {all});
    bool right = got.outcome.ok();
    for (uint64_t h = 0; h < 65536 && right; h++) {
      const auto result = float_of(static_cast<uint32_t>(got.results[h]));
      const int exponent = static_cast<int>(h >> mantissa_bits & ((1u << (15 - mantissa_bits)) - 1));
      const auto mantissa = static_cast<double>(h & ((1u << mantissa_bits) - 1));
      const double unit = std::ldexp(1.0, (exponent == 0 ? 1 : exponent) - bias - mantissa_bits);
      double want = (mantissa + (exponent == 0 ? 0 : std::ldexp(1.0, mantissa_bits))) * unit;
      if (exponent == (1 << (15 - mantissa_bits)) - 1) want = mantissa == 0 ? INFINITY : NAN;
      if ((h & 0x8000) != 0) want = -want;
      right = want != want ? result != result : result == want && std::signbit(result) == std::signbit(want);
    }
    check(right, opcode);
  };
  check_all("cvt.f32.f16", 10, 15);
  check_all("cvt.f32.bf16", 7, 127);
}

void integers() {
  const std::vector<uint64_t> values = {0,      1,      127,     128,        255,        256,        0x7fff,
                                        0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffff80, 0xffffffff};
  check_unary("cvt.s64.s32", "dr", values,
              [](uint64_t a) { return static_cast<uint64_t>(int64_t{static_cast<int32_t>(a)}); });
  // nvcc keeps an integer in a register twice as wide where only its lower half counts.
  std::vector<uint64_t> wide;
  for (const uint64_t value : values) wide.push_back(value | 0xabcdef01ull << 32);
  check_unary("cvt.s64.s32", "dd", wide,
              [](uint64_t a) { return static_cast<uint64_t>(int64_t{static_cast<int32_t>(a)}); });
  check_unary("cvt.u64.u16", "dd", wide, [](uint64_t a) { return a & 0xffff; });
  check_unary("cvt.rn.f64.s32", "gd", wide, [](uint64_t a) {
    const double value = static_cast<int32_t>(a);
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  });
  check_unary("cvt.u16.u32", "hr", values, [](uint64_t a) { return a & 0xffff; });
  check_unary("cvt.s32.s8", "rr", values,
              [](uint64_t a) { return uint64_t{static_cast<uint32_t>(static_cast<int8_t>(a))}; });
  check_unary("cvt.sat.u8.s32", "rr", values, [](uint64_t a) {
    const auto x = static_cast<int32_t>(a);
    return static_cast<uint64_t>(x < 0 ? 0 : x > 255 ? 255 : x);
  });
  check_unary("cvt.sat.s16.s32", "hr", values, [](uint64_t a) {
    const auto x = static_cast<int32_t>(a);
    return uint64_t{static_cast<uint16_t>(x < -32768 ? -32768 : x > 32767 ? 32767 : x)};
  });
}

void floats_and_integers() {
  std::vector<uint64_t> values;
  for (const float x :
       {0.0f, 0.4f, 0.5f, 0.6f, 1.5f, 2.5f, 2147483520.0f, 2147483648.0f, 4294967296.0f, 1e20f, INFINITY}) {
    values.push_back(bits_of(x));
    values.push_back(bits_of(-x));
  }
  values.push_back(0x7fc00000);
  const std::pair<const char*, double (*)(double)> roundings[] = {{"rni", [](double x) { return std::nearbyint(x); }},
                                                                  {"rzi", [](double x) { return std::trunc(x); }},
                                                                  {"rmi", [](double x) { return std::floor(x); }},
                                                                  {"rpi", [](double x) { return std::ceil(x); }}};
  for (const auto& [name, round] : roundings) {
    const auto value = [round_by = round](uint64_t a) { return round_by(float_of(static_cast<uint32_t>(a))); };
    check_unary(std::string("cvt.") + name + ".s32.f32", "rf", values, [&](uint64_t a) {
      const double x = value(a);
      return uint64_t{static_cast<uint32_t>(x != x        ? 0
                                            : x >= 0x1p31 ? INT32_MAX
                                            : x < -0x1p31 ? INT32_MIN
                                                          : static_cast<int32_t>(x))};
    });
    check_unary(std::string("cvt.") + name + ".u32.f32", "rf", values, [&](uint64_t a) {
      const double x = value(a);
      return uint64_t{x != x || x < 0 ? 0u : x >= 0x1p32 ? UINT32_MAX : static_cast<uint32_t>(x)};
    });
    check_unary(std::string("cvt.") + name + ".s64.f32", "df", values, [&](uint64_t a) {
      const double x = value(a);
      return x != x ? uint64_t{1} << 63
                    : static_cast<uint64_t>(x >= 0x1p63   ? INT64_MAX
                                            : x < -0x1p63 ? INT64_MIN
                                                          : static_cast<int64_t>(x));
    });
    check_unary(std::string("cvt.") + name + ".f32.f32", "ff", values, [&](uint64_t a) {
      const double x = value(a);
      return x != x ? uint64_t{kNan32} : uint64_t{bits_of(static_cast<float>(x))};
    });
  }
  // 2^24 + 1 is half way between two float32 numbers; 2^60 + 1 shows the second rounding that must not happen.
  const std::vector<uint64_t> wide = {0,
                                      1,
                                      16777217,
                                      16777219,
                                      0x7fffffffffffffff,
                                      0x8000000000000000,
                                      0xfffffffffefffffe,
                                      (uint64_t{1} << 60) + (uint64_t{1} << 36) + 1};
  for (const auto& [name, mode] : kModes) {
    check_unary(std::string("cvt.") + name + ".f32.s64", "fd", wide, [m = mode](uint64_t a) {
      const auto x = static_cast<int64_t>(a);
      // Exact in the 64-bit mantissa of long double where there is one; the search needs only comparisons.
      const auto magnitude = static_cast<long double>(x < 0 ? 0 - a : a);
      uint32_t low = 0, high = 0x7f800000;
      while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        (static_cast<long double>(float_of(middle)) <= magnitude ? low : high) = middle;
      }
      const long double below = float_of(low), above = float_of(high);
      bool up = false;
      if (m == Mode::rn)
        up = above - magnitude < magnitude - below || (above - magnitude == magnitude - below && (low & 1) != 0);
      if (m == Mode::rm) up = x < 0;
      if (m == Mode::rp) up = x > 0;
      if (below == magnitude) up = false;
      return uint64_t{(up ? high : low) | (x < 0 ? 0x80000000u : 0)};
    });
  }
  check_unary("cvt.rn.f32.u32", "fr", {0, 1, 16777217, 0xffffffff},
              [](uint64_t a) { return uint64_t{bits_of(static_cast<float>(static_cast<uint32_t>(a)))}; });
  check_unary("cvt.f64.f32", "gf", {bits_of(1.5f), 0x00000001},
              [](uint64_t a) { return bits_of(double{float_of(static_cast<uint32_t>(a))}); });
  check_unary("cvt.sat.f32.f32", "ff", values, [](uint64_t a) {
    const float x = float_of(static_cast<uint32_t>(a));
    return uint64_t{bits_of(x > 0 ? std::fmin(x, 1.0f) : 0.0f)};
  });
}

}  // namespace

void check_conversion() {
  narrow_floats();
  widen_halves();
  integers();
  floats_and_integers();
}

}  // namespace gpusim
