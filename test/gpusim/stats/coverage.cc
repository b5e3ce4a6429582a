#include "stats/coverage.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace gpusim {
namespace {

/// Lines of each kernel by compute capability and name, and whether a lane has executed one.
struct Coverage {
  std::mutex mutex;
  std::map<std::pair<int, std::string>, std::map<int, bool>> kernels;
};

Coverage& coverage();

std::string list(const std::map<int, bool>& lines, bool executed) {
  std::string text;
  for (const auto& [line, ran] : lines)
    if (ran == executed) text += (text.empty() ? "" : ", ") + std::to_string(line);
  return "[" + text + "]";
}

/// One object a line. Written at once, so that several processes can append to one file.
void write() {
  Coverage& all = coverage();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::string text;
  for (const auto& [key, lines] : all.kernels)
    text += "{\"sm\": " + std::to_string(key.first) + ", \"kernel\": \"" + key.second +
            "\", \"executed\": " + list(lines, true) + ", \"missed\": " + list(lines, false) + "}\n";
  std::FILE* file = std::fopen(Options::get().coverage_path.c_str(), "a");
  if (file == nullptr) return;
  std::setvbuf(file, nullptr, _IOFBF, text.size() + 1);
  std::fwrite(text.data(), 1, text.size(), file);
  std::fclose(file);
}

Coverage& coverage() {
  static Coverage& all = [&]() -> Coverage& {
    std::atexit(write);
    return *new Coverage;
  }();
  return all;
}

/// Executed is what a lane did. A branch that no lane took is too: where it leads is another line.
void add(const Program& program, int sm, const Launch* launch) {
  Coverage& all = coverage();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::map<int, bool>& lines = all.kernels[{sm, program.name}];
  // The last instruction is the assembler's own.
  for (size_t i = 0; i + 1 < program.code.size(); i++) {
    const Instruction& in = program.code[i];
    const bool reached = launch != nullptr && launch->counts[i] != 0;
    lines[in.line] |= reached && (launch->ran[i] != 0 || in.kind == Class::control);
  }
}

}  // namespace

void cover(const Program& program, int sm) {
  if (!Options::get().coverage_path.empty()) add(program, sm, nullptr);
}

void cover(const Launch& launch, int sm) {
  if (!Options::get().coverage_path.empty()) add(*launch.program, sm, &launch);
}

}  // namespace gpusim
