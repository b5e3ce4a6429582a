// What the .sync instructions of a warp have in common.
#pragma once

#include "machine/warp.h"

namespace gpusim {

/// ISA 9.7.9.6 and others: all threads that `members` names, and that have not exited, execute the instruction together.
/// False if some have yet to come: the group then waits for them.
bool gather(Warp& w, const Instruction& in, uint32_t mask, Place members);

}  // namespace gpusim
