// Integer arithmetic (ISA 9.7.1), extended precision (9.7.2), and logic and shifts on bits (9.7.8).
#include "ops/lanes.h"

namespace gpusim {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
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

struct And {
  template <class D, class A>
  static D run(A a, A b) {
    return static_cast<D>(a & b);
  }
};
struct Or {
  template <class D, class A>
  static D run(A a, A b) {
    return static_cast<D>(a | b);
  }
};
struct Xor {
  template <class D, class A>
  static D run(A a, A b) {
    return static_cast<D>(a ^ b);
  }
};
struct Not {
  template <class D, class A>
  static D run(A a) {
    return static_cast<D>(~a);
  }
};
struct CNot {
  template <class D, class A>
  static D run(A a) {
    return a == 0;
  }
};
// ISA 9.7.8.8, 9.7.8.9: counts beyond the width shift everything out.
struct Shl {
  template <class D, class A>
  static D run(A a, uint32_t count) {
    return count >= 8 * sizeof(A) ? D{0} : static_cast<D>(static_cast<uint64_t>(a) << (count & 63));
  }
};
struct Shr {
  template <class D, class A>
  static D run(A a, uint32_t count) {
    const uint32_t most = 8 * sizeof(A) - 1;
    if (count > most) return std::is_signed_v<A> ? static_cast<D>(a >> most) : D{0};
    return static_cast<D>(a >> count);
  }
};
struct Popc {
  template <class D, class A>
  static D run(A a) {
    return static_cast<D>(__builtin_popcountll(a));
  }
};
struct Clz {
  template <class D, class A>
  static D run(A a) {
    return a == 0 ? static_cast<D>(8 * sizeof(A))
                  : static_cast<D>(__builtin_clzll(a) - (64 - 8 * static_cast<int>(sizeof(A))));
  }
};
struct Brev {
  template <class D, class A>
  static D run(A a) {
    D reversed = 0;
    for (unsigned i = 0; i < 8 * sizeof(A); i++) reversed |= static_cast<D>((a >> i & 1) << (8 * sizeof(A) - 1 - i));
    return reversed;
  }
};
// ISA 9.7.1.16: the most significant bit that differs from the sign.
struct Bfind {
  template <class D, class A>
  static D run(A a) {
    const auto bits = static_cast<Unsigned<A>>(std::is_signed_v<A> && a < 0 ? ~a : a);
    return bits == 0 ? 0xffffffffu : static_cast<D>(63 - __builtin_clzll(bits));
  }
};
struct BfindShift {
  template <class D, class A>
  static D run(A a) {
    const uint32_t found = Bfind::run<D, A>(a);
    return found == 0xffffffffu ? found : static_cast<D>(8 * sizeof(A) - 1 - found);
  }
};
// ISA 9.7.1.19: position and length are taken modulo 256; bits beyond the top are the sign (or zero).
struct Bfe {
  template <class D, class A>
  static D run(A a, uint32_t position, uint32_t length) {
    const int msb = 8 * sizeof(A) - 1;
    const int pos = position & 0xff, len = length & 0xff;
    using U = Unsigned<A>;
    bool sign = false;
    if (std::is_signed_v<A> && len != 0) {
      const int at = pos + len - 1 < msb ? pos + len - 1 : msb;
      sign = (static_cast<U>(a) >> at & 1) != 0;
    }
    const U field = pos > msb ? 0 : static_cast<U>(static_cast<U>(a) >> pos);
    const int kept = pos + len - 1 > msb ? msb - pos + 1 : len;
    if (kept <= 0) return static_cast<D>(sign ? ~U{0} : U{0});
    if (kept > msb) return static_cast<D>(field);
    const U mask = static_cast<U>((U{1} << kept) - 1);
    return static_cast<D>((field & mask) | (sign ? static_cast<U>(~mask) : U{0}));
  }
};
struct Lop3 {
  static uint32_t run(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
    uint32_t result = 0;
    for (int i = 0; i < 8; i++)
      if ((table >> i & 1) != 0) result |= ((i & 4) ? a : ~a) & ((i & 2) ? b : ~b) & ((i & 1) ? c : ~c);
    return result;
  }
};

template <class Op>
struct Same2 {
  template <class T>
  struct Make {
    static constexpr Handler handler = binary<Op, T, T>;
  };
};
template <class Op>
struct Same1 {
  template <class T>
  struct Make {
    static constexpr Handler handler = unary<Op, T, T>;
  };
};
template <class Op>
struct Same3 {
  template <class T>
  struct Make {
    static constexpr Handler handler = ternary<Op, T, T>;
  };
};
template <class Op>
struct Shift {
  template <class T>
  struct Make {
    static constexpr Handler handler = binary<Op, T, T, uint32_t>;
  };
};
template <class Op>
struct Count {
  template <class T>
  struct Make {
    static constexpr Handler handler = unary<Op, uint32_t, T>;
  };
};
template <class T>
struct MakeBfe {
  static constexpr Handler handler = ternary<Bfe, T, T, uint32_t, uint32_t>;
};

void set(Binding& b, Handler handler, Type type) {
  if (handler == nullptr) b.unsupported("type of " + std::to_string(type.bits) + " bits");
  b.in.run = handler;
}

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

template <class Op, size_t sources, template <class> class Make>
void bind_same(Binding& b) {
  const Type type = b.take_type();
  set(b, for_integer<Make>(type), type);
  bind_operands(b, type, sources, Class::integer);
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

template <class Op>
void bind_shift(Binding& b) {
  const Type type = b.take_type();
  set(b, for_integer<Shift<Op>::template Make>(type), type);
  b.require_operands(3);
  b.in.kind = Class::integer;
  b.in.d = b.destination(0, type);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, kB32);
}

template <class Op>
void bind_count(Binding& b) {
  const Type type = b.take_type();
  if (type.bits < 32) b.malformed("type");
  set(b, for_integer<Count<Op>::template Make>(type), type);
  b.require_operands(2);
  b.in.kind = Class::integer;
  b.in.d = b.destination(0, kB32);
  b.in.a = b.source(1, type);
}

void bind_bfind(Binding& b) {
  if (b.take("shiftamt"))
    bind_count<BfindShift>(b);
  else
    bind_count<Bfind>(b);
}

void bind_bfe(Binding& b) {
  const Type type = b.take_type();
  if (type.bits < 32) b.malformed("type");
  set(b, for_integer<MakeBfe>(type), type);
  b.require_operands(4);
  b.in.kind = Class::integer;
  b.in.d = b.destination(0, type);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, kB32);
  b.in.c = b.source(3, kB32);
}

// ISA 9.7.1.20: a's low bits into b.
template <class T>
Flow bfi(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<T>(in.d);
  const auto *a = w.in<T>(in.a), *b = w.in<T>(in.b);
  const auto* position = w.in<uint32_t>(in.c);
  const auto* length = w.in<uint32_t>(in.more->c[0]);
  const int width = 8 * sizeof(T);
  for_lanes(mask, [&](int l) {
    const int pos = position[l] & 0xff, len = length[l] & 0xff;
    if (len == 0 || pos >= width) {
      d[l] = b[l];
      return;
    }
    const T ones = len >= width ? ~T{0} : static_cast<T>((T{1} << len) - 1);
    const T field = static_cast<T>(ones << pos);
    d[l] = (b[l] & ~field) | ((a[l] << pos) & field);
  });
  return Flow::next;
}

void bind_bfi(Binding& b) {
  const Type type = b.take_type();
  set(b, type.bits == 32 ? bfi<uint32_t> : type.bits == 64 ? bfi<uint64_t> : nullptr, type);
  b.require_operands(5);
  b.in.kind = Class::integer;
  b.in.d = b.destination(0, type);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, type);
  b.in.c = b.source(3, kB32);
  b.list().c.push_back(b.source(4, kB32));
}

// ISA 9.7.8.6: imm is the truth table.
Flow lop3(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<uint32_t>(in.d);
  const auto *a = w.in<uint32_t>(in.a), *b = w.in<uint32_t>(in.b), *c = w.in<uint32_t>(in.c);
  const uint32_t table = in.imm;
  each_lane(mask, [=](int l) { d[l] = Lop3::run(a[l], b[l], c[l], table); });
  return Flow::next;
}

void bind_lop3(Binding& b) {
  if (!b.take_type().is(Type::Kind::b, 32)) b.malformed("type");
  b.require_operands(5);
  b.in.imm = static_cast<uint32_t>(b.constant(4)) & 0xff;
  b.in.run = lop3;
  b.in.kind = Class::integer;
  b.in.d = b.destination(0, kB32);
  b.in.a = b.source(1, kB32);
  b.in.b = b.source(2, kB32);
  b.in.c = b.source(3, kB32);
}

// ISA 9.7.8.7: the funnel b:a, shifted; .l keeps the upper word, .r the lower.
template <bool left, bool wraps>
struct Funnel {
  template <class D, class A>
  static D run(A a, A b, A count) {
    const uint32_t n = wraps ? count & 31 : count > 32 ? 32 : count;
    const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
    return left ? static_cast<D>((both << n) >> 32) : static_cast<D>(both >> n);
  }
};

void bind_shf(Binding& b) {
  const int side = b.take_one({"l", "r"});
  const int mode = b.take_one({"clamp", "wrap"});
  if (!b.take_type().is(Type::Kind::b, 32) || side < 0 || mode < 0) b.malformed("modifiers");
  if (side == 0)
    b.in.run = mode == 1 ? ternary<Funnel<true, true>, uint32_t, uint32_t>
                         : ternary<Funnel<true, false>, uint32_t, uint32_t>;
  else
    b.in.run = mode == 1 ? ternary<Funnel<false, true>, uint32_t, uint32_t>
                         : ternary<Funnel<false, false>, uint32_t, uint32_t>;
  bind_operands(b, kB32, 3, Class::integer);
}

// ISA 9.7.9.7: each selector nibble names one of 8 bytes; its top bit repeats that byte's sign.
struct Prmt {
  template <class D, class A>
  static D run(A a, A b, A selectors) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
      const uint32_t selector = selectors >> (4 * i) & 0xf;
      uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (selector & 7))) & 0xff;
      if ((selector & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
      result |= byte << (8 * i);
    }
    return result;
  }
};

void bind_prmt(Binding& b) {
  if (!b.take_type().is(Type::Kind::b, 32)) b.malformed("type");
  b.in.run = ternary<Prmt, uint32_t, uint32_t>;
  bind_operands(b, kB32, 3, Class::integer);
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
  t["and/i"] = bind_same<And, 2, Same2<And>::Make>;
  t["or/i"] = bind_same<Or, 2, Same2<Or>::Make>;
  t["xor/i"] = bind_same<Xor, 2, Same2<Xor>::Make>;
  t["not/i"] = bind_same<Not, 1, Same1<Not>::Make>;
  t["cnot"] = bind_same<CNot, 1, Same1<CNot>::Make>;
  t["brev"] = bind_same<Brev, 1, Same1<Brev>::Make>;
  t["shl"] = bind_shift<Shl>;
  t["shr"] = bind_shift<Shr>;
  t["popc"] = bind_count<Popc>;
  t["clz"] = bind_count<Clz>;
  t["bfind"] = bind_bfind;
  t["bfe"] = bind_bfe;
  t["bfi"] = bind_bfi;
  t["lop3"] = bind_lop3;
  t["shf"] = bind_shf;
  t["prmt"] = bind_prmt;
  t["dp4a"] = bind_dp4a;
}

}  // namespace gpusim
