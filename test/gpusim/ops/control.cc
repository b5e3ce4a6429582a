// Control flow (ISA 9.7.12): branches split a warp's group, exits shrink it.
#include "machine/block.h"
#include "ops/lanes.h"

namespace gpusim {
namespace {

Flow bra(Warp& w, const Instruction& in, uint32_t mask) {
  Group& group = w.group();
  const uint32_t rest = group.mask & ~mask;
  if (rest == 0) {
    group.pc = in.imm;
    return Flow::jump;
  }
  group.mask = rest;
  group.pc++;
  w.groups.push_back({in.imm, mask});
  return Flow::jump;
}

Flow exit(Warp& w, const Instruction&, uint32_t mask) {
  Group& group = w.group();
  w.live &= ~mask;
  group.mask &= ~mask;
  group.pc++;
  if (group.mask == 0) w.groups.erase(w.groups.begin() + static_cast<std::ptrdiff_t>(w.current));
  w.block->events++;
  w.block->check_barriers();
  return Flow::jump;
}

Flow trap(Warp& w, const Instruction& in, uint32_t mask) {
  w.fail(in, first_lane(mask), FaultCode::launch_failed, "trap");
}

Flow nothing(Warp&, const Instruction&, uint32_t) { return Flow::next; }
Flow rest(Warp&, const Instruction&, uint32_t) { return Flow::rest; }

void bind_bra(Binding& b) {
  b.take("uni");
  b.require_operands(1);
  b.in.kind = Class::control;
  b.in.imm = b.label(b.operand(0));
  b.in.run = bra;
}

void bind_exit(Binding& b) {
  b.take("uni");
  b.require_operands(0);
  b.in.kind = Class::control;
  b.in.run = exit;
}

void bind_trap(Binding& b) {
  b.require_operands(0);
  b.in.kind = Class::control;
  b.in.run = trap;
}

// Sleeping lets others run; time does not pass.
void bind_nanosleep(Binding& b) {
  b.take_type();
  b.in.kind = Class::control;
  b.in.run = rest;
}

// Hints to the hardware (ISA 9.7.19.4 pmevent, 9.7.9.17 prefetch): they compute nothing.
void bind_hint(Binding& b) {
  while (b.take_one({"global", "local", "L1", "L2", "L2::evict_last", "L2::evict_normal", "tensormap", "const",
                     "param"}) >= 0) {
  }
  b.in.kind = Class::other;
  b.in.run = nothing;
}

}  // namespace

void add_control_ops(OpTable* table) {
  OpTable& t = *table;
  t["bra"] = bind_bra;
  t["ret"] = bind_exit;
  t["exit"] = bind_exit;
  t["trap"] = bind_trap;
  t["brkpt"] = bind_trap;
  t["nanosleep"] = bind_nanosleep;
  t["prefetch"] = bind_hint;
  t["prefetchu"] = bind_hint;
}

}  // namespace gpusim
