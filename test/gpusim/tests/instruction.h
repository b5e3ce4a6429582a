// One instruction on many values: the kernel of every per-instruction check.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/check.h"

namespace gpusim {

/// Values as bits in 64-bit words. `registers` names the kind of each operand, destination first: h 16, r 32, f float32,
/// d 64 bits, g float64. inputs[i] has the values of source i; all have the same length.
struct Evaluation {
  Outcome outcome;
  std::vector<uint64_t> results;
};
Evaluation evaluate(const std::string& opcode, const std::string& registers,
                    const std::vector<std::vector<uint64_t>>& inputs, const std::string& tail = "");

/// Checks `opcode` on all combinations of the values against a function on bits.
template <class F>
void check_unary(const std::string& opcode, const std::string& registers, const std::vector<uint64_t>& values, F want) {
  const Evaluation got = evaluate(opcode, registers, {values});
  if (!got.outcome.ok()) return check(false, opcode + ": " + got.outcome.text);
  for (size_t i = 0; i < values.size(); i++)
    check(got.results[i] == want(values[i]), opcode + " of " + std::to_string(values[i]) + " is " +
                                                 std::to_string(got.results[i]) + " instead of " +
                                                 std::to_string(want(values[i])));
}

template <class F>
void check_binary(const std::string& opcode, const std::string& registers, const std::vector<uint64_t>& first,
                  const std::vector<uint64_t>& second, F want) {
  std::vector<uint64_t> a, b;
  for (uint64_t x : first)
    for (uint64_t y : second) {
      a.push_back(x);
      b.push_back(y);
    }
  const Evaluation got = evaluate(opcode, registers, {a, b});
  if (!got.outcome.ok()) return check(false, opcode + ": " + got.outcome.text);
  for (size_t i = 0; i < a.size(); i++)
    check(got.results[i] == want(a[i], b[i]), opcode + " of " + std::to_string(a[i]) + ", " + std::to_string(b[i]) +
                                                  " is " + std::to_string(got.results[i]) + " instead of " +
                                                  std::to_string(want(a[i], b[i])));
}

template <class F>
void check_ternary(const std::string& opcode, const std::string& registers, const std::vector<uint64_t>& values,
                   const std::vector<uint64_t>& thirds, F want) {
  std::vector<uint64_t> a, b, c;
  for (uint64_t x : values)
    for (uint64_t y : values)
      for (uint64_t z : thirds) {
        a.push_back(x);
        b.push_back(y);
        c.push_back(z);
      }
  const Evaluation got = evaluate(opcode, registers, {a, b, c});
  if (!got.outcome.ok()) return check(false, opcode + ": " + got.outcome.text);
  for (size_t i = 0; i < a.size(); i++)
    check(got.results[i] == want(a[i], b[i], c[i]),
          opcode + " of " + std::to_string(a[i]) + ", " + std::to_string(b[i]) + ", " + std::to_string(c[i]) + " is " +
              std::to_string(got.results[i]) + " instead of " + std::to_string(want(a[i], b[i], c[i])));
}

}  // namespace gpusim
