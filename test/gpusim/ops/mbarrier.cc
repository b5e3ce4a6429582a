// mbarrier objects (ISA 9.7.13.15): a phase completes when no arrival and no byte of a copy is pending any more. Who
// arrives releases, who sees the completed phase acquires. mapa is the identity: clusters have one block.
#include <algorithm>

#include "memory/access.h"
#include "ops/lanes.h"

namespace gpusim {
namespace {

constexpr uint32_t kMostArrivals = (1u << 20) - 1;

uint32_t shared_address(const Warp& w, const Instruction& in, int lane) {
  const uint64_t address = w.address(in, lane);
  return static_cast<uint32_t>(address - kSharedWindow < kWindowSize ? address - kSharedWindow : address);
}

uint64_t count_operand(const Warp& w, const Instruction& in, int lane, uint64_t otherwise) {
  return in.b == kNowhere ? otherwise : w.in<uint32_t>(in.b)[lane];
}

Flow init(Warp& w, const Instruction& in, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint32_t address = shared_address(w, in, l);
    require_aligned(w, in, l, address, 8);
    const auto count = static_cast<uint32_t>(count_operand(w, in, l, 0));
    if (count == 0 || count > kMostArrivals)
      w.fail(in, l, FaultCode::illegal_instruction, "a count of " + std::to_string(count) + " arrivals");
    if (w.block->mbarriers.count(address) != 0)
      w.fail_at(in, l, FaultCode::launch_failed, address, "in shared memory already holds an mbarrier");
    const SharedProblem problem = w.block->shared.make_barrier_object(address, accessor(w));
    if (problem != SharedProblem::none) fail_shared(w, in, l, address, problem);
    MBarrier& barrier = w.block->mbarriers[address];
    barrier.expected = barrier.pending = count;
    barrier.agent = kFirstAsyncAgent + w.block->next_async_agent++ % kAsyncAgents;
    // An earlier object may have had the same agent.
    for (const auto& warp : w.block->warps)
      barrier.completions = std::max(barrier.completions, warp->clock.seen[static_cast<size_t>(barrier.agent)]);
  });
  return Flow::next;
}

Flow inval(Warp& w, const Instruction& in, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint32_t address = shared_address(w, in, l);
    w.block->mbarrier(w, in, l, address);
    w.block->mbarriers.erase(address);
    w.block->shared.drop_barrier_object(address, w.stamp());
  });
  return Flow::next;
}

// in.imm: bit 0 .expect_tx, bit 1 drops, bit 2 .noComplete, bit 3 expect_tx alone, bit 4 complete_tx.
constexpr uint32_t kExpect = 1, kDrop = 2, kExpectOnly = 8, kCompleteOnly = 16;

Flow arrive(Warp& w, const Instruction& in, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint32_t address = shared_address(w, in, l);
    MBarrier& barrier = w.block->mbarrier(w, in, l, address);
    const uint32_t phase = barrier.phase;
    uint32_t arrivals = 1;
    if ((in.imm & (kExpect | kExpectOnly)) != 0)
      barrier.transactions += static_cast<int64_t>(count_operand(w, in, l, 0));
    else if ((in.imm & kCompleteOnly) != 0)
      barrier.transactions -= static_cast<int64_t>(count_operand(w, in, l, 0));
    else
      arrivals = static_cast<uint32_t>(count_operand(w, in, l, 1));
    if ((in.imm & kExpectOnly) != 0) return;
    if ((in.imm & kCompleteOnly) != 0) arrivals = 0;
    if (arrivals > barrier.pending)
      w.fail_at(in, l, FaultCode::launch_failed, address, "in shared memory: more arrivals than the mbarrier expects");
    if ((in.imm & kDrop) != 0) barrier.expected -= arrivals;
    barrier.collecting.join(w.clock);
    w.block->arrive(&barrier, arrivals);
    if (in.d != kNowhere) w.out<uint64_t>(in.d)[l] = phase;
  });
  w.advance_clock();
  return Flow::next;
}

/// True where the phase is complete; a warp that is told no runs again when something has arrived.
template <bool parity>
Flow wait(Warp& w, const Instruction& in, uint32_t mask) {
  uint32_t complete = 0;
  for_lanes(mask, [&](int l) {
    MBarrier& barrier = w.block->mbarrier(w, in, l, shared_address(w, in, l));
    // ISA 9.7.13.15.16: parity P waits for the phase of that parity; the token of an arrival names its phase.
    const bool done = parity ? (barrier.phase & 1) != (w.in<uint32_t>(in.b)[l] & 1)
                             : barrier.phase != static_cast<uint32_t>(w.in<uint64_t>(in.b)[l]);
    complete |= static_cast<uint32_t>(done) << l;
    if (done) w.clock.join(barrier.completed);
  });
  w.predicates[in.p] = (w.predicates[in.p] & ~mask) | complete;
  if (complete == mask) return Flow::next;
  Group& group = w.group();
  group.state = Group::State::polling;
  group.event = w.block->events;
  return Flow::rest;
}

Flow mapa(Warp& w, const Instruction& in, uint32_t mask) {
  const auto* rank = w.in<uint32_t>(in.b);
  for_lanes(mask, [&](int l) {
    if (rank[l] != 0) w.fail(in, l, FaultCode::illegal_address, "the cluster has one block");
    if (in.imm == 64)
      w.out<uint64_t>(in.d)[l] = w.in<uint64_t>(in.a)[l];
    else
      w.out<uint32_t>(in.d)[l] = w.in<uint32_t>(in.a)[l];
  });
  return Flow::next;
}

void bind_arrive(Binding& b, uint32_t flags) {
  Instruction& in = b.in;
  const bool returns = (flags & (kExpectOnly | kCompleteOnly)) == 0;
  if (b.take("expect_tx")) flags |= kExpect;
  if (b.take("noComplete")) b.unsupported("noComplete");
  const size_t first = returns && b.operand(0).kind != Operand::Kind::address ? 1 : 0;
  if (first == 1) in.d = b.maybe_destination(b.operand(0), kB64);
  b.address(b.operand(first));
  if (b.operands() > first + 1) in.b = b.source(first + 1, kB32);
  if (b.operands() > first + 2) b.malformed("number of operands");
  if (in.b == kNowhere && flags != 0 && flags != kDrop) b.malformed("needs a number of bytes");
  in.imm = flags;
  in.run = arrive;
}

void bind_mbarrier(Binding& b) {
  Instruction& in = b.in;
  in.kind = Class::barrier;
  const int op = b.take_one(
      {"init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait", "pending_count"});
  b.take_one({"relaxed", "acquire", "release"});
  b.take_one({"cta", "cluster"});
  b.take_one({"shared", "shared::cta", "shared::cluster"});
  if (!b.take_type().is(Type::Kind::b, 64)) b.malformed("type");
  switch (op) {
    case 0:
      b.require_operands(2);
      b.address(b.operand(0));
      in.b = b.source(1, kB32);
      in.run = init;
      return;
    case 1:
      b.require_operands(1);
      b.address(b.operand(0));
      in.run = inval;
      return;
    case 2: return bind_arrive(b, 0);
    case 3: return bind_arrive(b, kDrop);
    case 4: return bind_arrive(b, kExpectOnly);
    case 5: return bind_arrive(b, kCompleteOnly);
    case 6:
    case 7: {
      const bool parity = b.take("parity");
      in.p = b.predicate_destination(b.operand(0));
      b.address(b.operand(1));
      in.b = b.source(2, parity ? kB32 : kB64);
      if (b.operands() > (op == 7 ? 4u : 3u)) b.malformed("number of operands");
      in.run = parity ? wait<true> : wait<false>;
      return;
    }
    case 8: b.unsupported("pending_count");
    default: b.malformed("which operation?");
  }
}

void bind_mapa(Binding& b) {
  b.take_one({"shared::cluster"});
  const Type type = b.take_type();
  b.require_operands(3);
  b.in.imm = type.bits;
  b.in.run = mapa;
  b.in.kind = Class::move;
  b.in.d = b.destination(0, type);
  b.in.a = b.source(1, type);
  b.in.b = b.source(2, kB32);
}

}  // namespace

MBarrier& Block::mbarrier(Warp& warp, const Instruction& in, int lane, uint32_t address) {
  const auto found = mbarriers.find(address);
  if (found == mbarriers.end())
    warp.fail_at(in, lane, FaultCode::launch_failed, address, "in shared memory holds no initialised mbarrier");
  return found->second;
}

void Block::arrive(MBarrier* barrier, uint32_t arrivals) {
  barrier->pending -= arrivals;
  if (barrier->pending == 0 && barrier->transactions == 0) {
    barrier->phase++;
    barrier->pending = barrier->expected;
    barrier->completed = barrier->collecting;
  }
  events++;
}

void add_mbarrier_ops(OpTable* table) {
  OpTable& t = *table;
  t["mbarrier"] = bind_mbarrier;
  t["mapa"] = bind_mapa;
}

}  // namespace gpusim
