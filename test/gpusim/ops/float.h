// Arithmetic in rounding modes other than to nearest.
#pragma once

#include "machine/instruction.h"

namespace gpusim {

enum class Rounding : int8_t { none = -1, nearest, zero, down, up };
enum class RoundedOp : uint8_t { add, sub, mul, fma, div, rcp, sqrt };

/// Null for a combination that PTX does not have.
Handler rounded_handler(RoundedOp op, Rounding rounding, bool is_double, bool ftz, bool sat);

}  // namespace gpusim
