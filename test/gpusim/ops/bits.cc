// Bits of integers: logic and shifts (ISA 9.7.8), counts and fields (9.7.1), bytes (9.7.9.7).
#include "ops/integer.h"

namespace gpusim {
namespace {

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

}  // namespace

void add_bit_ops(OpTable* table) {
  OpTable& t = *table;
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
}

}  // namespace gpusim
