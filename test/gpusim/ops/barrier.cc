// Barriers of a block and a warp, and fences (ISA 9.7.13.1 to 9.7.13.4). A barrier orders everything before it for every
// thread that takes part: the clocks of all are joined.
#include "machine/block.h"
#include "ops/async.h"
#include "ops/collective.h"
#include "ops/lanes.h"

namespace gpusim {

void write_barrier_result(Warp& w, const Instruction& in, uint32_t mask, const NamedBarrier& barrier) {
  const auto op = in.imm >> 8 & 0xf;
  if (op == 0) return;
  if (op == 1) {
    for_lanes(mask, [&](int l) { w.out<uint32_t>(in.d)[l] = barrier.popc; });
    return;
  }
  const bool truth = op == 2 ? barrier.all : barrier.any;
  w.predicates[in.p] = (w.predicates[in.p] & ~mask) | (truth ? mask : 0);
}

namespace {

// in.imm: bit 0 .aligned, bit 1 arrive, bit 2 there is a thread count, bits 8-11 the reduction.
constexpr uint32_t kAligned = 1, kArrive = 2, kCounted = 4;

Flow barrier(Warp& w, const Instruction& in, uint32_t mask) {
  if ((in.imm & kAligned) != 0 && !w.converge(in, mask)) return Flow::wait;
  Block& block = *w.block;
  const int lane = first_lane(mask);
  const uint32_t id = w.in<uint32_t>(in.a)[lane];
  if (id >= 16) w.fail(in, lane, FaultCode::illegal_instruction, "barrier " + std::to_string(id) + " of 16");
  NamedBarrier& named = block.barriers[id];
  uint32_t expected = 0;
  if ((in.imm & kCounted) != 0) {
    expected = w.in<uint32_t>(in.b)[lane];
    if (expected == 0 || expected % kLanes != 0)
      w.fail(in, lane, FaultCode::illegal_instruction,
             "a thread count of " + std::to_string(expected) + " is no multiple of 32");
  }
  if (named.in_use && named.expected != expected)
    w.fail(in, lane, FaultCode::launch_failed,
           "barrier " + std::to_string(id) + " is already used with another number of threads");
  named.in_use = true;
  named.expected = expected;
  // A warp counts as 32 threads whatever its size; parts of one that come apart add up to that.
  const int last = 31 - __builtin_clz(w.live);
  const uint32_t arrivals = (in.imm & kAligned) != 0
                                ? kLanes
                                : static_cast<uint32_t>(__builtin_popcount(mask)) +
                                      ((mask >> last & 1) != 0
                                           ? kLanes - static_cast<uint32_t>(__builtin_popcount(w.live))
                                           : 0);
  named.arrived += arrivals;
  named.clock.join(w.clock);
  const uint32_t op = in.imm >> 8 & 0xf;
  if (op != 0) {
    const uint32_t p = (w.predicates[in.q] ^ (in.offset != 0 ? kAllLanes : 0)) & mask;
    named.popc += static_cast<uint32_t>(__builtin_popcount(p));
    named.all &= p == mask;
    named.any |= p != 0;
  }
  const uint32_t needed = expected != 0 ? expected : block.live_threads();
  if (expected != 0 && named.arrived > expected)
    w.fail(in, lane, FaultCode::launch_failed, "more threads than the barrier expects");
  const bool complete = named.arrived >= needed;
  if ((in.imm & kArrive) != 0) {
    w.advance_clock();
    if (complete) block.release_barrier(&named);
    return Flow::next;
  }
  Group& group = w.group();
  group.state = Group::State::barrier;
  group.barrier = static_cast<uint16_t>(id);
  if (group.mask != mask) {
    // The lanes that a guard keeps away go on.
    Group rest{group.pc + 1, group.mask & ~mask};
    group.mask = mask;
    w.groups.push_back(rest);
  }
  named.waiting.emplace_back(&w, mask);
  if (complete) block.release_barrier(&named);
  return Flow::wait;
}

Flow bar_warp_sync(Warp& w, const Instruction& in, uint32_t mask) {
  return gather(w, in, mask, in.a) ? Flow::next : Flow::wait;
}

Flow fence(Warp& w, const Instruction&, uint32_t) {
  w.fenced = true;
  return Flow::next;
}

void bind_barrier(Binding& b) {
  Instruction& in = b.in;
  in.kind = Class::barrier;
  if (b.take("warp")) {
    if (!b.take("sync")) b.malformed("needs .sync");
    b.require_operands(1);
    in.a = b.source(0, kB32);
    in.run = bar_warp_sync;
    return;
  }
  if (b.take("cluster")) b.unsupported("clusters");
  b.take("cta");
  const bool aligned = b.take("aligned") || b.statement.base == "bar";
  const int what = b.take_one({"sync", "arrive", "red"});
  if (what < 0) b.malformed("sync, arrive or red?");
  in.imm = (aligned ? kAligned : 0) | (what == 1 ? kArrive : 0);
  in.run = barrier;
  size_t first = 0;
  bool counted = b.operands() == 2;
  if (what == 2) {
    const int op = b.take_one({"popc", "and", "or"});
    b.take_type();
    if (op < 0) b.malformed("which reduction?");
    counted = b.operands() == 4;
    b.require_operands(counted ? 4 : 3);
    in.imm |= static_cast<uint32_t>(op + 1) << 8;
    if (op == 0)
      in.d = b.destination(0, kB32);
    else
      in.p = b.predicate_destination(b.operand(0));
    const Operand& p = b.operand(counted ? 3 : 2);
    in.q = b.predicate(p);
    in.offset = p.negated;
    first = 1;
  } else {
    b.require_operands(counted ? 2 : 1);
  }
  in.a = b.source(first, kB32);
  if (counted) {
    in.b = b.source(first + 1, kB32);
    in.imm |= kCounted;
  } else if (what == 1) {
    b.malformed("arrive needs a number of threads");
  }
}

void bind_fence(Binding& b) {
  while (b.take_one({"cta", "gl", "gpu", "sys", "cluster", "sc", "acq_rel", "acquire", "release",
                     "sync_restrict::shared::cta", "sync_restrict::shared::cluster", "mbarrier_init"}) >= 0) {
  }
  // Proxies see the same memory here (README.md, what is not exact).
  if (b.take("proxy"))
    while (b.take_one({"async", "async::generic", "alias", "global", "shared::cta", "shared::cluster", "async.global",
                       "tensormap::generic"}) >= 0) {
    }
  b.in.kind = Class::barrier;
  b.in.run = fence;
}

}  // namespace

void add_barrier_ops(OpTable* table) {
  OpTable& t = *table;
  for (const char* name : {"bar", "bar/i", "bar/p", "barrier", "barrier/i", "barrier/p"}) t[name] = bind_barrier;
  t["membar"] = bind_fence;
  t["fence"] = bind_fence;
}

}  // namespace gpusim
