// Integer arithmetic (ISA 9.7.1) and extended precision (9.7.2).
#include "ops/integer.h"

namespace gpusim {
namespace {

template <class T>
using Wide =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                          std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

// Arithmetic wraps. 16-bit operands would be promoted to int, whose overflow is undefined: go through uint64_t.
template <class T>
T wrap(uint64_t value) {
  return static_cast<T>(static_cast<Unsigned<T>>(value));
}

struct Add {
  template <class D, class A>
  static D run(A a, A b) {
    return wrap<D>(static_cast<uint64_t>(static_cast<Unsigned<A>>(a)) + static_cast<Unsigned<A>>(b));
  }
};
struct Sub {
  template <class D, class A>
  static D run(A a, A b) {
    return wrap<D>(static_cast<uint64_t>(static_cast<Unsigned<A>>(a)) - static_cast<Unsigned<A>>(b));
  }
};
struct MulLo {
  template <class D, class A>
  static D run(A a, A b) {
    return wrap<D>(static_cast<uint64_t>(static_cast<Unsigned<A>>(a)) * static_cast<Unsigned<A>>(b));
  }
};
struct MulHi {
  template <class D, class A>
  static D run(A a, A b) {
    return static_cast<D>((static_cast<Wide<A>>(a) * static_cast<Wide<A>>(b)) >> (8 * sizeof(A)));
  }
};
struct MulWide {
  template <class D, class A>
  static D run(A a, A b) {
    return static_cast<D>(static_cast<D>(a) * static_cast<D>(b));
  }
};
template <class Mul>
struct Mad {
  template <class D, class A>
  static D run(A a, A b, D c) {
    return Add::run<D, D>(Mul::template run<D, A>(a, b), c);
  }
};
struct AddSaturated {  // .sat is for s32 only
  template <class D, class A>
  static D run(A a, A b) {
    const int64_t sum = int64_t{a} + b;
    return static_cast<D>(sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum);
  }
};
struct SubSaturated {
  template <class D, class A>
  static D run(A a, A b) {
    const int64_t sum = int64_t{a} - b;
    return static_cast<D>(sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum);
  }
};
// Division by zero is unspecified on the device; here it gives all ones, as hardware does.
struct Div {
  template <class D, class A>
  static D run(A a, A b) {
    if (b == 0) return static_cast<D>(-1);
    if (std::is_signed_v<A> && b == static_cast<A>(-1)) return Sub::run<D, A>(0, a);
    return static_cast<D>(a / b);
  }
};
struct Rem {
  template <class D, class A>
  static D run(A a, A b) {
    if (b == 0) return static_cast<D>(a);
    if (std::is_signed_v<A> && b == static_cast<A>(-1)) return 0;
    return static_cast<D>(a % b);
  }
};
struct Min {
  template <class D, class A>
  static D run(A a, A b) {
    return b < a ? b : a;
  }
};
struct Max {
  template <class D, class A>
  static D run(A a, A b) {
    return a < b ? b : a;
  }
};
struct Neg {
  template <class D, class A>
  static D run(A a) {
    return Sub::run<D, A>(0, a);
  }
};
struct Abs {
  template <class D, class A>
  static D run(A a) {
    return a < 0 ? Sub::run<D, A>(0, a) : a;
  }
};
struct Sad {
  template <class D, class A>
  static D run(A a, A b, D c) {
    return Add::run<D, D>(c, a < b ? Sub::run<D, A>(b, a) : Sub::run<D, A>(a, b));
  }
};

template <class T, bool subtract, bool uses, bool sets>
Flow with_carry(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<T>(in.d);
  const auto *a = w.in<T>(in.a), *b = w.in<T>(in.b);
  uint32_t flags = w.carry;
  for_lanes(mask, [&](int l) {
    const unsigned __int128 extra = uses ? flags >> l & 1 : 0;
    const unsigned __int128 sum = subtract ? static_cast<unsigned __int128>(a[l]) - b[l] - extra
                                           : static_cast<unsigned __int128>(a[l]) + b[l] + extra;
    d[l] = static_cast<T>(sum);
    const auto out = static_cast<uint32_t>(sum >> (8 * sizeof(T)) & 1);
    flags = (flags & ~(1u << l)) | out << l;
  });
  if (sets) w.carry = flags;
  return Flow::next;
}

template <bool subtract, bool uses, bool sets>
void bind_carry(Binding& b) {
  const Type type = b.take_type();
  if (type.bits == 32)
    b.in.run = with_carry<uint32_t, subtract, uses, sets>;
  else
    set(b, type.bits == 64 ? with_carry<uint64_t, subtract, uses, sets> : nullptr, type);
  bind_operands(b, type, 2, Class::integer);
}

// ISA 9.7.2.5 and 9.7.2.6: a half of the product, which is signed or not, plus c with the carry flag.
template <class T, bool high, bool uses, bool sets>
Flow mad_with_carry(Warp& w, const Instruction& in, uint32_t mask) {
  using U = std::make_unsigned_t<T>;
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  auto* d = w.out<U>(in.d);
  const auto *a = w.in<T>(in.a), *b = w.in<T>(in.b);
  const auto* c = w.in<U>(in.c);
  uint32_t flags = w.carry;
  for_lanes(mask, [&](int l) {
    const Wide product = static_cast<Wide>(a[l]) * static_cast<Wide>(b[l]);
    const auto half = static_cast<U>(high ? product >> (8 * sizeof(T)) : product);
    const unsigned __int128 sum = static_cast<unsigned __int128>(half) + c[l] + (uses ? flags >> l & 1 : 0);
    d[l] = static_cast<U>(sum);
    const auto out = static_cast<uint32_t>(sum >> (8 * sizeof(T)) & 1);
    flags = (flags & ~(1u << l)) | out << l;
  });
  if (sets) w.carry = flags;
  return Flow::next;
}

template <bool high, bool uses, bool sets>
void bind_mad_half(Binding& b) {
  const Type type = b.take_type();
  const bool is_signed = type.kind == Type::Kind::s;
  Handler run = nullptr;
  if (type.bits == 32)
    run = is_signed ? mad_with_carry<int32_t, high, uses, sets> : mad_with_carry<uint32_t, high, uses, sets>;
  if (type.bits == 64)
    run = is_signed ? mad_with_carry<int64_t, high, uses, sets> : mad_with_carry<uint64_t, high, uses, sets>;
  set(b, run, type);
  bind_operands(b, type, 3, Class::integer);
}

template <bool uses, bool sets>
void bind_mad_carry(Binding& b) {
  switch (b.take_one({"lo", "hi"})) {
    case 0: return bind_mad_half<false, uses, sets>(b);
    case 1: return bind_mad_half<true, uses, sets>(b);
    default: b.malformed("needs .lo or .hi");
  }
}

void bind_madc(Binding& b) {
  if (b.take("cc"))
    bind_mad_carry<true, true>(b);
  else
    bind_mad_carry<true, false>(b);
}

template <class Op, class Saturated, bool subtract>
void bind_sum(Binding& b) {
  if (b.take("cc")) return bind_carry<subtract, false, true>(b);
  const bool saturate = b.take("sat");
  const Type type = b.take_type();
  if (saturate && !type.is(Type::Kind::s, 32)) b.unsupported("sat");
  set(b, saturate ? binary<Saturated, int32_t, int32_t> : for_integer<Same2<Op>::template Make>(type), type);
  bind_operands(b, type, 2, Class::integer);
}

template <bool subtract>
void bind_sum_with_carry(Binding& b) {
  if (b.take("cc"))
    bind_carry<subtract, true, true>(b);
  else
    bind_carry<subtract, true, false>(b);
}

Type widened(Type type) {
  type.bits = static_cast<uint8_t>(type.bits * 2);
  return type;
}

void bind_mul(Binding& b) {
  const int part = b.take_one({"lo", "hi", "wide"});
  const Type type = b.take_type();
  if (part == 2) {
    const bool is_signed = type.kind == Type::Kind::s;
    if (type.bits == 16)
      b.in.run = is_signed ? binary<MulWide, int32_t, int16_t> : binary<MulWide, uint32_t, uint16_t>;
    else
      set(b,
          type.bits == 32 ? (is_signed ? binary<MulWide, int64_t, int32_t> : binary<MulWide, uint64_t, uint32_t>)
                          : nullptr,
          type);
    b.require_operands(3);
    b.in.kind = Class::integer;
    b.in.d = b.destination(0, widened(type));
    b.in.a = b.source(1, type);
    b.in.b = b.source(2, type);
    return;
  }
  if (part < 0) b.malformed("needs .lo, .hi or .wide");
  set(b, part == 0 ? for_integer<Same2<MulLo>::Make>(type) : for_integer<Same2<MulHi>::Make>(type), type);
  bind_operands(b, type, 2, Class::integer);
}

void bind_mad(Binding& b) {
  if (b.take("cc")) return bind_mad_carry<false, true>(b);
  const int part = b.take_one({"lo", "hi", "wide"});
  const Type type = b.take_type();
  if (part == 2) {
    const bool is_signed = type.kind == Type::Kind::s;
    if (type.bits == 16)
      b.in.run = is_signed ? ternary<Mad<MulWide>, int32_t, int16_t> : ternary<Mad<MulWide>, uint32_t, uint16_t>;
    else
      set(b,
          type.bits == 32
              ? (is_signed ? ternary<Mad<MulWide>, int64_t, int32_t> : ternary<Mad<MulWide>, uint64_t, uint32_t>)
              : nullptr,
          type);
    b.require_operands(4);
    b.in.kind = Class::integer;
    b.in.d = b.destination(0, widened(type));
    b.in.a = b.source(1, type);
    b.in.b = b.source(2, type);
    b.in.c = b.source(3, widened(type));
    return;
  }
  if (part < 0) b.malformed("needs .lo, .hi or .wide");
  set(b, part == 0 ? for_integer<Same3<Mad<MulLo>>::Make>(type) : for_integer<Same3<Mad<MulHi>>::Make>(type), type);
  bind_operands(b, type, 3, Class::integer);
}

// ISA 9.7.1.23: four products of bytes and a sum.
template <bool a_signed, bool b_signed>
struct Dp4a {
  template <class D, class A>
  static D run(A a, A b, A c) {
    uint32_t sum = c;
    for (int i = 0; i < 4; i++) {
      const int32_t x = a_signed ? int32_t{static_cast<int8_t>(a >> (8 * i))}
                                 : static_cast<int32_t>(a >> (8 * i) & 0xff);
      const int32_t y = b_signed ? int32_t{static_cast<int8_t>(b >> (8 * i))}
                                 : static_cast<int32_t>(b >> (8 * i) & 0xff);
      sum += static_cast<uint32_t>(x * y);
    }
    return sum;
  }
};

void bind_dp4a(Binding& b) {
  const bool a_signed = b.take_type().kind == Type::Kind::s;
  const bool b_signed = b.take_type().kind == Type::Kind::s;
  if (a_signed)
    b.in.run = b_signed ? ternary<Dp4a<true, true>, uint32_t, uint32_t>
                        : ternary<Dp4a<true, false>, uint32_t, uint32_t>;
  else
    b.in.run = b_signed ? ternary<Dp4a<false, true>, uint32_t, uint32_t>
                        : ternary<Dp4a<false, false>, uint32_t, uint32_t>;
  bind_operands(b, kB32, 3, Class::integer);
}

}  // namespace

void add_integer_ops(OpTable* table) {
  OpTable& t = *table;
  t["add/i"] = bind_sum<Add, AddSaturated, false>;
  t["sub/i"] = bind_sum<Sub, SubSaturated, true>;
  t["addc"] = bind_sum_with_carry<false>;
  t["subc"] = bind_sum_with_carry<true>;
  t["mul/i"] = bind_mul;
  t["mad/i"] = bind_mad;
  t["madc"] = bind_madc;
  t["div/i"] = bind_same<Div, 2, Same2<Div>::Make>;
  t["rem/i"] = bind_same<Rem, 2, Same2<Rem>::Make>;
  t["min/i"] = bind_same<Min, 2, Same2<Min>::Make>;
  t["max/i"] = bind_same<Max, 2, Same2<Max>::Make>;
  t["neg/i"] = bind_same<Neg, 1, Same1<Neg>::Make>;
  t["abs/i"] = bind_same<Abs, 1, Same1<Abs>::Make>;
  t["sad"] = bind_same<Sad, 3, Same3<Sad>::Make>;
  t["dp4a"] = bind_dp4a;
}

}  // namespace gpusim
