#include "machine/block.h"

#include <algorithm>

#include "ops/async.h"

namespace gpusim {
namespace {

constexpr uint64_t kLongSlice = 20000;
constexpr uint64_t kPatience = 2000;  // instructions of a diverged warp before its groups take turns

uint32_t special_value(const Block& block, const Warp& warp, SpecialRegister id, int lane) {
  using S = SpecialRegister;
  const Launch& launch = block.launch;
  const uint32_t thread = static_cast<uint32_t>(warp.index) * kLanes + static_cast<uint32_t>(lane);
  switch (id) {
    case S::tid_x: return thread % launch.block[0];
    case S::tid_y: return thread / launch.block[0] % launch.block[1];
    case S::tid_z: return thread / launch.block[0] / launch.block[1];
    case S::ntid_x: return launch.block[0];
    case S::ntid_y: return launch.block[1];
    case S::ntid_z: return launch.block[2];
    case S::ctaid_x: return block.index[0];
    case S::ctaid_y: return block.index[1];
    case S::ctaid_z: return block.index[2];
    case S::nctaid_x: return launch.grid[0];
    case S::nctaid_y: return launch.grid[1];
    case S::nctaid_z: return launch.grid[2];
    case S::laneid: return static_cast<uint32_t>(lane);
    case S::warpid: return static_cast<uint32_t>(warp.index);
    case S::nwarpid: return static_cast<uint32_t>(block.warps.size());
    case S::smid: return block.linear % 8;
    case S::nsmid: return 8;
    case S::gridid: return 1;
    case S::lanemask_eq: return 1u << lane;
    case S::lanemask_lt: return (1u << lane) - 1;
    case S::lanemask_le: return (1u << lane) | ((1u << lane) - 1);
    case S::lanemask_gt: return ~((1u << lane) | ((1u << lane) - 1));
    case S::lanemask_ge: return ~((1u << lane) - 1);
    case S::zero: return 0;
    case S::one: return 1;
    case S::dynamic_smem_size: return launch.dynamic_shared;
    case S::total_smem_size: return launch.shared_bytes();
  }
  return 0;
}

}  // namespace

Block::Block(Launch& of, uint32_t linear_index, uint64_t seed)
    : launch(of), linear(linear_index), random(seed * 0x9e3779b97f4a7c15u + linear_index) {
  index[0] = linear % launch.grid[0];
  index[1] = linear / launch.grid[0] % launch.grid[1];
  index[2] = linear / launch.grid[0] / launch.grid[1];
  const Program& program = *launch.program;
  const uint32_t threads = launch.threads();
  const uint32_t count = (threads + kLanes - 1) / kLanes;
  shared.reset(launch.shared_bytes(), launch.options->checks);
  // Registers that nobody wrote hold a NaN.
  registers_.assign(size_t{count} * program.register_bytes + 64, 0xff);
  predicates_.assign(size_t{count} * program.predicates, 0);
  counts.assign(program.code.size(), 0);
  ran.assign(program.code.size(), 0);
  local.resize(count);
  local_written.resize(count);
  for (uint32_t w = 0; w < count; w++) {
    warps.push_back(std::make_unique<Warp>(this, static_cast<int>(w)));
    Warp& warp = *warps.back();
    const uint32_t lanes = std::min<uint32_t>(kLanes, threads - w * kLanes);
    warp.existing = warp.live = lanes == kLanes ? kAllLanes : (1u << lanes) - 1;
    warp.base[0] = registers_.data() + size_t{w} * program.register_bytes;
    warp.base[1] = program.constants.data();
    warp.predicates = predicates_.data() + size_t{w} * program.predicates;
    warp.predicates[kTrue] = kAllLanes;
    warp.groups.push_back({0, warp.live});
    warp.clock.seen[w] = warp.count;
  }
  for (auto& warp : warps)
    for (const Program::Special& special : program.specials)
      for (int lane = 0; lane < kLanes; lane++)
        warp->out<uint32_t>(special.place)[lane] = special_value(*this, *warp, special.id, lane);
}

uint8_t* Block::local_memory(Warp& warp) {
  std::vector<uint8_t>& memory = local[warp.index];
  if (memory.empty()) {
    memory.assign(size_t{launch.program->local_bytes} * kLanes, 0xff);
    local_written[warp.index].assign(memory.size(), 0);
  }
  return memory.data();
}

bool Block::can_run(const Warp& warp) const {
  for (const Group& group : warp.groups)
    if (group.state == Group::State::running || (group.state == Group::State::polling && group.event != events) ||
        (group.state == Group::State::collective))
      return true;
  return false;
}

// Lowest instruction first, so that the sides of a branch meet again at its end; groups at the same place merge.
bool Block::choose_group(Warp& warp) {
  auto& groups = warp.groups;
  if (groups.size() == 1 && groups[0].state == Group::State::running) {
    warp.current = 0;
    return true;
  }
  const auto mergeable = [](const Group& group) {
    return group.state == Group::State::running || group.state == Group::State::collective;
  };
  for (size_t i = 0; i < groups.size(); i++) {
    if (groups[i].state == Group::State::polling && groups[i].event != events) groups[i].state = Group::State::running;
    if (!mergeable(groups[i])) continue;
    for (size_t j = i + 1; j < groups.size();) {
      if (!mergeable(groups[j]) || groups[j].pc != groups[i].pc) {
        j++;
        continue;
      }
      groups[i].mask |= groups[j].mask;
      groups[i].state = Group::State::running;
      groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(j));
    }
  }
  size_t best = groups.size();
  for (size_t i = 0; i < groups.size(); i++)
    if (groups[i].state == Group::State::running && (best == groups.size() || groups[i].pc < groups[best].pc)) best = i;
  // Lanes that spin for what other lanes of their warp will do must not keep them from running: now and then a slice goes
  // to the next group, wherever it is.
  if (warp.in_turn && warp.current < groups.size() && groups[warp.current].state == Group::State::running)
    best = warp.current;
  if (best < groups.size()) {
    warp.current = best;
    return true;
  }
  for (const Group& group : groups)
    if (group.state == Group::State::collective) {
      bool others = false;
      for (const Group& other : groups) others |= other.state != Group::State::collective;
      if (!others) warp.fail_divergent(launch.program->code[group.pc], group.mask);
    }
  return false;
}

uint32_t Block::merge_limit(Warp& warp) {
  uint32_t limit = ~0u;
  const uint32_t pc = warp.group().pc;
  for (size_t i = 0; i < warp.groups.size(); i++) {
    const Group& group = warp.groups[i];
    const bool can_merge = group.state == Group::State::running || group.state == Group::State::collective;
    if (i != warp.current && can_merge && (!warp.in_turn || group.pc > pc)) limit = std::min(limit, group.pc);
  }
  return limit;
}

void Block::run_warp(Warp& warp, uint64_t slice) {
  const Instruction* code = launch.program->code.data();
  const uint64_t start = slice;
  const auto leave = [&] {
    warp.executed += start - slice;
    executed += start - slice;
  };
  while (choose_group(warp)) {
    Group* group = &warp.group();
    uint32_t limit = merge_limit(warp);
    uint32_t pc = group->pc, mask = group->mask;
    while (true) {
      const Instruction& in = code[pc];
      counts[pc]++;
      slice--;
      const uint32_t m = mask & (warp.predicates[in.guard] ^ in.flip);
      if (m != 0) {
        group->pc = pc;
        ran[pc] = 1;
        const Flow flow = in.run(warp, in, m);
        if (flow != Flow::next) {
          if (flow == Flow::rest) {
            warp.group().pc = pc + 1;
            return leave();
          }
          if (slice == 0) return leave();
          if (flow == Flow::wait || warp.groups.size() != 1 || warp.groups[0].state != Group::State::running) break;
          warp.current = 0;
          group = &warp.group();
          pc = group->pc;
          mask = group->mask;
          limit = ~0u;
          continue;
        }
      }
      pc++;
      if (slice == 0 || pc >= limit) {
        group->pc = pc;
        if (slice == 0) return leave();
        break;
      }
    }
  }
  leave();
}

bool Block::run(uint64_t budget) {
  const Options& options = *launch.options;
  const uint64_t end = executed + budget;
  while (true) {
    size_t runnable = 0, chosen = 0, alive = 0;
    // Random schedules pick any warp that can run; otherwise they take turns.
    for (size_t i = 0; i < warps.size(); i++) {
      const size_t w = (turn_ + i) % warps.size();
      alive += !warps[w]->groups.empty();
      if (!can_run(*warps[w])) continue;
      if (runnable++ == 0 || (options.seed != 0 && random() % runnable == 0)) chosen = w;
    }
    if (alive == 0) {
      finish_block(*this);
      return true;
    }
    if (runnable == 0) {
      if (pending.empty()) fail_deadlock();
      complete_one_pending();
      continue;
    }
    Warp& warp = *warps[chosen];
    uint64_t slice = kLongSlice;
    if (options.seed != 0) slice = random() % 4 == 0 ? 1 + random() % 4 : 1 + random() % 400;
    run_warp(warp, slice);
    if (warp.groups.size() <= 1) warp.together = warp.executed;
    warp.in_turn = warp.executed - warp.together > kPatience && !warp.groups.empty();
    if (warp.in_turn) warp.current = (warp.current + 1) % warp.groups.size();
    turn_ = chosen + 1;
    if (warp.executed > options.max_instructions) {
      const Instruction& in = launch.program->code[warp.groups.empty() ? 0 : warp.groups[0].pc];
      warp.fail(
          in, -1, FaultCode::timeout,
          "has executed " + std::to_string(warp.executed) + " instructions: a run-away loop (GPUSIM_MAX_INSTRUCTIONS)");
    }
    if (options.seed != 0 && !pending.empty() && random() % 8 == 0) complete_one_pending();
    if (executed >= end) return false;
  }
}

void Block::complete_one_pending() {
  const size_t chosen = launch.options->seed != 0 ? random() % pending.size() : 0;
  std::unique_ptr<Pending> one = std::move(pending[chosen]);
  pending.erase(pending.begin() + static_cast<std::ptrdiff_t>(chosen));
  one->complete(*this);
  events++;
}

uint32_t Block::live_threads() const {
  uint32_t sum = 0;
  for (const auto& warp : warps) sum += warp->live != 0 ? kLanes : 0;
  return sum;
}

// Threads that exit no longer count for barriers that expect all threads.
void Block::check_barriers() {
  for (NamedBarrier& barrier : barriers)
    if (barrier.in_use && barrier.expected == 0 && barrier.arrived >= live_threads()) release_barrier(&barrier);
}

void Block::release_barrier(NamedBarrier* barrier) {
  const VectorClock joined = barrier->clock;
  for (auto& [warp, mask] : barrier->waiting) {
    for (Group& group : warp->groups) {
      if (group.state != Group::State::barrier || (group.mask & mask) == 0 || &barriers[group.barrier] != barrier)
        continue;
      const Instruction& in = launch.program->code[group.pc];
      write_barrier_result(*warp, in, group.mask, *barrier);
      group.state = Group::State::running;
      group.pc++;
    }
    warp->clock.join(joined);
    warp->advance_clock();
  }
  *barrier = NamedBarrier();
  events++;
}

void Block::fail_deadlock() {
  std::string text = "deadlock:";
  const Warp* first = nullptr;
  uint32_t pc = 0;
  for (const auto& warp : warps)
    for (const Group& group : warp->groups) {
      if (first == nullptr) {
        first = warp.get();
        pc = group.pc;
      }
      // A warp that polls has already gone past the instruction that told it to come back.
      text += " warp " + std::to_string(warp->index) +
              (group.state == Group::State::polling ? " polls before" : " waits at") + " PTX line " +
              std::to_string(launch.program->code[group.pc].line) + ";";
    }
  text.back() = '.';
  first->fail(launch.program->code[pc], -1, FaultCode::timeout, text);
}

}  // namespace gpusim
