// Kernels that another compiler made, with inputs and expected outputs: ../shared/ptx-cases beside the checkout.
#pragma once

#include <string>
#include <vector>

#include "tests/check.h"

namespace gpusim {

struct PtxCase {
  std::string name, kernel, ptx;
  int sm = 80;
  Extent grid, block;
  unsigned shared = 0;
  struct Argument {
    std::string kind, dtype;
    size_t bytes = 0;
    std::vector<uint8_t> content;
    bool written = true;
  };
  std::vector<Argument> args;
  struct Expectation {
    size_t index;
    std::string dtype;
    std::vector<uint8_t> want;
    double rtol, atol;
  };
  std::vector<Expectation> expected;
};

/// Empty where the folder is not there.
std::vector<PtxCase> load_ptx_cases();
/// Empty if the outcome is as expected, else what is wrong.
std::string run_ptx_case(const PtxCase& one, const std::string& ptx);

}  // namespace gpusim
