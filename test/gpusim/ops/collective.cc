// Exchanges inside a warp (ISA 9.7.9.6 shfl, 9.7.13.9 to 9.7.13.14 vote, match, activemask, redux, elect).
#include "ops/collective.h"

#include "machine/block.h"
#include "ops/lanes.h"

namespace gpusim {

bool gather(Warp& w, const Instruction& in, uint32_t mask, Place members) {
  const auto* named = w.in<uint32_t>(members);
  bool complete = true;
  for_lanes(mask, [&](int l) {
    if ((named[l] >> l & 1) == 0)
      w.fail(in, l, FaultCode::launch_failed, "the member mask does not name the lane that executes it");
    complete &= (named[l] & w.live & ~mask) == 0;
  });
  if (complete) return true;
  w.group().state = Group::State::collective;
  return false;
}

namespace {

enum class Shuffle { up, down, bfly, idx };

// ISA 9.7.9.6: c holds the clamp in bits 0-4 and the segment mask in bits 8-12.
template <Shuffle mode>
Flow shfl(Warp& w, const Instruction& in, uint32_t mask) {
  if (!gather(w, in, mask, in.more->c[0])) return Flow::wait;
  const auto *a = w.in<uint32_t>(in.a), *b = w.in<uint32_t>(in.b), *c = w.in<uint32_t>(in.c);
  uint32_t result[kLanes], inside = 0;
  for_lanes(mask, [&](int l) {
    const int clamp = c[l] & 31, segment = c[l] >> 8 & 31, by = b[l] & 31;
    const int most = (l & segment) | (clamp & ~segment), least = l & segment;
    int from = 0;
    bool in_range = false;
    switch (mode) {
      case Shuffle::up:
        from = l - by;
        in_range = from >= most;
        break;
      case Shuffle::down:
        from = l + by;
        in_range = from <= most;
        break;
      case Shuffle::bfly:
        from = l ^ by;
        in_range = from <= most;
        break;
      case Shuffle::idx:
        from = least | (by & ~segment);
        in_range = from <= most;
        break;
    }
    if (!in_range) from = l;
    // A lane that does not take part gives an undefined value: here a NaN.
    result[l] = (mask >> from & 1) != 0 ? a[from] : 0xffffffffu;
    inside |= static_cast<uint32_t>(in_range) << l;
  });
  if (in.d != kNowhere) {
    auto* d = w.out<uint32_t>(in.d);
    for_lanes(mask, [&](int l) { d[l] = result[l]; });
  }
  if (in.p != kTrue) w.predicates[in.p] = (w.predicates[in.p] & ~mask) | inside;
  return Flow::next;
}

void bind_shfl(Binding& b) {
  if (!b.take("sync")) b.unsupported("without .sync");
  const int mode = b.take_one({"up", "down", "bfly", "idx"});
  if (!b.take_type().is(Type::Kind::b, 32) || mode < 0) b.malformed("modifiers");
  static const Handler handlers[] = {shfl<Shuffle::up>, shfl<Shuffle::down>, shfl<Shuffle::bfly>, shfl<Shuffle::idx>};
  b.require_operands(5);
  const Operand& d = b.operand(0);
  b.in.kind = Class::collective;
  b.in.run = handlers[mode];
  b.in.d = b.maybe_destination(d, kB32);
  if (!d.second.empty() && d.second[0].kind != Operand::Kind::sink) b.in.p = b.predicate_destination(d.second[0]);
  b.in.a = b.source(1, kB32);
  b.in.b = b.source(2, kB32);
  b.in.c = b.source(3, kB32);
  b.list().c.push_back(b.source(4, kB32));
}

enum class Vote { all, any, uni, ballot };

template <Vote vote>
Flow vote_sync(Warp& w, const Instruction& in, uint32_t mask) {
  if (!gather(w, in, mask, in.a)) return Flow::wait;
  const auto* members = w.in<uint32_t>(in.a);
  const uint32_t p = w.predicates[in.q] ^ in.imm;
  uint32_t result = 0;
  for_lanes(mask, [&](int l) {
    const uint32_t voters = members[l] & mask, yes = p & voters;
    if (vote == Vote::ballot) {
      w.out<uint32_t>(in.d)[l] = yes;
      return;
    }
    const bool truth = vote == Vote::all ? yes == voters : vote == Vote::any ? yes != 0 : yes == voters || yes == 0;
    result |= static_cast<uint32_t>(truth) << l;
  });
  if (vote != Vote::ballot) w.predicates[in.p] = (w.predicates[in.p] & ~mask) | result;
  return Flow::next;
}

void bind_vote(Binding& b) {
  if (!b.take("sync")) b.unsupported("without .sync");
  const int vote = b.take_one({"all", "any", "uni", "ballot"});
  b.take_type();
  static const Handler handlers[] = {vote_sync<Vote::all>, vote_sync<Vote::any>, vote_sync<Vote::uni>,
                                     vote_sync<Vote::ballot>};
  if (vote < 0) b.malformed("which vote?");
  b.require_operands(3);
  b.in.kind = Class::collective;
  b.in.run = handlers[vote];
  if (vote == 3)
    b.in.d = b.destination(0, kB32);
  else
    b.in.p = b.predicate_destination(b.operand(0));
  b.in.q = b.predicate(1);
  b.in.imm = b.operand(1).negated ? kAllLanes : 0;
  b.in.a = b.source(2, kB32);
}

// ISA 9.7.13.10
template <class T, bool all>
Flow match(Warp& w, const Instruction& in, uint32_t mask) {
  if (!gather(w, in, mask, in.b)) return Flow::wait;
  const auto* a = w.in<T>(in.a);
  const auto* members = w.in<uint32_t>(in.b);
  uint32_t result[kLanes], agree = 0;
  for_lanes(mask, [&](int l) {
    uint32_t same = 0;
    const uint32_t others = members[l] & mask;
    for_lanes(others, [&](int other) { same |= static_cast<uint32_t>(a[other] == a[l]) << other; });
    const bool equal = same == others;
    agree |= static_cast<uint32_t>(equal) << l;
    result[l] = all && !equal ? 0 : same;
  });
  for_lanes(mask, [&](int l) { w.out<uint32_t>(in.d)[l] = result[l]; });
  if (in.p != kTrue) w.predicates[in.p] = (w.predicates[in.p] & ~mask) | agree;
  return Flow::next;
}

void bind_match(Binding& b) {
  if (!b.take("sync")) b.malformed("needs .sync");
  const bool all = b.take("all");
  if (!all && !b.take("any")) b.malformed("all or any?");
  const Type type = b.take_type();
  b.require_operands(3);
  const Operand& d = b.operand(0);
  b.in.kind = Class::collective;
  if (type.bits == 64)
    b.in.run = all ? match<uint64_t, true> : match<uint64_t, false>;
  else
    b.in.run = all ? match<uint32_t, true> : match<uint32_t, false>;
  b.in.d = b.destination(d, kB32);
  if (!d.second.empty()) b.in.p = b.predicate_destination(d.second[0]);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, kB32);
}

// ISA 9.7.13.12
enum class Redux { add, min, max, and_, or_, xor_ };

template <class T, Redux op>
Flow redux(Warp& w, const Instruction& in, uint32_t mask) {
  if (!gather(w, in, mask, in.b)) return Flow::wait;
  const auto* a = w.in<T>(in.a);
  const auto* members = w.in<uint32_t>(in.b);
  T result[kLanes];
  for_lanes(mask, [&](int l) {
    T sum = a[l];
    for_lanes(members[l] & mask & ~(1u << l), [&](int other) {
      const T x = a[other];
      switch (op) {
        case Redux::add: sum = static_cast<T>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(x)); break;
        case Redux::min: sum = x < sum ? x : sum; break;
        case Redux::max: sum = sum < x ? x : sum; break;
        case Redux::and_: sum &= x; break;
        case Redux::or_: sum |= x; break;
        case Redux::xor_: sum ^= x; break;
      }
    });
    result[l] = sum;
  });
  for_lanes(mask, [&](int l) { w.out<T>(in.d)[l] = result[l]; });
  return Flow::next;
}

void bind_redux(Binding& b) {
  if (!b.take("sync")) b.malformed("needs .sync");
  const int op = b.take_one({"add", "min", "max", "and", "or", "xor"});
  const Type type = b.take_type();
  if (op < 0 || type.bits != 32 || type.kind == Type::Kind::f) b.unsupported("operation");
  static const Handler plain[] = {redux<uint32_t, Redux::add>, redux<uint32_t, Redux::min>,
                                  redux<uint32_t, Redux::max>, redux<uint32_t, Redux::and_>,
                                  redux<uint32_t, Redux::or_>, redux<uint32_t, Redux::xor_>};
  static const Handler with_sign[] = {redux<int32_t, Redux::add>, redux<int32_t, Redux::min>,
                                      redux<int32_t, Redux::max>};
  b.require_operands(3);
  b.in.kind = Class::collective;
  b.in.run = type.kind == Type::Kind::s && op < 3 ? with_sign[op] : plain[op];
  b.in.d = b.destination(0, type);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, kB32);
}

Flow activemask(Warp& w, const Instruction& in, uint32_t mask) {
  for_lanes(mask, [&](int l) { w.out<uint32_t>(in.d)[l] = mask; });
  return Flow::next;
}

void bind_activemask(Binding& b) {
  b.take_type();
  b.require_operands(1);
  b.in.kind = Class::collective;
  b.in.run = activemask;
  b.in.d = b.destination(0, kB32);
}

// ISA 9.7.13.14: one lane of the members is elected; the same for the same members. Here the lowest.
Flow elect(Warp& w, const Instruction& in, uint32_t mask) {
  if (!gather(w, in, mask, in.a)) return Flow::wait;
  const auto* members = w.in<uint32_t>(in.a);
  uint32_t elected = 0;
  for_lanes(mask, [&](int l) {
    const int leader = first_lane(members[l] & mask);
    elected |= static_cast<uint32_t>(leader == l) << l;
    if (in.d != kNowhere) w.out<uint32_t>(in.d)[l] = static_cast<uint32_t>(leader);
  });
  w.predicates[in.p] = (w.predicates[in.p] & ~mask) | elected;
  return Flow::next;
}

void bind_elect(Binding& b) {
  if (!b.take("sync")) b.malformed("needs .sync");
  b.require_operands(2);
  const Operand& d = b.operand(0);
  if (d.second.empty()) b.malformed("needs a predicate");
  b.in.kind = Class::collective;
  b.in.run = elect;
  b.in.d = b.maybe_destination(d, kB32);
  b.in.p = b.predicate_destination(d.second[0]);
  b.in.a = b.source(1, kB32);
}

}  // namespace

void add_collective_ops(OpTable* table) {
  OpTable& t = *table;
  t["shfl"] = bind_shfl;
  t["vote"] = bind_vote;
  t["vote/p"] = bind_vote;
  t["match"] = bind_match;
  t["redux"] = bind_redux;
  t["activemask"] = bind_activemask;
  t["elect"] = bind_elect;
}

}  // namespace gpusim
