// Checks of the software device: `gpusim_check [part]...` runs all or the named parts and prints the counts. `speed`
// measures, `fuzz SECONDS` throws malformed text and fatbins at the parsers, `ptx FATBIN SM` prints what a device of that
// compute capability would run.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "driver/fatbin.h"
#include "tests/check.h"
#include "tests/programs.h"

namespace gpusim {
namespace {

int print_ptx(const char* path, int sm) {
  const std::string file = read_file(path);
  const CodeImage image = read_fatbin(reinterpret_cast<const uint8_t*>(file.data()), file.size(), sm);
  std::fputs(image.ptx.empty() ? image.error.c_str() : image.ptx.c_str(), image.ptx.empty() ? stderr : stdout);
  return image.ptx.empty();
}

}  // namespace

Counts& counts() {
  static Counts all;
  return all;
}

void check(bool ok, const std::string& what) {
  (ok ? counts().passed : counts().failed)++;
  if (!ok) std::printf("FAILED: %s\n", what.c_str());
}

void skip(const std::string& what, const std::string& why) {
  counts().skipped++;
  std::printf("skipped: %s: %s\n", what.c_str(), why.c_str());
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string source_folder() {
  const char* folder = std::getenv("GPUSIM_SOURCE");
  return folder == nullptr ? "test/gpusim" : folder;
}

std::string kernel_text(const std::string& params, const std::string& body) {
  return ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k(" + params +
         ")\n{\n.reg .pred %p<64>;\n.reg .b16 %h<64>;\n.reg .b32 %r<64>;\n.reg .f32 %f<64>;\n.reg .b64 %rd<64>;\n"
         ".reg .f64 %fd<64>;\n" +
         body + "\nret;\n}\n";
}

Outcome run_kernel(const std::string& ptx, const std::string& kernel, Extent grid, Extent block, unsigned shared,
                   std::vector<Arg> args, int sm) {
  cuInit(0);
  Driver& driver = Driver::get();
  driver.devices[0]->sm = sm;
  driver.devices[0]->shared_per_block = 227 << 10;
  cuDevicePrimaryCtxReset_v2(0);
  driver.last_fault.clear();
  Context* context = nullptr;
  if (current_context() == nullptr) {
    cuDevicePrimaryCtxRetain(&context, 0);
    cuCtxSetCurrent(context);
  }
  Outcome outcome;
  char log[4096] = "";
  const int options[] = {5, 6};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  LoadedModule* module = nullptr;
  outcome.code = cuModuleLoadDataEx(&module, ptx.c_str(), 2, options, values);
  outcome.text = log;
  if (!outcome.ok()) return outcome;
  Function* function = nullptr;
  outcome.code = cuModuleGetFunction(&function, module, kernel.c_str());
  if (!outcome.ok()) return outcome;
  if (shared > 48 << 10) cuFuncSetAttribute(function, 8, static_cast<int>(shared));
  std::vector<uint64_t> pointers(args.size());
  std::vector<void*> params;
  for (size_t i = 0; i < args.size(); i++) {
    if (args[i].buffer == nullptr) {
      params.push_back(args[i].scalar.data());
      continue;
    }
    Buffer& buffer = *args[i].buffer;
    cuMemAlloc_v2(&pointers[i], std::max<size_t>(buffer.bytes.size(), 1));
    if (buffer.written) cuMemcpyHtoD_v2(pointers[i], buffer.bytes.data(), buffer.bytes.size());
    params.push_back(&pointers[i]);
  }
  outcome.code = cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, nullptr,
                                params.data(), nullptr);
  if (outcome.ok()) outcome.code = cuCtxSynchronize();
  outcome.text = driver.last_fault;
  if (outcome.ok())
    for (size_t i = 0; i < args.size(); i++)
      if (args[i].buffer != nullptr)
        cuMemcpyDtoH_v2(args[i].buffer->bytes.data(), pointers[i], args[i].buffer->bytes.size());
  return outcome;
}

}  // namespace gpusim

int main(int count, char** names) {
  using namespace gpusim;
  // Faults are what many checks want: their messages are compared, not printed.
  Options::storage().log_path = "/dev/null";
  // All that is wrong with a module is wanted when it is loaded.
  Options::storage().lazy_loading = false;
  struct Part {
    const char* name;
    void (*run)();
  };
  const Part parts[] = {{"parser", check_parser},
                        {"integer", check_integer},
                        {"float", check_float},
                        {"conversion", check_conversion},
                        {"predicate", check_predicate},
                        {"control", check_control},
                        {"functions", check_functions},
                        {"memory", check_memory},
                        {"races", check_shared_and_races},
                        {"collectives", check_collectives},
                        {"matrix", check_matrix},
                        {"async", check_async},
                        {"driver", check_driver},
                        {"ptx-cases", check_ptx_cases},
                        {"mutations", check_mutations},
                        {"stats", check_stats}};
  if (count > 1 && std::string(names[1]) == "speed") return measure_speed();
  if (count > 2 && std::string(names[1]) == "fuzz") return fuzz_parsers(std::atof(names[2]));
  if (count > 3 && std::string(names[1]) == "ptx") return print_ptx(names[2], std::atoi(names[3]));
  for (const Part& part : parts) {
    bool wanted = count == 1;
    for (int i = 1; i < count; i++) wanted |= std::string(names[i]) == part.name;
    if (!wanted) continue;
    const Counts before = counts();
    part.run();
    std::printf("%-12s %d passed, %d failed\n", part.name, counts().passed - before.passed,
                counts().failed - before.failed);
  }
  std::printf("%d passed, %d failed\n", counts().passed, counts().failed);
  // Nothing run and nothing said to be skipped is a mistake, such as a part's name.
  return counts().failed != 0 || (counts().passed == 0 && counts().skipped == 0);
}
