// PTX text -> Module (ISA sections 4, 5 and 11). Throws ModuleError; never anything else, whatever the bytes are.
#pragma once

#include <string_view>

#include "ptx/module.h"

namespace gpusim {

Module parse_ptx(std::string_view text);

}  // namespace gpusim
