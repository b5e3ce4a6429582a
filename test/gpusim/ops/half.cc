// float16 and bfloat16 arithmetic, single and in pairs (ISA 9.7.4): computed wider and rounded once.
#include <cmath>

#include "ops/lanes.h"
#include "ops/rounding.h"

namespace gpusim {
namespace {

struct F16 {
  static float wide(uint16_t h) { return f16_to_f32(h); }
  static uint16_t narrow(float x) { return f32_to_f16(x); }
  static uint16_t narrow_odd(double x) { return to_f16(x, Round::nearest); }
};
struct Bf16 {
  static float wide(uint16_t h) { return bf16_to_f32(h); }
  static uint16_t narrow(float x) { return f32_to_bf16(x); }
  static uint16_t narrow_odd(double x) { return to_bf16(x, Round::nearest); }
};

// Sums and products of two 16-bit floats in float32: 24 bits are enough that rounding twice is rounding once
// (Figueroa 1995: p >= 2q + 2).
struct Add {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t b, uint16_t) {
    return F::narrow(F::wide(a) + F::wide(b));
  }
};
struct Sub {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t b, uint16_t) {
    return F::narrow(F::wide(a) - F::wide(b));
  }
};
struct Mul {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t b, uint16_t) {
    return F::narrow(F::wide(a) * F::wide(b));
  }
};
struct Fma {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t b, uint16_t c) {
    return F::narrow_odd(fma_to_odd(F::wide(a), F::wide(b), F::wide(c)));
  }
};
struct FmaRelu {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t b, uint16_t c) {
    const uint16_t result = Fma::run<F>(a, b, c);
    return (result & 0x8000) != 0 && (result & 0x7fff) != 0 && F::wide(result) == F::wide(result) ? 0 : result;
  }
};
struct Neg {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t, uint16_t) {
    return a ^ 0x8000;
  }
};
struct Abs {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t, uint16_t) {
    return a & 0x7fff;
  }
};
template <bool largest, bool keep_nan>
struct Extremum {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t b, uint16_t) {
    const float x = F::wide(a), y = F::wide(b);
    const bool nan_a = x != x, nan_b = y != y;
    if (nan_a || nan_b) return keep_nan || (nan_a && nan_b) ? kNan16 : nan_a ? b : a;
    if (x == y) return ((a & 0x8000) != 0) == largest ? b : a;  // -0 is below +0
    return (x > y) == largest ? a : b;
  }
};
struct Ex2 {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t, uint16_t) {
    return F::narrow(std::exp2(F::wide(a)));
  }
};
struct Tanh {
  template <class F>
  static uint16_t run(uint16_t a, uint16_t, uint16_t) {
    return F::narrow(std::tanh(F::wide(a)));
  }
};

template <class Op, class F, bool pair, size_t sources>
Flow half(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<uint32_t>(in.d);
  const auto* a = w.in<uint32_t>(in.a);
  const auto* b = sources > 1 ? w.in<uint32_t>(in.b) : a;
  const auto* c = sources > 2 ? w.in<uint32_t>(in.c) : a;
  for_lanes(mask, [&](int l) {
    const auto low = [](uint32_t x) { return static_cast<uint16_t>(x); };
    const auto high = [](uint32_t x) { return static_cast<uint16_t>(x >> 16); };
    uint32_t result = Op::template run<F>(low(a[l]), low(b[l]), low(c[l]));
    if (pair) result |= static_cast<uint32_t>(Op::template run<F>(high(a[l]), high(b[l]), high(c[l]))) << 16;
    d[l] = result;
  });
  return Flow::next;
}

template <class Op, size_t sources>
void set(Binding& b, Type type, Class kind) {
  const bool pair = type.count == 2, brain = type.kind == Type::Kind::bf;
  if (brain)
    b.in.run = pair ? half<Op, Bf16, true, sources> : half<Op, Bf16, false, sources>;
  else
    b.in.run = pair ? half<Op, F16, true, sources> : half<Op, F16, false, sources>;
  bind_operands(b, type, sources, kind);
}

template <class Op, size_t sources>
void bind(Binding& b) {
  b.take("rn");
  const Type type = b.take_type();
  set<Op, sources>(b, type, Class::floating);
}

void bind_fma(Binding& b) {
  b.take("rn");
  const bool relu = b.take("relu");
  const Type type = b.take_type();
  if (relu)
    set<FmaRelu, 3>(b, type, Class::floating);
  else
    set<Fma, 3>(b, type, Class::floating);
}

template <bool largest>
void bind_extremum(Binding& b) {
  const bool nan = b.take("NaN");
  const Type type = b.take_type();
  if (nan)
    set<Extremum<largest, true>, 2>(b, type, Class::floating);
  else
    set<Extremum<largest, false>, 2>(b, type, Class::floating);
}

template <class Op>
void bind_approximation(Binding& b) {
  if (!b.take("approx")) b.malformed("needs .approx");
  const bool ftz = b.take("ftz");
  const Type type = b.take_type();
  // ISA 9.7.4.10: .ftz goes with bfloat16, whose subnormals the device never keeps here.
  if (ftz != (type.kind == Type::Kind::bf && b.statement.base == "ex2")) b.malformed(".ftz goes with bfloat16");
  set<Op, 1>(b, type, Class::special_function);
}

}  // namespace

void add_half_ops(OpTable* table) {
  OpTable& t = *table;
  t["add/h"] = bind<Add, 2>;
  t["sub/h"] = bind<Sub, 2>;
  t["mul/h"] = bind<Mul, 2>;
  t["fma/h"] = bind_fma;
  t["neg/h"] = bind<Neg, 1>;
  t["abs/h"] = bind<Abs, 1>;
  t["min/h"] = bind_extremum<false>;
  t["max/h"] = bind_extremum<true>;
  t["ex2/h"] = bind_approximation<Ex2>;
  t["tanh/h"] = bind_approximation<Tanh>;
}

}  // namespace gpusim
