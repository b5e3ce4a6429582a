// Comparisons, selections and logic on predicates (ISA 9.7.5 to 9.7.8): a predicate is a mask of 32 lanes.
#include <cmath>

#include "ops/lanes.h"
#include "ops/rounding.h"

namespace gpusim {
namespace {

// ISA 9.3.1: the unordered comparisons are true where an operand is NaN, the others false.
enum class Compare : uint8_t { eq, ne, lt, le, gt, ge, ltu, leu, gtu, geu, equ, neu, num, nan };

template <Compare compare, class T>
bool holds(T a, T b) {
  switch (compare) {
    case Compare::eq: return a == b;
    case Compare::ne: return a == a && b == b && a != b;
    case Compare::lt: return a < b;
    case Compare::le: return a <= b;
    case Compare::gt: return a > b;
    case Compare::ge: return a >= b;
    case Compare::ltu: return !(a >= b);
    case Compare::leu: return !(a > b);
    case Compare::gtu: return !(a <= b);
    case Compare::geu: return !(a < b);
    case Compare::equ: return !(a == a && b == b && a != b);
    case Compare::neu: return !(a == b);
    case Compare::num: return a == a && b == b;
    case Compare::nan: return a != a || b != b;
  }
  return false;
}

template <Compare compare, class T>
uint32_t compare_lanes(const Warp& w, const Instruction& in) {
  const auto* a = w.in<Stored<T>>(in.a);
  const auto* b = w.in<Stored<T>>(in.b);
  uint32_t result = 0;
#pragma GCC ivdep
  for (int l = 0; l < kLanes; l++)
    result |= static_cast<uint32_t>(holds<compare, T>(load_lane<T>(a, l), load_lane<T>(b, l))) << l;
  return result;
}

void set_predicate(Warp& w, uint16_t to, uint32_t mask, uint32_t value) {
  w.predicates[to] = (w.predicates[to] & ~mask) | (value & mask);
}

template <Compare compare, class T>
Flow setp(Warp& w, const Instruction& in, uint32_t mask) {
  set_predicate(w, in.p, mask, compare_lanes<compare, T>(w, in));
  return Flow::next;
}

/// With p|q, .and/.or/.xor c: list.c holds the operation, q (0 for none), c and whether c is negated.
using Comparison = uint32_t (*)(const Warp&, const Instruction&);
enum Combine : uint32_t { kAnd, kOr, kXor };

template <Compare compare, class T>
Flow setp_combined(Warp& w, const Instruction& in, uint32_t mask) {
  const auto& list = in.more->c;
  const uint32_t t = compare_lanes<compare, T>(w, in);
  const uint32_t c = w.predicates[list[2] & 0xffff] ^ (list[3] != 0 ? kAllLanes : 0);
  const auto combine = [&](uint32_t x) { return list[0] == kAnd ? x & c : list[0] == kOr ? x | c : x ^ c; };
  set_predicate(w, in.p, mask, combine(t));
  if (list[1] != 0) set_predicate(w, static_cast<uint16_t>(list[1]), mask, combine(~t));
  return Flow::next;
}

template <class T>
struct Handlers {
  Handler plain[14], combined[14];
};

template <class T, size_t... I>
constexpr Handlers<T> make_handlers(std::index_sequence<I...>) {
  return {{setp<static_cast<Compare>(I), T>...}, {setp_combined<static_cast<Compare>(I), T>...}};
}
template <class T>
Handler pick(int compare, bool combined) {
  static constexpr Handlers<T> handlers = make_handlers<T>(std::make_index_sequence<14>());
  return combined ? handlers.combined[compare] : handlers.plain[compare];
}

Handler pick_type(Type type, int compare, bool combined) {
  using K = Type::Kind;
  if (type.kind == K::f) return type.bits == 64 ? pick<double>(compare, combined) : pick<float>(compare, combined);
  const bool is_signed = type.kind == K::s;
  switch (type.bits) {
    case 16: return is_signed ? pick<int16_t>(compare, combined) : pick<uint16_t>(compare, combined);
    case 32: return is_signed ? pick<int32_t>(compare, combined) : pick<uint32_t>(compare, combined);
    default: return is_signed ? pick<int64_t>(compare, combined) : pick<uint64_t>(compare, combined);
  }
}

int take_compare(Binding& b, Type* type) {
  int compare = b.take_one(
      {"eq", "ne", "lt", "le", "gt", "ge", "ltu", "leu", "gtu", "geu", "equ", "neu", "num", "nan"});
  const int alias = compare >= 0 ? -1 : b.take_one({"lo", "ls", "hi", "hs"});
  if (alias >= 0) compare = 2 + alias;  // unsigned lt, le, gt, ge
  *type = b.take_type();
  if (compare < 0) b.malformed("which comparison?");
  if (alias >= 0 && type->kind != Type::Kind::u) b.malformed("lo, ls, hi and hs are for unsigned types");
  return compare;
}

void bind_setp(Binding& b) {
  const int combine = b.take_one({"and", "or", "xor"});
  if (b.take("ftz")) b.unsupported("ftz");
  Type type;
  const int compare = take_compare(b, &type);
  if (type.bits < 16 || type.count != 1) b.unsupported("type");
  const Operand& p = b.operand(0);
  const bool has_q = !p.second.empty();
  const bool combined = combine >= 0 || has_q;
  b.require_operands(combine >= 0 ? 4 : 3);
  b.in.kind = Class::predicate;
  b.in.run = pick_type(type, compare, combined);
  b.in.p = b.predicate_destination(p);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, type);
  if (!combined) return;
  const uint32_t c = combine >= 0 ? b.predicate(3) : uint32_t{kTrue};
  const uint32_t negated = combine >= 0 && b.operand(3).negated;
  const uint32_t q = has_q && p.second[0].kind != Operand::Kind::sink ? b.predicate_destination(p.second[0]) : 0;
  // Indices of predicates, not places: the top bit keeps register placement away.
  b.list().c = {combine >= 0 ? static_cast<uint32_t>(combine) : uint32_t{kAnd}, q, c, negated};
}

// 16-bit floats compare as float32.
template <bool brain>
Flow setp_half(Warp& w, const Instruction& in, uint32_t mask) {
  const auto *a = w.in<uint32_t>(in.a), *b = w.in<uint32_t>(in.b);
  const auto widen = [](uint32_t x) {
    const auto h = static_cast<uint16_t>(x);
    return brain ? bf16_to_f32(h) : f16_to_f32(h);
  };
  uint32_t result = 0;
  for_lanes(mask, [&](int l) {
    const float x = widen(a[l]), y = widen(b[l]);
    bool t = false;
    switch (static_cast<Compare>(in.imm)) {
      case Compare::eq: t = holds<Compare::eq>(x, y); break;
      case Compare::ne: t = holds<Compare::ne>(x, y); break;
      case Compare::lt: t = holds<Compare::lt>(x, y); break;
      case Compare::le: t = holds<Compare::le>(x, y); break;
      case Compare::gt: t = holds<Compare::gt>(x, y); break;
      case Compare::ge: t = holds<Compare::ge>(x, y); break;
      case Compare::ltu: t = holds<Compare::ltu>(x, y); break;
      case Compare::leu: t = holds<Compare::leu>(x, y); break;
      case Compare::gtu: t = holds<Compare::gtu>(x, y); break;
      case Compare::geu: t = holds<Compare::geu>(x, y); break;
      case Compare::equ: t = holds<Compare::equ>(x, y); break;
      case Compare::neu: t = holds<Compare::neu>(x, y); break;
      case Compare::num: t = holds<Compare::num>(x, y); break;
      case Compare::nan: t = holds<Compare::nan>(x, y); break;
    }
    result |= static_cast<uint32_t>(t) << l;
  });
  set_predicate(w, in.p, mask, result);
  return Flow::next;
}

void bind_setp_half(Binding& b) {
  Type type;
  b.in.imm = static_cast<uint32_t>(take_compare(b, &type));
  if (type.count != 1 || !b.operand(0).second.empty()) b.unsupported("pairs");
  b.require_operands(3);
  b.in.kind = Class::predicate;
  b.in.run = type.kind == Type::Kind::bf ? setp_half<true> : setp_half<false>;
  b.in.p = b.predicate_destination(b.operand(0));
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, type);
}

// ISA 9.7.6.1: set writes all ones or 1.0 instead of a predicate.
template <class D>
Flow set_lanes(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<D>(in.d);
  const uint32_t before = w.predicates[in.p];
  in.inner(w, in, mask);
  const uint32_t truth = w.predicates[in.p];
  w.predicates[in.p] = before;
  const D yes = std::is_same_v<D, float> ? static_cast<D>(1) : static_cast<D>(~0u);
  for_lanes(mask, [&](int l) { d[l] = (truth >> l & 1) != 0 ? yes : D{0}; });
  return Flow::next;
}

void bind_set(Binding& b) {
  if (b.take("ftz")) b.unsupported("ftz");
  const Type d = b.take_type();
  Type type;
  const int compare = take_compare(b, &type);
  const bool half = type.kind == Type::Kind::bf || type.is(Type::Kind::f, 16);
  if (type.bits < 16 || half || type.count != 1 || d.bits != 32) b.unsupported("type");
  b.require_operands(3);
  b.in.kind = Class::predicate;
  b.in.inner = pick_type(type, compare, false);
  b.in.p = kFalse;
  b.in.run = d.kind == Type::Kind::f ? set_lanes<float> : set_lanes<uint32_t>;
  b.in.d = b.destination(0, d);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, type);
}

template <class T>
Flow selp(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<T>(in.d);
  const auto *a = w.in<T>(in.a), *b = w.in<T>(in.b);
  const uint32_t p = w.predicates[in.p] ^ in.imm;
  each_lane(mask, [=](int l) { d[l] = (p >> l & 1) != 0 ? a[l] : b[l]; });
  return Flow::next;
}

void bind_selp(Binding& b) {
  const Type type = b.take_type();
  b.require_operands(4);
  b.in.kind = Class::predicate;
  b.in.run = type.bytes() == 8 ? selp<uint64_t> : selp<uint32_t>;
  b.in.d = b.destination(0, type);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, type);
  b.in.p = b.predicate(3);
  b.in.imm = b.operand(3).negated ? kAllLanes : 0;
}

// ISA 9.7.6.4: by the sign of c.
template <class T, class C>
Flow slct(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<T>(in.d);
  const auto *a = w.in<T>(in.a), *b = w.in<T>(in.b);
  const auto* c = w.in<C>(in.c);
  for_lanes(mask, [&](int l) { d[l] = c[l] >= 0 ? a[l] : b[l]; });
  return Flow::next;
}

void bind_slct(Binding& b) {
  const Type type = b.take_type(), by = b.take_type();
  if (by.bits != 32) b.unsupported("type");
  b.require_operands(4);
  b.in.kind = Class::predicate;
  const bool real = by.kind == Type::Kind::f;
  if (type.bytes() == 8)
    b.in.run = real ? slct<uint64_t, float> : slct<uint64_t, int32_t>;
  else
    b.in.run = real ? slct<uint32_t, float> : slct<uint32_t, int32_t>;
  b.in.d = b.destination(0, type);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, type);
  b.in.c = b.source(3, by);
}

// and.pred and so on. imm: lanes in which each operand is negated. in.imm bit 0 for the first, bit 1 for the second.
enum class Logic { and_, or_, xor_, not_, mov };
template <Logic logic>
Flow predicate_logic(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t a = w.predicates[in.q] ^ ((in.imm & 1) != 0 ? kAllLanes : 0);
  const uint32_t b = w.predicates[in.offset] ^ ((in.imm & 2) != 0 ? kAllLanes : 0);
  uint32_t result = a;
  if (logic == Logic::and_) result = a & b;
  if (logic == Logic::or_) result = a | b;
  if (logic == Logic::xor_) result = a ^ b;
  if (logic == Logic::not_) result = ~a;
  set_predicate(w, in.p, mask, result);
  return Flow::next;
}

template <Logic logic>
void bind_logic(Binding& b) {
  constexpr bool one = logic == Logic::not_ || logic == Logic::mov;
  b.take_type();
  b.require_operands(one ? 2 : 3);
  b.in.kind = Class::predicate;
  b.in.run = predicate_logic<logic>;
  b.in.p = b.predicate_destination(b.operand(0));
  b.in.q = b.predicate(1);
  b.in.offset = one ? 0 : b.predicate(2);
  b.in.imm = b.operand(1).negated;
  if (!one && b.operand(2).negated) b.in.imm |= 2;
}

}  // namespace

void add_predicate_ops(OpTable* table) {
  OpTable& t = *table;
  t["setp"] = bind_setp;
  t["setp/h"] = bind_setp_half;
  t["set"] = bind_set;
  t["selp"] = bind_selp;
  t["slct"] = bind_slct;
  t["and/p"] = bind_logic<Logic::and_>;
  t["or/p"] = bind_logic<Logic::or_>;
  t["xor/p"] = bind_logic<Logic::xor_>;
  t["not/p"] = bind_logic<Logic::not_>;
  t["mov/p"] = bind_logic<Logic::mov>;
}

}  // namespace gpusim
