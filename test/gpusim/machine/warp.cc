#include "machine/warp.h"

#include <cstdio>

#include "machine/block.h"
#include "ops/async.h"
#include "ops/wgmma.h"

namespace gpusim {

Warp::Warp(Block* of, int number) : block(of), index(number) {}
Warp::~Warp() = default;

void Warp::fail(const Instruction& in_, int lane, FaultCode code, const std::string& text) const {
  const Program& program = *block->launch.program;
  const size_t number = static_cast<size_t>(&in_ - program.code.data());
  std::string where = "kernel " + program.name + ", PTX line " + std::to_string(in_.line) + " (" +
                      program.text[number] + "), block (" + std::to_string(block->index[0]) + "," +
                      std::to_string(block->index[1]) + "," + std::to_string(block->index[2]) + "), warp " +
                      std::to_string(index);
  if (lane >= 0) where += ", lane " + std::to_string(lane);
  throw Fault(code, where + ": " + text);
}

void Warp::fail_at(const Instruction& in_, int lane, FaultCode code, uint64_t address, const std::string& text) const {
  char hex[32];
  std::snprintf(hex, sizeof hex, "address 0x%llx ", static_cast<unsigned long long>(address));
  fail(in_, lane, code, hex + text);
}

void Warp::fail_divergent(const Instruction& in_, uint32_t mask) const {
  char text[128];
  std::snprintf(text, sizeof text, "is executed by lanes 0x%08x of 0x%08x: the warp has diverged here", mask, live);
  fail(in_, first_lane(mask), FaultCode::launch_failed, text);
}

}  // namespace gpusim
