// GPUSIM_COVERAGE: which PTX lines of the loaded modules this process executed, appended to a file when it exits.
#pragma once

#include "machine/launch.h"

namespace gpusim {

/// From now on its lines are reported, even if it is never launched.
void cover(const Program& program, int sm);
void cover(const Launch& launch, int sm);

}  // namespace gpusim
