// Float32 and float64 arithmetic (ISA 9.7.3) in round-to-nearest; other modes are in float_rounded.cc.
#include "ops/float.h"

#include <cmath>

#include "ops/lanes.h"
#include "ops/rounding.h"

namespace gpusim {
namespace {

template <class T>
T clamp01(T x) {
  return x > 0 ? (x < 1 ? x : T{1}) : T{0};  // NaN becomes 0 (ISA 9.7.3, .sat)
}

/// What .ftz, .sat and NaNs do around the operation itself.
template <class Op, bool ftz, bool sat>
struct Finish {
  template <class T>
  static T before(T x) {
    if constexpr (ftz && sizeof(T) == 4) return flush(x);
    return x;
  }
  template <class T>
  static T after(T x) {
    if constexpr (ftz && sizeof(T) == 4) x = flush(x);
    if constexpr (sat) return clamp01(x);
    if constexpr (sizeof(T) == 4) return canonical(x);
    return x;
  }
  template <class D, class A>
  static D run(A a) {
    return after<D>(Op::template run<D>(before(a)));
  }
  template <class D, class A>
  static D run(A a, A b) {
    return after<D>(Op::template run<D>(before(a), before(b)));
  }
  template <class D, class A>
  static D run(A a, A b, A c) {
    return after<D>(Op::template run<D>(before(a), before(b), before(c)));
  }
};

struct Add {
  template <class T>
  static T run(T a, T b) {
    return a + b;
  }
};
struct Sub {
  template <class T>
  static T run(T a, T b) {
    return a - b;
  }
};
struct Mul {
  template <class T>
  static T run(T a, T b) {
    return a * b;
  }
};
struct Fma {
  template <class T>
  static T run(T a, T b, T c) {
    return std::fma(a, b, c);
  }
};
struct Div {
  template <class T>
  static T run(T a, T b) {
    return a / b;
  }
};
struct Rcp {
  template <class T>
  static T run(T a) {
    return T{1} / a;
  }
};
struct Sqrt {
  template <class T>
  static T run(T a) {
    return std::sqrt(a);
  }
};
// The approximations are near-exact here; hardware is within the errors that ISA 9.7.3 states.
struct Rsqrt {
  template <class T>
  static T run(T a) {
    return static_cast<T>(1.0 / std::sqrt(static_cast<double>(a)));
  }
};
struct Sin {
  template <class T>
  static T run(T a) {
    return static_cast<T>(std::sin(static_cast<double>(a)));
  }
};
struct Cos {
  template <class T>
  static T run(T a) {
    return static_cast<T>(std::cos(static_cast<double>(a)));
  }
};
struct Lg2 {
  template <class T>
  static T run(T a) {
    return static_cast<T>(std::log2(static_cast<double>(a)));
  }
};
struct Ex2 {
  template <class T>
  static T run(T a) {
    return std::exp2(a);
  }
};
struct Tanh {
  template <class T>
  static T run(T a) {
    return static_cast<T>(std::tanh(static_cast<double>(a)));
  }
};
// ISA 9.7.3.11: the other operand where one is a NaN; -0 is below +0.
struct Min {
  template <class T>
  static T run(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
  }
};
struct Max {
  template <class T>
  static T run(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a > b || (a == b && !std::signbit(a)) ? a : b;
  }
};
struct MinNan {
  template <class T>
  static T run(T a, T b) {
    return a != a ? a : b != b ? b : Min::run<T>(a, b);
  }
};
struct MaxNan {
  template <class T>
  static T run(T a, T b) {
    return a != a ? a : b != b ? b : Max::run<T>(a, b);
  }
};
// Signs are bits: NaNs pass unchanged (ISA 9.7.3.9, 9.7.3.10, 9.7.3.2).
struct Neg {
  template <class D, class A>
  static D run(A a) {
    return -a;
  }
};
struct Abs {
  template <class D, class A>
  static D run(A a) {
    return std::fabs(a);
  }
};
struct CopySign {
  template <class D, class A>
  static D run(A a, A b) {
    return std::copysign(b, a);
  }
};

template <class Op, size_t sources, class T, bool ftz, bool sat>
constexpr Handler arity() {
  using F = Finish<Op, ftz, sat>;
  if constexpr (sources == 1) return unary<F, T, T>;
  if constexpr (sources == 2) return binary<F, T, T>;
  if constexpr (sources == 3) return ternary<F, T, T>;
}

template <class Op, size_t sources>
Handler choose(Type type, bool ftz, bool sat) {
  if (type.bits == 64) return ftz || sat ? nullptr : arity<Op, sources, double, false, false>();
  if (ftz) return sat ? arity<Op, sources, float, true, true>() : arity<Op, sources, float, true, false>();
  return sat ? arity<Op, sources, float, false, true>() : arity<Op, sources, float, false, false>();
}

Rounding take_rounding(Binding& b) {
  const int mode = b.take_one({"rn", "rz", "rm", "rp"});
  return mode < 0 ? Rounding::none : static_cast<Rounding>(mode);
}

void finish(Binding& b, Handler handler, Type type, size_t sources, Class kind) {
  if (handler == nullptr) b.unsupported("these modifiers");
  b.in.run = handler;
  bind_operands(b, type, sources, kind);
}

template <class Op, size_t sources, RoundedOp rounded>
void bind_rounded(Binding& b) {
  const Rounding rounding = take_rounding(b);
  const bool approx = b.take("approx") || b.take("full");
  const bool ftz = b.take("ftz"), sat = b.take("sat");
  const Type type = b.take_type();
  // rcp.approx.ftz.f64 (ISA 9.7.3.14): the float64 of which only the upper half counts; here all of it.
  Handler handler = choose<Op, sources>(type, ftz && !(approx && type.bits == 64), sat);
  if (rounding != Rounding::none && rounding != Rounding::nearest) {
    if (approx) b.malformed("rounding of an approximation");
    handler = rounded_handler(rounded, rounding, type.bits == 64, ftz, sat);
  }
  finish(b, handler, type, sources, approx ? Class::special_function : Class::floating);
}

template <class Op>
void bind_approximation(Binding& b) {
  if (!b.take("approx")) b.malformed("needs .approx");
  const bool ftz = b.take("ftz");
  const Type type = b.take_type();
  finish(b, choose<Op, 1>(type, ftz && type.bits == 32, false), type, 1, Class::special_function);
}

template <class Op, class OpNan>
void bind_extremum(Binding& b) {
  const bool ftz = b.take("ftz"), nan = b.take("NaN");
  const Type type = b.take_type();
  finish(b, nan ? choose<OpNan, 2>(type, ftz, false) : choose<Op, 2>(type, ftz, false), type, 2, Class::floating);
}

template <class Op>
void bind_sign(Binding& b) {
  if (b.take("ftz")) b.unsupported("ftz");
  const Type type = b.take_type();
  finish(b, type.bits == 64 ? unary<Op, double, double> : unary<Op, float, float>, type, 1, Class::floating);
}

void bind_copysign(Binding& b) {
  const Type type = b.take_type();
  finish(b, type.bits == 64 ? binary<CopySign, double, double> : binary<CopySign, float, float>, type, 2,
         Class::floating);
}

// ISA 9.7.3.1
template <class T, int test>
Flow testp(Warp& w, const Instruction& in, uint32_t mask) {
  const auto* a = w.in<T>(in.a);
  uint32_t result = 0;
  for_lanes(mask, [&](int l) {
    const bool tests[] = {std::isfinite(a[l]), std::isinf(a[l]),    !(a[l] != a[l]),
                          a[l] != a[l],        std::isnormal(a[l]), std::fpclassify(a[l]) == FP_SUBNORMAL};
    result |= static_cast<uint32_t>(tests[test]) << l;
  });
  w.predicates[in.p] = (w.predicates[in.p] & ~mask) | result;
  return Flow::next;
}

void bind_testp(Binding& b) {
  static const Handler singles[] = {testp<float, 0>, testp<float, 1>, testp<float, 2>,
                                    testp<float, 3>, testp<float, 4>, testp<float, 5>};
  static const Handler doubles[] = {testp<double, 0>, testp<double, 1>, testp<double, 2>,
                                    testp<double, 3>, testp<double, 4>, testp<double, 5>};
  const int test = b.take_one({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  const Type type = b.take_type();
  if (test < 0) b.malformed("which test?");
  b.require_operands(2);
  b.in.kind = Class::floating;
  b.in.p = b.predicate_destination(b.operand(0));
  b.in.a = b.source(1, type);
  b.in.run = type.bits == 64 ? doubles[test] : singles[test];
}

}  // namespace

void add_float_ops(OpTable* table) {
  OpTable& t = *table;
  t["add/f"] = bind_rounded<Add, 2, RoundedOp::add>;
  t["sub/f"] = bind_rounded<Sub, 2, RoundedOp::sub>;
  t["mul/f"] = bind_rounded<Mul, 2, RoundedOp::mul>;
  t["fma/f"] = bind_rounded<Fma, 3, RoundedOp::fma>;
  t["mad/f"] = bind_rounded<Fma, 3, RoundedOp::fma>;
  t["div/f"] = bind_rounded<Div, 2, RoundedOp::div>;
  t["rcp"] = bind_rounded<Rcp, 1, RoundedOp::rcp>;
  t["sqrt"] = bind_rounded<Sqrt, 1, RoundedOp::sqrt>;
  t["rsqrt"] = bind_approximation<Rsqrt>;
  t["sin"] = bind_approximation<Sin>;
  t["cos"] = bind_approximation<Cos>;
  t["lg2"] = bind_approximation<Lg2>;
  t["ex2/f"] = bind_approximation<Ex2>;
  t["tanh/f"] = bind_approximation<Tanh>;
  t["min/f"] = bind_extremum<Min, MinNan>;
  t["max/f"] = bind_extremum<Max, MaxNan>;
  t["neg/f"] = bind_sign<Neg>;
  t["abs/f"] = bind_sign<Abs>;
  t["copysign"] = bind_copysign;
  t["testp"] = bind_testp;
}

}  // namespace gpusim
