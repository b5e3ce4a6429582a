// What stops a kernel: the driver's error code and a sentence with the place.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace gpusim {

/// Values are the driver API's CUresult.
enum class FaultCode : int {
  illegal_address = 700,
  timeout = 702,
  illegal_instruction = 715,
  misaligned_address = 716,
  invalid_address_space = 717,
  launch_failed = 719,
};

struct Fault : std::runtime_error {
  Fault(FaultCode code_of, const std::string& text) : std::runtime_error(text), code(code_of) {}
  FaultCode code;
};

}  // namespace gpusim
