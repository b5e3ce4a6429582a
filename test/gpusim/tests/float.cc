// Floating-point instructions: exact ones against the processor in each rounding mode, approximations within 2 ULP.
#include <cfenv>
#include <cmath>

#include "ops/rounding.h"
#include "tests/instruction.h"

namespace gpusim {
namespace {

std::vector<uint64_t> edges() {
  std::vector<uint64_t> bits;
  for (const float x :
       {0.0f, 1.0f, 1.5f, 3.14159f, 1e-38f, 1e-42f, 3e38f, 1e20f, 0x1p-149f, 0.3333333f, 16777217.0f, INFINITY}) {
    bits.push_back(bits_of(x));
    bits.push_back(bits_of(-x));
  }
  bits.push_back(0x7fc12345);
  return bits;
}

uint64_t canonical_bits(float x) { return bits_of(canonical(x)); }

template <class F>
float rounded(int mode, F f) {
  std::fesetround(mode);
  const float result = f();
  std::fesetround(FE_TONEAREST);
  return result;
}

void exact() {
  const std::vector<uint64_t> values = edges();
  const std::pair<const char*, int> modes[] = {
      {"rn", FE_TONEAREST}, {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}};
  for (const auto& [name, mode] : modes) {
    const auto with = [&, mode_of = mode](auto f) {
      return [f, mode_of](uint64_t a, uint64_t b) {
        volatile float x = float_of(static_cast<uint32_t>(a)), y = float_of(static_cast<uint32_t>(b));
        return canonical_bits(rounded(mode_of, [&] {
          volatile float r = f(x, y);
          return r;
        }));
      };
    };
    const std::string suffix = std::string(".") + name + ".f32";
    check_binary("add" + suffix, "fff", values, values, with([](float a, float b) { return a + b; }));
    check_binary("mul" + suffix, "fff", values, values, with([](float a, float b) { return a * b; }));
    check_binary("div" + suffix, "fff", values, values, with([](float a, float b) { return a / b; }));
    check_ternary("fma" + suffix, "ffff", values, {bits_of(1.0f), bits_of(-1e-40f)},
                  [mode_of = mode](uint64_t a, uint64_t b, uint64_t c) {
                    volatile float x = float_of(static_cast<uint32_t>(a)), y = float_of(static_cast<uint32_t>(b)),
                                   z = float_of(static_cast<uint32_t>(c));
                    return canonical_bits(rounded(mode_of, [&] {
                      volatile float r = std::fma(x, y, z);
                      return r;
                    }));
                  });
    check_unary("sqrt" + suffix, "ff", values, [mode_of = mode](uint64_t a) {
      volatile float x = float_of(static_cast<uint32_t>(a));
      return canonical_bits(rounded(mode_of, [&] {
        volatile float r = std::sqrt(x);
        return r;
      }));
    });
  }
  check_binary("add.ftz.f32", "fff", values, values, [](uint64_t a, uint64_t b) {
    return canonical_bits(flush(flush(float_of(static_cast<uint32_t>(a))) + flush(float_of(static_cast<uint32_t>(b)))));
  });
  check_binary("mul.sat.f32", "fff", values, values, [](uint64_t a, uint64_t b) {
    const float product = float_of(static_cast<uint32_t>(a)) * float_of(static_cast<uint32_t>(b));
    return uint64_t{bits_of(product > 0 ? std::fmin(product, 1.0f) : 0.0f)};
  });
}

void choices() {
  const uint64_t nan = 0x7fffffff, one = bits_of(1.0f), zero = 0, minus_zero = 0x80000000;
  const auto two = [](const char* op, uint64_t a, uint64_t b) { return evaluate(op, "fff", {{a}, {b}}).results[0]; };
  check(two("min.f32", nan, one) == one && two("max.f32", one, nan) == one, "min and max pass over a NaN");
  check(two("min.NaN.f32", nan, one) == nan && two("max.NaN.f32", one, nan) == nan, "min.NaN and max.NaN keep it");
  check(two("min.f32", zero, minus_zero) == minus_zero && two("max.f32", minus_zero, zero) == zero, "-0 is below +0");
  check(two("min.f32", minus_zero, zero) == minus_zero && two("max.f32", zero, minus_zero) == zero,
        "-0 is below +0, turned round");
  check(two("copysign.f32", minus_zero, one) == bits_of(-1.0f), "copysign");
  check(evaluate("neg.f32", "ff", {{one}}).results[0] == bits_of(-1.0f), "neg");
}

void approximations() {
  const std::pair<const char*, double (*)(double)> functions[] = {
      {"ex2.approx.f32", [](double x) { return std::exp2(x); }},
      {"lg2.approx.f32", [](double x) { return std::log2(x); }},
      {"rcp.approx.f32", [](double x) { return 1 / x; }},
      {"rsqrt.approx.f32", [](double x) { return 1 / std::sqrt(x); }},
      {"sqrt.approx.f32", [](double x) { return std::sqrt(x); }},
      {"sin.approx.f32", [](double x) { return std::sin(x); }},
      {"cos.approx.f32", [](double x) { return std::cos(x); }},
      {"tanh.approx.f32", [](double x) { return std::tanh(x); }}};
  std::vector<uint64_t> values;
  for (float x = 0.01f; x < 40; x *= 1.37f) values.push_back(bits_of(x));
  for (const auto& [name, function] : functions) {
    const Evaluation got = evaluate(name, "ff", {values});
    for (size_t i = 0; i < values.size(); i++) {
      const auto want = static_cast<float>(function(float_of(static_cast<uint32_t>(values[i]))));
      const float result = float_of(static_cast<uint32_t>(got.results[i]));
      check(got.outcome.ok() && std::fabs(result - want) <= 2 * std::fabs(std::nextafter(want, INFINITY) - want), name);
    }
  }
}

// Half arithmetic against exact sums and products, rounded by searching all 65536 numbers of the format.
void halves() {
  const std::vector<uint64_t> values = {0x0000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x3c01,
                                        0x3555, 0x7bff, 0x8001, 0xbc00, 0xfbff, 0x7c00};
  const auto nearest = [](double x) {
    if (x != x) return uint64_t{0x7fff};
    if (std::fabs(x) >= 65520) return uint64_t{x < 0 ? 0xfc00u : 0x7c00u};
    uint64_t best = 0;
    for (uint64_t h = 0; h < 0x7c00; h++) {
      const double d = std::fabs(f16_to_f32(static_cast<uint16_t>(h)) - std::fabs(x));
      const double e = std::fabs(f16_to_f32(static_cast<uint16_t>(best)) - std::fabs(x));
      if (d < e || (d == e && (h & 1) == 0)) best = h;
    }
    return best | (std::signbit(x) ? 0x8000 : 0);
  };
  const auto wide = [](uint64_t h) { return double{f16_to_f32(static_cast<uint16_t>(h))}; };
  check_binary("add.f16", "hhh", values, values, [&](uint64_t a, uint64_t b) { return nearest(wide(a) + wide(b)); });
  check_binary("mul.f16", "hhh", values, values, [&](uint64_t a, uint64_t b) { return nearest(wide(a) * wide(b)); });
  check_binary("sub.f16", "hhh", values, values, [&](uint64_t a, uint64_t b) { return nearest(wide(a) - wide(b)); });
  check_unary("neg.f16", "hh", values, [](uint64_t a) { return a ^ 0x8000; });
  check_unary("abs.bf16", "hh", values, [](uint64_t a) { return a & 0x7fff; });
  check_unary("ex2.approx.f16", "hh", values, [&](uint64_t a) { return nearest(std::exp2(wide(a))); });
  check_unary("tanh.approx.f16", "hh", values, [&](uint64_t a) { return nearest(std::tanh(wide(a))); });
  check_ternary("fma.rn.f16", "hhhh", {0x3c01, 0x0001, 0x7bff, 0xbc01}, {0x3c00, 0x8001, 0x0001},
                [&](uint64_t a, uint64_t b, uint64_t c) { return nearest(wide(a) * wide(b) + wide(c)); });
  check(evaluate("add.f16x2", "rrr", {{0x3c004000}, {0x3c003c00}}).results[0] == 0x40004200, "add.f16x2");
  check(evaluate("fma.rn.bf16x2", "rrrr", {{0x3f804000}, {0x40003f80}, {0x3f803f80}}).results[0] == 0x40404040,
        "fma.rn.bf16x2");
  check(evaluate("max.bf16x2", "rrr", {{0x3f80bf80}, {0x40007fff}}).results[0] == 0x4000bf80, "max.bf16x2");
}

}  // namespace

void check_float() {
  exact();
  choices();
  approximations();
  halves();
}

}  // namespace gpusim
