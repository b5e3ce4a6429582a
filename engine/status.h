// How native code reports failure: a value, never an exception across the engine contract.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace marginfc {

enum class Code {
  ok,
  aborted,
  out_of_memory,
  not_finite,
  label_range,
  margin,
  shape,
  type,
  unavailable,
  disposed,
  group,          // processes of a group did not do the same, or one has left, or what connects them failed
  group_timeout,  // a process of a group did not answer in time
  internal
};

struct [[nodiscard]] Status {
  Code code = Code::ok;
  std::string message;

  bool ok() const { return code == Code::ok; }
  static Status failure(Code code, std::string message) { return {code, std::move(message)}; }
  static Status aborted() { return {Code::aborted, "the operation was aborted"}; }
  static Status not_finite(const char* argument, int64_t row) {
    return {Code::not_finite,
            std::string(argument) + " must be finite, row " + std::to_string(row) + " holds a NaN or infinite value"};
  }
  static Status no_workspace() { return {Code::out_of_memory, "not enough memory for the workspace of this batch"}; }
  static Status no_weights() {
    return {Code::out_of_memory, "not enough memory for the classes' weights and optimiser state"};
  }
};

// Leaves the calling function when `expression` failed.
#define MARGINFC_TRY(expression)                       \
  do {                                                 \
    ::marginfc::Status marginfc_status = (expression); \
    if (!marginfc_status.ok()) return marginfc_status; \
  } while (false)

}  // namespace marginfc
