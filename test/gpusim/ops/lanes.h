// How a handler goes over lanes. Values of 8 and 16 bits live in 32-bit lanes, with zeros above.
#pragma once

#include <type_traits>

#include "machine/assemble.h"
#include "machine/warp.h"

namespace gpusim {

template <class T>
using Stored = std::conditional_t<(sizeof(T) < 4), uint32_t, T>;

template <class T>
inline T load_lane(const Stored<T>* lanes, int lane) {
  return static_cast<T>(lanes[lane]);
}

template <class T>
inline void store_lane(Stored<T>* lanes, int lane, T value) {
  if constexpr (sizeof(T) < 4)
    lanes[lane] = static_cast<std::make_unsigned_t<T>>(value);
  else
    lanes[lane] = value;
}

/// All 32 lanes in a loop that vectorises, or the lanes of a mask. Lanes never depend on each other, and places of equal
/// width are either the same or apart, so that working in place is right.
template <class F>
inline void each_lane(uint32_t mask, F&& f) {
  if (mask == kAllLanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; lane++) f(lane);
  } else {
    for_lanes(mask, f);
  }
}

template <class Op, class D, class A>
Flow unary(Warp& w, const Instruction& in, uint32_t mask) {
  Stored<D>* d = w.out<Stored<D>>(in.d);
  const auto* a = w.in<Stored<A>>(in.a);
  each_lane(mask, [=](int l) { store_lane<D>(d, l, Op::template run<D, A>(load_lane<A>(a, l))); });
  return Flow::next;
}

/// All operands of one type T, except that B may differ (the count of a shift).
template <class Op, class D, class A, class B = A>
Flow binary(Warp& w, const Instruction& in, uint32_t mask) {
  Stored<D>* d = w.out<Stored<D>>(in.d);
  const auto* a = w.in<Stored<A>>(in.a);
  const auto* b = w.in<Stored<B>>(in.b);
  each_lane(mask, [=](int l) { store_lane<D>(d, l, Op::template run<D, A>(load_lane<A>(a, l), load_lane<B>(b, l))); });
  return Flow::next;
}

template <class Op, class D, class A, class B = A, class C = D>
Flow ternary(Warp& w, const Instruction& in, uint32_t mask) {
  Stored<D>* d = w.out<Stored<D>>(in.d);
  const auto* a = w.in<Stored<A>>(in.a);
  const auto* b = w.in<Stored<B>>(in.b);
  const auto* c = w.in<Stored<C>>(in.c);
  each_lane(mask, [=](int l) {
    store_lane<D>(d, l, Op::template run<D, A>(load_lane<A>(a, l), load_lane<B>(b, l), load_lane<C>(c, l)));
  });
  return Flow::next;
}

/// A handler for one of the integer types, where `Make<T>::handler` instantiates it.
template <template <class> class Make>
Handler for_integer(Type type) {
  using K = Type::Kind;
  if (type.count != 1) return nullptr;
  switch (type.bits) {
    case 16: return type.kind == K::s ? Make<int16_t>::handler : Make<uint16_t>::handler;
    case 32: return type.kind == K::s ? Make<int32_t>::handler : Make<uint32_t>::handler;
    case 64: return type.kind == K::s ? Make<int64_t>::handler : Make<uint64_t>::handler;
    default: return nullptr;
  }
}

constexpr Type kB16 = {Type::Kind::b, 16};
constexpr Type kB32 = {Type::Kind::b, 32};
constexpr Type kB64 = {Type::Kind::b, 64};

/// d, a  |  d, a, b  |  d, a, b, c  with one type.
inline void bind_operands(Binding& b, Type type, size_t sources, Class kind) {
  b.require_operands(sources + 1);
  b.in.kind = kind;
  b.in.d = b.destination(0, type);
  b.in.a = b.source(1, type);
  if (sources > 1) b.in.b = b.source(2, type);
  if (sources > 2) b.in.c = b.source(3, type);
}

}  // namespace gpusim
