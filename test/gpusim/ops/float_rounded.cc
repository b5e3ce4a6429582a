// .rz, .rm and .rp of add, sub, mul, fma, div, rcp and sqrt (ISA 9.7.3): the processor's own rounding modes, exact in all
// cases. Compiled with -frounding-math, so that the compiler moves no arithmetic across the change of mode.
#include <cfenv>
#include <cmath>

#include "ops/float.h"
#include "ops/lanes.h"
#include "ops/rounding.h"

namespace gpusim {
namespace {

class Mode {
 public:
  explicit Mode(Rounding rounding) : before_(std::fegetround()) {
    std::fesetround(rounding == Rounding::zero ? FE_TOWARDZERO : rounding == Rounding::down ? FE_DOWNWARD : FE_UPWARD);
  }
  ~Mode() { std::fesetround(before_); }

 private:
  int before_;
};

template <RoundedOp op, class T>
T compute(T a, T b, T c) {
  switch (op) {
    case RoundedOp::add: return a + b;
    case RoundedOp::sub: return a - b;
    case RoundedOp::mul: return a * b;
    case RoundedOp::fma: return std::fma(a, b, c);
    case RoundedOp::div: return a / b;
    case RoundedOp::rcp: return T{1} / a;
    case RoundedOp::sqrt: return std::sqrt(a);
  }
  return a;
}

template <RoundedOp op, class T, Rounding rounding, bool ftz>
Flow run(Warp& w, const Instruction& in, uint32_t mask) {
  constexpr bool two = op != RoundedOp::rcp && op != RoundedOp::sqrt;
  auto* d = w.out<T>(in.d);
  const auto* a = w.in<T>(in.a);
  const auto* b = two ? w.in<T>(in.b) : a;
  const auto* c = op == RoundedOp::fma ? w.in<T>(in.c) : a;
  const Mode mode(rounding);
  for_lanes(mask, [&](int l) {
    volatile T x = a[l], y = b[l], z = c[l];
    if constexpr (ftz) {
      x = flush(x);
      y = flush(y);
      z = flush(z);
    }
    T result = compute<op, T>(x, y, z);
    if constexpr (ftz) result = flush(result);
    if constexpr (sizeof(T) == 4) result = canonical(result);
    d[l] = result;
  });
  return Flow::next;
}

template <RoundedOp op, class T, bool ftz>
Handler by_rounding(Rounding rounding) {
  switch (rounding) {
    case Rounding::zero: return run<op, T, Rounding::zero, ftz>;
    case Rounding::down: return run<op, T, Rounding::down, ftz>;
    case Rounding::up: return run<op, T, Rounding::up, ftz>;
    default: return nullptr;
  }
}

template <RoundedOp op>
Handler by_type(Rounding rounding, bool is_double, bool ftz) {
  if (is_double) return ftz ? nullptr : by_rounding<op, double, false>(rounding);
  return ftz ? by_rounding<op, float, true>(rounding) : by_rounding<op, float, false>(rounding);
}

}  // namespace

Handler rounded_handler(RoundedOp op, Rounding rounding, bool is_double, bool ftz, bool sat) {
  if (sat) return nullptr;
  switch (op) {
    case RoundedOp::add: return by_type<RoundedOp::add>(rounding, is_double, ftz);
    case RoundedOp::sub: return by_type<RoundedOp::sub>(rounding, is_double, ftz);
    case RoundedOp::mul: return by_type<RoundedOp::mul>(rounding, is_double, ftz);
    case RoundedOp::fma: return by_type<RoundedOp::fma>(rounding, is_double, ftz);
    case RoundedOp::div: return by_type<RoundedOp::div>(rounding, is_double, ftz);
    case RoundedOp::rcp: return by_type<RoundedOp::rcp>(rounding, is_double, ftz);
    case RoundedOp::sqrt: return by_type<RoundedOp::sqrt>(rounding, is_double, ftz);
  }
  return nullptr;
}

}  // namespace gpusim
