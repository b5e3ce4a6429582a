// Places for virtual registers. PTX has thousands of them, of which few are alive at once; sharing places keeps a block's
// registers in the cache of the core that runs it.
#pragma once

#include <cstdint>
#include <vector>

#include "machine/instruction.h"

namespace gpusim {

/// A register operand of an instruction: where its place is to be written.
struct RegisterUse {
  Place* slot;
  uint32_t id;
  uint32_t instruction;
  bool definition;
};

struct VirtualRegister {
  bool wide = false;    // 64 bits; narrower ones take 32
  bool pinned = false;  // shares its place with no other
};

struct RegisterPlan {
  uint32_t bytes = 0;
  uint32_t most_alive = 0;  // 32-bit registers a thread
};

/// Instructions that branch have their target in `imm`; `ends[i]` says that nothing follows instruction i.
RegisterPlan place_registers(const std::vector<VirtualRegister>& registers, const std::vector<RegisterUse>& uses,
                             const std::vector<Instruction>& code, const std::vector<bool>& branches,
                             const std::vector<bool>& ends);

}  // namespace gpusim
