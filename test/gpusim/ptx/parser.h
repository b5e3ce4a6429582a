// PTX text -> Module (ISA sections 4, 5 and 11). Throws ModuleError; never anything else, whatever the bytes are.
#pragma once

#include <string_view>

#include "ptx/module.h"

namespace gpusim {

/// Bodies of kernels are only found, as parts of `text`: a module has many kernels of which a program launches few.
Module parse_ptx(std::string_view text);
/// The kernel or device function with what is in its body.
Kernel parse_body(const Kernel& head);

}  // namespace gpusim
