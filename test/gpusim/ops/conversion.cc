// cvt (ISA 9.7.9.21): between integers, floats, 16-bit floats and tf32, with every rounding mode, saturation and pairs.
#include <cmath>
#include <limits>

#include "ops/lanes.h"
#include "ops/rounding.h"

namespace gpusim {
namespace {

struct F16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};
template <class T>
constexpr bool is_half = std::is_same_v<T, F16> || std::is_same_v<T, Bf16>;
template <class T>
constexpr bool is_real = std::is_floating_point_v<T> || is_half<T>;
template <class T>
using Cell = std::conditional_t<is_half<T>, uint32_t, Stored<std::conditional_t<is_half<T>, uint16_t, T>>>;

template <class T>
T from_cell(Cell<T> cell) {
  if constexpr (is_half<T>)
    return T{static_cast<uint16_t>(cell)};
  else
    return static_cast<T>(cell);
}

double wide(double x) { return x; }
double wide(float x) { return x; }
double wide(F16 x) { return f16_to_f32(x.bits); }
double wide(Bf16 x) { return bf16_to_f32(x.bits); }

/// The modifiers of one cvt, as they are kept in Instruction::imm.
struct Modes {
  Round round = Round::nearest;
  bool integral = false;  // .rni and so on: to an integer
  bool sat = false, ftz = false, relu = false, satfinite = false;
  uint32_t pack() const {
    return static_cast<uint32_t>(round) | integral << 8 | sat << 9 | ftz << 10 | relu << 11 | satfinite << 12;
  }
  static Modes unpack(uint32_t bits) {
    Modes m;
    m.round = static_cast<Round>(bits & 0xff);
    m.integral = (bits >> 8 & 1) != 0;
    m.sat = (bits >> 9 & 1) != 0;
    m.ftz = (bits >> 10 & 1) != 0;
    m.relu = (bits >> 11 & 1) != 0;
    m.satfinite = (bits >> 12 & 1) != 0;
    return m;
  }
};

double round_to_integer(double x, Round mode) {
  switch (mode) {
    case Round::nearest: return std::nearbyint(x);
    case Round::zero: return std::trunc(x);
    case Round::down: return std::floor(x);
    case Round::up: return std::ceil(x);
    case Round::away: return std::round(x);
  }
  return x;
}

/// Out of range is clamped, also without .sat. NaN gives 0, except where 64 bits are involved: there the sign bit.
template <class D>
D to_integer(double x, Round mode, bool sixty_four) {
  using Limits = std::numeric_limits<D>;
  if (x != x) return sixty_four ? static_cast<D>(uint64_t{1} << (8 * sizeof(D) - 1)) : D{0};
  const double whole = round_to_integer(x, mode);
  // 2^63 and 2^64 are exact, their predecessors are not: compare with the first value that is too large.
  const double above = std::ldexp(1.0, static_cast<int>(8 * sizeof(D)) - (std::is_signed_v<D> ? 1 : 0));
  if (whole >= above) return Limits::max();
  if (whole < static_cast<double>(Limits::min())) return Limits::min();
  return static_cast<D>(whole);
}

template <class D, class S>
D clamp_integer(S x) {
  using Limits = std::numeric_limits<D>;
  if constexpr (std::is_signed_v<S>) {
    if (x < 0) {
      if constexpr (!std::is_signed_v<D>)
        return 0;
      else
        return static_cast<int64_t>(x) < static_cast<int64_t>(Limits::min()) ? Limits::min() : static_cast<D>(x);
    }
  }
  return static_cast<uint64_t>(x) > static_cast<uint64_t>(Limits::max()) ? Limits::max() : static_cast<D>(x);
}

/// An integer of 64 bits rounded to odd in float64, as in rounding.h, so that the second rounding is right.
template <class S>
double integer_to_odd(S x) {
  const bool negative = x < 0;
  const uint64_t magnitude = negative ? 0 - static_cast<uint64_t>(x) : static_cast<uint64_t>(x);
  const uint64_t low = magnitude & 0x7ff;
  const uint64_t kept = magnitude > (uint64_t{1} << 53) ? (magnitude & ~uint64_t{0x7ff}) | (low != 0 ? 0x800 : 0)
                                                        : magnitude;
  return negative ? -static_cast<double>(kept) : static_cast<double>(kept);
}

template <class D>
D narrow(double x, const Modes& m) {
  if (m.integral) x = round_to_integer(x, m.round);
  const Round round = m.integral ? Round::nearest : m.round;
  if constexpr (std::is_same_v<D, double>) {
    return x;
  } else if constexpr (std::is_same_v<D, float>) {
    const float result = to_f32(x, round);
    return m.ftz ? flush(result) : result;
  } else if constexpr (std::is_same_v<D, F16>) {
    if (m.relu && x < 0) x = 0;
    uint16_t bits = to_f16(x, round);
    if (m.satfinite && (bits & 0x7fff) == 0x7c00) bits--;
    return {bits};
  } else {
    if (m.relu && x < 0) x = 0;
    uint16_t bits = to_bf16(x, round);
    if (m.satfinite && (bits & 0x7fff) == 0x7f80) bits--;
    return {bits};
  }
}

template <class D, class S>
Cell<D> convert(S x, const Modes& m) {
  if constexpr (!is_real<D> && !is_real<S>) {
    return m.sat ? clamp_integer<D, S>(x) : static_cast<D>(x);
  } else if constexpr (!is_real<D>) {
    double value = wide(x);
    if (m.ftz && std::is_same_v<S, float>) value = flush(static_cast<float>(value));
    return to_integer<D>(value, m.round, sizeof(D) == 8 || sizeof(S) == 8);
  } else {
    double value;
    if constexpr (is_real<S>) {
      value = wide(x);
      if (m.ftz && std::is_same_v<S, float>) value = flush(static_cast<float>(value));
    } else if constexpr (std::is_same_v<D, double>) {
      if (m.round == Round::nearest || sizeof(S) < 8) return static_cast<double>(x);
      value = static_cast<double>(x);
      // Correct the nearest value toward the asked direction; the difference is exact in 128 bits.
      const auto error = static_cast<__int128>(value) - static_cast<__int128>(x);
      const bool down = m.round == Round::down || (m.round == Round::zero && value > 0);
      const bool up = m.round == Round::up || (m.round == Round::zero && value < 0);
      if (error > 0 && down) value = std::nextafter(value, -HUGE_VAL);
      if (error < 0 && up) value = std::nextafter(value, HUGE_VAL);
      return value;
    } else {
      value = integer_to_odd(x);
    }
    if (m.sat) value = value > 0 ? (value < 1 ? value : 1) : 0;  // NaN becomes 0
    if constexpr (is_half<D>)
      return narrow<D>(value, m).bits;
    else
      return narrow<D>(value, m);
  }
}

// 8- and 16-bit integers arrive in registers that may be wider, whose upper bits do not count; results are extended to
// the register by the sign of the destination type.
template <class D, class S, class Register = Cell<S>>
Flow cvt(Warp& w, const Instruction& in, uint32_t mask) {
  const Modes modes = Modes::unpack(in.imm);
  auto* d = w.out<Cell<D>>(in.d);
  const auto* a = w.in<Register>(in.a);
  each_lane(mask, [&](int l) {
    const Cell<D> result = convert<D, S>(from_cell<S>(static_cast<Cell<S>>(a[l])), modes);
    if constexpr (!is_real<D> && sizeof(D) < 4)
      d[l] = static_cast<std::make_unsigned_t<D>>(result);
    else
      d[l] = result;
  });
  return Flow::next;
}

/// An 8- or 16-bit result in a wider register is sign- or zero-extended.
template <class R, class D>
Flow extend_result(Warp& w, const Instruction& in, uint32_t mask) {
  const Modes modes = Modes::unpack(in.imm);
  auto* d = w.out<R>(in.d);
  const auto* a = w.in<uint32_t>(in.a);
  for_lanes(mask, [&](int l) {
    const auto narrow_value = modes.sat ? clamp_integer<D, int32_t>(static_cast<int32_t>(a[l])) : static_cast<D>(a[l]);
    d[l] = static_cast<R>(static_cast<int64_t>(narrow_value));
  });
  return Flow::next;
}

// The frequent ones without a switch a lane: cvt.rn.bf16x2.f32 d, a, b puts a into the upper half.
template <class F>
Flow pair(Warp& w, const Instruction& in, uint32_t mask) {
  const Modes modes = Modes::unpack(in.imm);
  auto* d = w.out<uint32_t>(in.d);
  const auto *a = w.in<float>(in.a), *b = w.in<float>(in.b);
  if (modes.pack() == 0) {
    each_lane(mask, [=](int l) {
      if constexpr (std::is_same_v<F, F16>)
        d[l] = static_cast<uint32_t>(f32_to_f16(a[l])) << 16 | f32_to_f16(b[l]);
      else
        d[l] = static_cast<uint32_t>(f32_to_bf16(a[l])) << 16 | f32_to_bf16(b[l]);
    });
    return Flow::next;
  }
  for_lanes(mask, [&](int l) {
    d[l] = static_cast<uint32_t>(narrow<F>(a[l], modes).bits) << 16 | narrow<F>(b[l], modes).bits;
  });
  return Flow::next;
}

template <class F>
Flow single(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<uint32_t>(in.d);
  const auto* a = w.in<float>(in.a);
  each_lane(mask, [=](int l) {
    if constexpr (std::is_same_v<F, F16>)
      d[l] = f32_to_f16(a[l]);
    else
      d[l] = f32_to_bf16(a[l]);
  });
  return Flow::next;
}

template <class F>
Flow widen(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<float>(in.d);
  const auto* a = w.in<uint32_t>(in.a);
  each_lane(mask, [=](int l) {
    const auto h = static_cast<uint16_t>(a[l]);
    d[l] = canonical(std::is_same_v<F, F16> ? f16_to_f32(h) : bf16_to_f32(h));
  });
  return Flow::next;
}

Flow tf32(Warp& w, const Instruction& in, uint32_t mask) {
  const Modes modes = Modes::unpack(in.imm);
  auto* d = w.out<uint32_t>(in.d);
  const auto* a = w.in<float>(in.a);
  for_lanes(mask, [&](int l) { d[l] = to_tf32(modes.relu && a[l] < 0 ? 0.0f : a[l], modes.round); });
  return Flow::next;
}

/// An integer in the lower bits of a 64-bit register.
template <class D>
Handler from_low_bits(Type s) {
  const bool is_signed = s.kind == Type::Kind::s;
  switch (s.bits) {
    case 8: return is_signed ? cvt<D, int8_t, uint64_t> : cvt<D, uint8_t, uint64_t>;
    case 16: return is_signed ? cvt<D, int16_t, uint64_t> : cvt<D, uint16_t, uint64_t>;
    case 32: return is_signed ? cvt<D, int32_t, uint64_t> : cvt<D, uint32_t, uint64_t>;
    default: return nullptr;
  }
}

template <class D>
Handler from(Type s, bool low_bits) {
  using K = Type::Kind;
  if (s.kind == K::f) return s.bits == 64 ? cvt<D, double> : s.bits == 32 ? cvt<D, float> : cvt<D, F16>;
  if (s.kind == K::bf) return cvt<D, Bf16>;
  if (low_bits) return from_low_bits<D>(s);
  const bool is_signed = s.kind == K::s;
  switch (s.bits) {
    case 8: return is_signed ? cvt<D, int8_t> : cvt<D, uint8_t>;
    case 16: return is_signed ? cvt<D, int16_t> : cvt<D, uint16_t>;
    case 32: return is_signed ? cvt<D, int32_t> : cvt<D, uint32_t>;
    case 64: return is_signed ? cvt<D, int64_t> : cvt<D, uint64_t>;
    default: return nullptr;
  }
}

Handler choose(Type d, Type s, bool low_bits) {
  using K = Type::Kind;
  if (d.kind == K::f)
    return d.bits == 64 ? from<double>(s, low_bits) : d.bits == 32 ? from<float>(s, low_bits) : from<F16>(s, low_bits);
  if (d.kind == K::bf) return from<Bf16>(s, low_bits);
  const bool is_signed = d.kind == K::s;
  switch (d.bits) {
    case 8: return is_signed ? from<int8_t>(s, low_bits) : from<uint8_t>(s, low_bits);
    case 16: return is_signed ? from<int16_t>(s, low_bits) : from<uint16_t>(s, low_bits);
    case 32: return is_signed ? from<int32_t>(s, low_bits) : from<uint32_t>(s, low_bits);
    case 64: return is_signed ? from<int64_t>(s, low_bits) : from<uint64_t>(s, low_bits);
    default: return nullptr;
  }
}

bool floating(Type type) { return type.kind == Type::Kind::f || type.kind == Type::Kind::bf; }

void bind_cvt(Binding& b) {
  Modes modes;
  const int integral = b.take_one({"rni", "rzi", "rmi", "rpi"});
  const int rounding = integral >= 0 ? integral : b.take_one({"rn", "rz", "rm", "rp", "rna"});
  modes.integral = integral >= 0;
  if (rounding >= 0) modes.round = static_cast<Round>(rounding);
  modes.ftz = b.take("ftz");
  modes.sat = b.take("sat");
  modes.relu = b.take("relu");
  modes.satfinite = b.take("satfinite");
  const Type d = b.take_type(), s = b.take_type();
  Instruction& in = b.in;
  in.kind = Class::conversion;
  if (d.count == 2) {
    if (!s.is(Type::Kind::f, 32)) b.unsupported("source type");
    b.require_operands(3);
    in.run = d.kind == Type::Kind::bf ? pair<Bf16> : pair<F16>;
    in.d = b.destination(0, kB32);
    in.a = b.source(1, {Type::Kind::f, 32});
    in.b = b.source(2, {Type::Kind::f, 32});
    in.imm = modes.pack();
    return;
  }
  if (s.count != 1) b.unsupported("source type");
  b.require_operands(2);
  if (d.kind == Type::Kind::tf) {
    if (!s.is(Type::Kind::f, 32) || modes.satfinite) b.unsupported("source type");
    in.run = tf32;
    in.d = b.destination(0, kB32);
    in.a = b.source(1, {Type::Kind::f, 32});
    in.imm = modes.pack();
    return;
  }
  if (modes.satfinite && !(d.kind == Type::Kind::bf || d.is(Type::Kind::f, 16))) b.unsupported("satfinite");
  // Float to integer needs an integer rounding, narrowing floats and integer to float a float rounding.
  if (floating(s) && !floating(d) && !modes.integral) b.malformed("needs .rni, .rzi, .rmi or .rpi");
  if (floating(d) && (!floating(s) || d.bits < s.bits) && rounding < 0) b.malformed("needs a rounding mode");
  if (!floating(d) && !floating(s) && rounding >= 0) b.malformed("rounding between integers");
  const int source_bits = b.register_bits(b.operand(1));
  const bool low_bits = source_bits == 64 && s.bits < 64;
  if (low_bits && floating(s)) b.unsupported("a 64-bit register as a narrower source");
  in.run = choose(d, s, low_bits);
  if (in.run == nullptr) b.unsupported("types");
  in.d = b.destination(b.operand(0), d, true);
  in.a = b.source(b.operand(1), s, true);
  in.imm = modes.pack();
  const int register_bits = b.register_bits(b.operand(0));
  if (register_bits > d.bits && !(register_bits == 32 && d.bits < 32 && d.kind != Type::Kind::s)) {
    // Only sign extension needs work: the upper bits of 32-bit lanes are zeros already.
    if (floating(d) || floating(s) || source_bits > 32) b.unsupported("a destination wider than its type");
    const bool is_signed = d.kind == Type::Kind::s, wide_register = register_bits == 64;
    if (d.bits == 8)
      in.run = wide_register ? (is_signed ? extend_result<uint64_t, int8_t> : extend_result<uint64_t, uint8_t>)
                             : (is_signed ? extend_result<uint32_t, int8_t> : extend_result<uint32_t, uint8_t>);
    else if (d.bits == 16)
      in.run = wide_register ? (is_signed ? extend_result<uint64_t, int16_t> : extend_result<uint64_t, uint16_t>)
                             : (is_signed ? extend_result<uint32_t, int16_t> : extend_result<uint32_t, uint16_t>);
    else
      in.run = is_signed ? extend_result<uint64_t, int32_t> : extend_result<uint64_t, uint32_t>;
    if (modes.sat) b.unsupported("saturation into a wider register");
  }
  if (modes.pack() == 0 && s.is(Type::Kind::f, 32) && d.is(Type::Kind::f, 16)) in.run = single<F16>;
  if (modes.pack() == 0 && s.is(Type::Kind::f, 32) && d.is(Type::Kind::bf, 16)) in.run = single<Bf16>;
  if (modes.pack() == 0 && s.is(Type::Kind::f, 16) && d.is(Type::Kind::f, 32)) in.run = widen<F16>;
  if (modes.pack() == 0 && s.is(Type::Kind::bf, 16) && d.is(Type::Kind::f, 32)) in.run = widen<Bf16>;
}

}  // namespace

void add_conversion_ops(OpTable* table) { (*table)["cvt"] = bind_cvt; }

}  // namespace gpusim
