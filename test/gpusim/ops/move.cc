// mov with packing and unpacking, and cvta (ISA 9.7.9.1 to 9.7.9.20).
#include "machine/block.h"
#include "ops/lanes.h"

namespace gpusim {
namespace {

template <class T>
Flow mov(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<T>(in.d);
  const auto* a = w.in<T>(in.a);
  each_lane(mask, [=](int l) { d[l] = a[l]; });
  return Flow::next;
}

/// mov.b64 d, {a, b}: the first element is the lowest.
template <class T>
Flow pack(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<T>(in.d);
  const auto& parts = in.more->a;
  const auto bits = static_cast<unsigned>(8 * sizeof(T) / parts.size());
  for_lanes(mask, [&](int l) {
    T result = 0;
    for (size_t i = 0; i < parts.size(); i++) {
      T part = w.in<uint32_t>(parts[i])[l];
      if (bits < 32) part &= (T{1} << bits) - 1;
      result |= part << (bits * i);
    }
    d[l] = result;
  });
  return Flow::next;
}

template <class T>
Flow unpack(Warp& w, const Instruction& in, uint32_t mask) {
  const auto* a = w.in<T>(in.a);
  const auto& parts = in.more->d;
  const auto bits = static_cast<unsigned>(8 * sizeof(T) / parts.size());
  for_lanes(mask, [&](int l) {
    const T value = a[l];
    for (size_t i = 0; i < parts.size(); i++) {
      if (parts[i] == kNowhere) continue;
      const T part = value >> (bits * i);
      w.out<uint32_t>(parts[i])[l] = static_cast<uint32_t>(bits < 32 ? part & ((T{1} << bits) - 1) : part);
    }
  });
  return Flow::next;
}

/// The clocks count this warp's instructions: there is no time here.
template <class T>
Flow clock(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<T>(in.d);
  for_lanes(mask, [&](int l) { d[l] = static_cast<T>(w.block->executed); });
  return Flow::rest;
}

Type element_type(Binding& b, Type whole, size_t count) {
  if (count != 2 && count != 4) b.malformed("2 or 4 elements");
  Type type = whole;
  type.kind = Type::Kind::b;
  type.bits = static_cast<uint8_t>(whole.bytes() * 8 / static_cast<int>(count));
  type.count = 1;
  if (type.bits != 16 && type.bits != 32) b.unsupported("elements of " + std::to_string(type.bits) + " bits");
  return type;
}

void bind_mov(Binding& b) {
  const Type type = b.take_type();
  if (type.bits < 16) b.malformed("type");
  b.require_operands(2);
  const Operand &d = b.operand(0), &a = b.operand(1);
  Instruction& in = b.in;
  in.kind = Class::move;
  const bool wide = type.bytes() == 8;
  if (a.kind == Operand::Kind::vector) {
    const Type part = element_type(b, type, a.items.size());
    b.sources(a, part, &b.list().a);
    in.d = b.destination(d, type);
    in.run = wide ? pack<uint64_t> : pack<uint32_t>;
    return;
  }
  if (d.kind == Operand::Kind::vector) {
    const Type part = element_type(b, type, d.items.size());
    b.destinations(d, part, &b.list().d);
    in.a = b.source(a, type);
    in.run = wide ? unpack<uint64_t> : unpack<uint32_t>;
    return;
  }
  in.d = b.destination(d, type);
  if (a.name == "%clock" || a.name == "%clock64" || a.name == "%globaltimer") {
    in.run = wide ? clock<uint64_t> : clock<uint32_t>;
    return;
  }
  in.a = b.source(a, type);
  in.run = wide ? mov<uint64_t> : mov<uint32_t>;
}

// ISA 9.7.9.19: addresses of a window get the window's base, or lose it.
template <bool to_window>
Flow cvta(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<uint64_t>(in.d);
  const auto* a = w.in<uint64_t>(in.a);
  const auto base = static_cast<uint64_t>(in.offset);
  each_lane(mask, [=](int l) { d[l] = to_window ? a[l] - base : a[l] + base; });
  return Flow::next;
}

void bind_cvta(Binding& b) {
  const bool to = b.take("to");
  const int space = b.take_one(
      {"global", "const", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry"});
  const Type type = b.take_type();
  if (type.bits != 64 || space < 0) b.unsupported("operands");
  b.require_operands(2);
  b.in.kind = Class::move;
  b.in.run = to ? cvta<true> : cvta<false>;
  const uint64_t base = space < 2 ? 0 : space < 5 ? kSharedWindow : space == 5 ? kLocalWindow : kParamWindow;
  b.in.offset = static_cast<int64_t>(base);
  b.in.d = b.destination(0, kB64);
  b.in.a = b.source(1, kB64);
}

// ISA 9.7.9.18: is this generic address in that window?
Flow isspacep(Warp& w, const Instruction& in, uint32_t mask) {
  const auto* a = w.in<uint64_t>(in.a);
  uint32_t result = 0;
  for_lanes(mask, [&](int l) {
    const auto within = [&](uint64_t base) { return a[l] - base < kWindowSize; };
    const bool global = !within(kSharedWindow) && !within(kLocalWindow) && !within(kParamWindow);
    const bool inside = in.offset == 0 ? global : within(static_cast<uint64_t>(in.offset));
    result |= static_cast<uint32_t>(inside) << l;
  });
  w.predicates[in.p] = (w.predicates[in.p] & ~mask) | result;
  return Flow::next;
}

void bind_isspacep(Binding& b) {
  const int space = b.take_one({"global", "shared", "shared::cta", "local"});
  if (space < 0) b.unsupported("state space");
  b.require_operands(2);
  b.in.run = isspacep;
  b.in.kind = Class::predicate;
  b.in.offset = static_cast<int64_t>(space == 0 ? 0 : space == 3 ? kLocalWindow : kSharedWindow);
  b.in.p = b.predicate_destination(b.operand(0));
  b.in.a = b.source(1, kB64);
}

}  // namespace

void add_move_ops(OpTable* table) {
  OpTable& t = *table;
  t["mov"] = bind_mov;
  t["cvta"] = bind_cvta;
  t["isspacep"] = bind_isspacep;
}

}  // namespace gpusim
