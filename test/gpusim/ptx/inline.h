// Calls of device functions, between parser and assembler: each call site gets a copy of the function's body, so that the
// rest of the device knows kernels only.
#pragma once

#include "ptx/module.h"

namespace gpusim {

/// The kernel without `call`. The copies' registers and labels are renamed per site, a function's variables exist once;
/// parameters and results (ISA 5.1.6.4) are the caller's .param variables, which become .local memory; `ret` becomes a
/// branch behind the call.
/// Throws ModuleError for what has no such copy: recursion, indirect calls, functions without a body.
Kernel inline_calls(const Module& module, const Kernel& kernel);

}  // namespace gpusim
