#include "tests/ptx_cases.h"

#include <cmath>
#include <filesystem>
#include <sstream>

#include "ops/rounding.h"

namespace gpusim {
namespace {

double element(const std::string& dtype, const uint8_t* bytes, size_t i) {
  const auto get = [&](auto value) {
    std::memcpy(&value, bytes + i * sizeof value, sizeof value);
    return value;
  };
  if (dtype == "f32") return get(float{});
  if (dtype == "f64") return get(double{});
  if (dtype == "f16") return f16_to_f32(get(uint16_t{}));
  if (dtype == "bf16") return bf16_to_f32(get(uint16_t{}));
  if (dtype == "i32") return get(int32_t{});
  if (dtype == "u32") return get(uint32_t{});
  return bytes[i];
}

bool close(double got, double want, double rtol, double atol) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want;
  return std::fabs(got - want) <= atol + rtol * std::fabs(want);
}

size_t element_bytes(const std::string& dtype) {
  if (dtype == "f64" || dtype == "i64") return 8;
  if (dtype == "f16" || dtype == "bf16") return 2;
  return dtype == "i8" || dtype == "u8" ? 1 : 4;
}

template <class T>
std::vector<uint8_t> bytes_of(T value) {
  std::vector<uint8_t> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

PtxCase parse_case(const std::string& folder, const std::string& text) {
  PtxCase one;
  std::string data;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string key, name, kind;
    words >> key;
    if (key == "case") words >> one.name;
    if (key == "kernel") words >> one.kernel;
    if (key == "target") one.sm = line.find("90") != std::string::npos ? 90 : 80;
    if (key == "data") {
      words >> name;
      data = read_file(folder + "/" + name);
    }
    if (key == "grid") words >> one.grid.x >> one.grid.y >> one.grid.z;
    if (key == "block") words >> one.block.x >> one.block.y >> one.block.z;
    if (key == "shared") words >> one.shared;
    if (key == "arg") {
      PtxCase::Argument arg;
      words >> name >> arg.kind;
      if (arg.kind == "buffer") {
        long offset = 0, fill = 0;
        std::string role;
        words >> arg.dtype >> arg.bytes >> offset >> fill >> role;
        arg.content.assign(arg.bytes, static_cast<uint8_t>(fill));
        if (offset >= 0) std::memcpy(arg.content.data(), data.data() + offset, arg.bytes);
        arg.written = role != "out" && role != "scratch";
      } else if (arg.kind == "f32") {
        float value = 0;
        words >> value;
        arg.content = bytes_of(value);
      } else {
        int64_t value = 0;
        words >> value;
        arg.content = arg.kind == "i32" ? bytes_of(static_cast<int32_t>(value)) : bytes_of(value);
      }
      one.args.push_back(std::move(arg));
    }
    if (key == "expect") {
      PtxCase::Expectation expectation;
      size_t count = 0, offset = 0;
      words >> expectation.index >> expectation.dtype >> count >> offset >> expectation.rtol >> expectation.atol;
      const size_t bytes = count * element_bytes(expectation.dtype);
      expectation.want.assign(data.begin() + static_cast<long>(offset),
                              data.begin() + static_cast<long>(offset + bytes));
      one.expected.push_back(std::move(expectation));
    }
  }
  one.ptx = read_file(folder + "/" + one.name + ".ptx");
  return one;
}

}  // namespace

std::vector<PtxCase> load_ptx_cases() {
  const std::string folder = source_folder() + "/../../../shared/ptx-cases";
  std::vector<PtxCase> cases;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().extension() == ".txt") cases.push_back(parse_case(folder, read_file(entry.path().string())));
  return cases;
}

std::string run_ptx_case(const PtxCase& one, const std::string& ptx) {
  std::vector<Buffer> buffers(one.args.size());
  std::vector<Arg> args;
  for (size_t i = 0; i < one.args.size(); i++) {
    const auto& arg = one.args[i];
    if (arg.kind == "buffer") {
      // Outputs are left unwritten, so that reading them would be found out.
      buffers[i].bytes = arg.content;
      buffers[i].written = arg.written;
      args.emplace_back(&buffers[i]);
    } else {
      Arg scalar(0);
      scalar.scalar = arg.content;
      args.push_back(scalar);
    }
  }
  const Outcome outcome = run_kernel(ptx, one.kernel, one.grid, one.block, one.shared, args, one.sm);
  if (!outcome.ok()) return "error " + std::to_string(outcome.code) + ": " + outcome.text;
  for (const auto& expectation : one.expected) {
    const size_t count = expectation.want.size() / element_bytes(expectation.dtype);
    for (size_t i = 0; i < count; i++) {
      const double got = element(expectation.dtype, buffers[expectation.index].bytes.data(), i);
      const double want = element(expectation.dtype, expectation.want.data(), i);
      if (!close(got, want, expectation.rtol, expectation.atol))
        return "output " + std::to_string(expectation.index) + "[" + std::to_string(i) + "] is " + std::to_string(got) +
               " instead of " + std::to_string(want);
    }
  }
  return "";
}

void check_ptx_cases() {
  const std::vector<PtxCase> cases = load_ptx_cases();
  if (cases.empty()) return skip("ptx-cases", "there is no ../shared/ptx-cases beside the checkout");
  for (const PtxCase& one : cases)
    for (uint64_t seed = 0; seed < 5; seed++) {
      const With settings([&](Options& options) { options.seed = seed; });
      const std::string problem = run_ptx_case(one, one.ptx);
      check(problem.empty(), one.name + ", seed " + std::to_string(seed) + ": " + problem);
    }
}

}  // namespace gpusim
