#include "machine/allocate.h"

#include <algorithm>
#include <queue>

namespace gpusim {
namespace {

struct BasicBlock {
  uint32_t first, last;  // instructions, inclusive
  std::vector<uint32_t> next;
  std::vector<uint64_t> in, out, used, killed;
};

void set(std::vector<uint64_t>* bits, uint32_t i) { (*bits)[i >> 6] |= uint64_t{1} << (i & 63); }
bool has(const std::vector<uint64_t>& bits, uint32_t i) { return (bits[i >> 6] >> (i & 63) & 1) != 0; }

std::vector<BasicBlock> basic_blocks(const std::vector<Instruction>& code, const std::vector<bool>& branches,
                                     const std::vector<bool>& ends, size_t words) {
  const auto size = static_cast<uint32_t>(code.size());
  std::vector<bool> leader(size + 1, false);
  leader[0] = true;
  for (uint32_t i = 0; i < size; i++)
    if (branches[i] || ends[i]) {
      leader[i + 1] = true;
      if (branches[i]) leader[code[i].imm] = true;
    }
  std::vector<uint32_t> block_of(size, 0);
  std::vector<BasicBlock> blocks;
  for (uint32_t i = 0; i < size; i++) {
    if (leader[i]) {
      BasicBlock block{i, i, {}, {}, {}, {}, {}};
      for (auto* bits : {&block.in, &block.out, &block.used, &block.killed}) bits->assign(words, 0);
      blocks.push_back(std::move(block));
    }
    blocks.back().last = i;
    block_of[i] = static_cast<uint32_t>(blocks.size() - 1);
  }
  for (BasicBlock& block : blocks) {
    if (branches[block.last]) block.next.push_back(block_of[code[block.last].imm]);
    const bool falls = !ends[block.last] || code[block.last].guard != kTrue;
    if (falls && block.last + 1 < size) block.next.push_back(block_of[block.last + 1]);
  }
  return blocks;
}

}  // namespace

RegisterPlan place_registers(const std::vector<VirtualRegister>& registers, const std::vector<RegisterUse>& uses,
                             const std::vector<Instruction>& code, const std::vector<bool>& branches,
                             const std::vector<bool>& ends) {
  const size_t words = registers.size() / 64 + 1;
  std::vector<BasicBlock> blocks = basic_blocks(code, branches, ends, words);
  std::vector<std::vector<const RegisterUse*>> of(code.size());
  for (const RegisterUse& use : uses) of[use.instruction].push_back(&use);

  for (BasicBlock& block : blocks)
    for (uint32_t i = block.first; i <= block.last; i++) {
      for (const RegisterUse* use : of[i])
        if (!use->definition && !has(block.killed, use->id)) set(&block.used, use->id);
      // A guarded instruction leaves the old value in lanes that it skips.
      for (const RegisterUse* use : of[i])
        if (use->definition && code[i].guard == kTrue && !has(block.used, use->id)) set(&block.killed, use->id);
    }
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t b = blocks.size(); b-- > 0;) {
      BasicBlock& block = blocks[b];
      for (uint32_t next : block.next)
        for (size_t w = 0; w < words; w++) block.out[w] |= blocks[next].in[w];
      for (size_t w = 0; w < words; w++) {
        const uint64_t in = block.used[w] | (block.out[w] & ~block.killed[w]);
        changed |= in != block.in[w];
        block.in[w] = in;
      }
    }
  }

  // One interval a register, from the first place where it is alive to the last.
  struct Interval {
    uint32_t id, start = ~0u, end = 0;
  };
  std::vector<Interval> intervals(registers.size());
  for (uint32_t id = 0; id < registers.size(); id++) intervals[id].id = id;
  const auto extend = [&](uint32_t id, uint32_t at) {
    intervals[id].start = std::min(intervals[id].start, at);
    intervals[id].end = std::max(intervals[id].end, at);
  };
  for (const BasicBlock& block : blocks)
    for (uint32_t id = 0; id < registers.size(); id++) {
      if (has(block.in, id)) extend(id, block.first);
      if (has(block.out, id)) extend(id, block.last + 1);
    }
  for (const RegisterUse& use : uses) extend(use.id, use.instruction);
  std::sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) { return a.start < b.start; });

  // 32- and 64-bit registers never overlap in part: handlers go lane by lane and may work in place.
  struct Pool {
    std::vector<uint32_t> free;
    uint32_t count = 0;
    std::priority_queue<std::pair<uint32_t, uint32_t>, std::vector<std::pair<uint32_t, uint32_t>>, std::greater<>> busy;
  } pools[2];
  std::vector<uint32_t> chosen(registers.size(), 0);
  RegisterPlan plan;
  for (const Interval& interval : intervals) {
    if (interval.start == ~0u) continue;
    const VirtualRegister& of_id = registers[interval.id];
    for (Pool& pool : pools)
      while (!pool.busy.empty() && pool.busy.top().first < interval.start) {
        pool.free.push_back(pool.busy.top().second);
        pool.busy.pop();
      }
    Pool& pool = pools[of_id.wide];
    if (of_id.pinned || pool.free.empty()) {
      chosen[interval.id] = pool.count++;
    } else {
      chosen[interval.id] = pool.free.back();
      pool.free.pop_back();
    }
    if (!of_id.pinned) pool.busy.emplace(interval.end, chosen[interval.id]);
    const auto alive = static_cast<uint32_t>(pools[0].busy.size() + 2 * pools[1].busy.size());
    plan.most_alive = std::max(plan.most_alive, alive);
  }
  const uint32_t wide_bytes = pools[1].count * 256;
  for (const RegisterUse& use : uses)
    *use.slot = registers[use.id].wide ? chosen[use.id] * 256 : wide_bytes + chosen[use.id] * 128;
  plan.bytes = wide_bytes + pools[0].count * 128;
  return plan;
}

}  // namespace gpusim
