// Modules from a fatbin or from PTX text, and what is in them.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "driver/state.h"
#include "machine/launch.h"
#include "ptx/parser.h"
#include "stats/coverage.h"

using namespace gpusim;

namespace {

constexpr size_t kLongestText = size_t{64} << 20;

/// What cuModuleLoadDataEx was asked for: where messages go.
struct JitLog {
  char* buffer = nullptr;
  size_t size = 0;
  void write(const std::string& text) const {
    if (buffer != nullptr && size > 0) std::snprintf(buffer, size, "%s", text.c_str());
    log_line("gpusim: " + text);
  }
};

bool is_elf(const uint8_t* bytes) { return std::memcmp(bytes, "\177ELF", 4) == 0; }

CodeImage read_image(const void* data, int sm) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  uint32_t magic;
  std::memcpy(&magic, bytes, 4);
  // The wrapper that nvcc puts into objects: magic, version, pointer to the fatbin.
  if (magic == 0x466243b1u) {
    std::memcpy(&bytes, bytes + 8, sizeof bytes);
    std::memcpy(&magic, bytes, 4);
  }
  if (magic == 0xba55ed50u) return read_fatbin(bytes, fatbin_size(bytes), sm);
  CodeImage image;
  if (is_elf(bytes))
    image.error = "a cubin alone cannot run here: this device executes PTX, which the fatbin must hold too";
  else
    image.ptx.assign(reinterpret_cast<const char*>(bytes), strnlen(reinterpret_cast<const char*>(bytes), kLongestText));
  return image;
}

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void place_variables(LoadedModule* module) {
  const Module& parsed = module->parsed;
  Symbols& symbols = module->symbols;
  const Device& device = *module->device;
  for (const Variable& variable : parsed.variables) {
    if (variable.space != Space::global && variable.space != Space::constant) continue;
    if (variable.external)
      throw ModuleError(ModuleError::Kind::unsupported, variable.line, "external variable " + variable.name);
    const auto kind = variable.space == Space::constant ? Allocation::Kind::module_constant
                                                        : Allocation::Kind::module_global;
    Allocation* allocation = GlobalMemory::get().allocate(device.ordinal, std::max<uint64_t>(variable.bytes, 1),
                                                          device.memory, kind);
    if (allocation == nullptr) throw std::bad_alloc();
    // Variables without initialiser are zero.
    if (!variable.content.empty()) std::memcpy(allocation->data, variable.content.data(), variable.content.size());
    allocation->mark_written(allocation->base, allocation->bytes);
    symbols[variable.name] = allocation->base;
    module->globals[variable.name] = {allocation->base, variable.bytes};
  }
  for (const Variable& variable : parsed.variables)
    for (const Variable::Address& address : variable.addresses) {
      const auto target = symbols.find(address.name);
      if (target == symbols.end())
        throw ModuleError(ModuleError::Kind::syntax, variable.line,
                          "unknown name " + address.name + " in an initialiser");
      const uint64_t value = target->second + static_cast<uint64_t>(address.addend);
      std::memcpy(GlobalMemory::get().find(symbols[variable.name])->data + address.offset, &value, 8);
    }
}

}  // namespace

namespace gpusim {

Result result_of(const ModuleError& error) {
  if (error.kind == ModuleError::Kind::target) return Result::no_binary_for_gpu;
  return std::strstr(error.what(), ".version") != nullptr ? Result::unsupported_ptx_version : Result::invalid_ptx;
}

}  // namespace gpusim

namespace {

Result load(Driver& driver, LoadedModule** out, const void* data, const JitLog& log) {
  if (out == nullptr || data == nullptr) return Result::invalid_value;
  Device* device = current_context()->device;
  auto module = std::make_unique<LoadedModule>();
  module->device = device;
  CodeImage& image = module->image;
  image = read_image(data, device->sm);
  if (!Options::get().ptx_path.empty()) image.ptx = text_of(Options::get().ptx_path);
  if (image.ptx.empty()) {
    log.write(image.error.empty() ? "the image is empty" : image.error);
    return image.malformed ? Result::invalid_image : Result::no_binary_for_gpu;
  }
  const auto undo = [&] {
    for (auto& entry : module->globals) GlobalMemory::get().release(entry.second.address);
  };
  try {
    module->parsed = parse_ptx(image.ptx);
    const Module& parsed = module->parsed;
    if (parsed.target > device->sm || (parsed.arch_specific && parsed.target != device->sm)) {
      log.write(".target sm_" + std::to_string(parsed.target) + (parsed.arch_specific ? "a" : "") +
                " on a device of sm_" + std::to_string(device->sm));
      return Result::no_binary_for_gpu;
    }
    place_variables(module.get());
    for (const Kernel& kernel : parsed.kernels) {
      module->functions.push_back(std::make_unique<Function>(module.get(), &kernel));
      if (!Options::get().lazy_loading) module->functions.back()->program();
    }
  } catch (const ModuleError& error) {
    undo();
    log.write(error.what());
    return result_of(error);
  } catch (const std::bad_alloc&) {
    undo();
    return Result::out_of_memory;
  }
  *out = module.release();
  driver.modules.insert(*out);
  return Result::success;
}

}  // namespace

GPUSIM_API int cuModuleLoadDataEx(LoadedModule** module, const void* image, unsigned count, const int* options,
                                  void** values) {
  return call(true, [&](Driver& driver) {
    JitLog log;
    for (unsigned i = 0; i < count; i++) {
      if (options == nullptr || values == nullptr) return Result::invalid_value;
      if (options[i] == 5) log.buffer = static_cast<char*>(values[i]);
      if (options[i] == 6) log.size = reinterpret_cast<size_t>(values[i]);
    }
    return load(driver, module, image, log);
  });
}

GPUSIM_API int cuModuleLoadData(LoadedModule** module, const void* image) {
  return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}

GPUSIM_API int cuModuleLoadFatBinary(LoadedModule** module, const void* image) {
  return cuModuleLoadData(module, image);
}

GPUSIM_API int cuModuleLoad(LoadedModule** module, const char* path) {
  return call(true, [&](Driver& driver) {
    std::ifstream file(path == nullptr ? "" : path, std::ios::binary);
    if (!file) return Result::file_not_found;
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    bytes.resize(bytes.size() + 16, 0);
    // The header of a fatbin says how long it is; here the file says how long it may be.
    const auto* image = reinterpret_cast<const uint8_t*>(bytes.data());
    if (fatbin_size(image) > bytes.size()) return Result::invalid_image;
    return load(driver, module, bytes.data(), {});
  });
}

GPUSIM_API int cuModuleUnload(LoadedModule* module) {
  return call(true, [&](Driver& driver) {
    if (driver.modules.count(module) == 0) return Result::invalid_handle;
    driver.drain_device(module->device);
    for (auto& entry : module->globals) GlobalMemory::get().release(entry.second.address);
    driver.modules.erase(module);
    delete module;
    return Result::success;
  });
}

GPUSIM_API int cuModuleGetFunction(Function** function, LoadedModule* module, const char* name) {
  return call(true, [&](Driver& driver) {
    if (function == nullptr || name == nullptr) return Result::invalid_value;
    if (driver.modules.count(module) == 0) return Result::invalid_handle;
    for (auto& candidate : module->functions)
      if (candidate->name() == name) {
        *function = candidate.get();
        return Result::success;
      }
    return Result::not_found;
  });
}

GPUSIM_API int cuModuleGetGlobal_v2(DevicePointer* address, size_t* bytes, LoadedModule* module, const char* name) {
  return call(true, [&](Driver& driver) {
    if (name == nullptr) return Result::invalid_value;
    if (driver.modules.count(module) == 0) return Result::invalid_handle;
    const auto found = module->globals.find(name);
    if (found == module->globals.end()) return Result::not_found;
    if (address != nullptr) *address = found->second.address;
    if (bytes != nullptr) *bytes = found->second.bytes;
    return Result::success;
  });
}

// ---- functions

const std::shared_ptr<const Program>& Function::program() {
  if (program_) return program_;
  std::unique_ptr<Program> program = assemble(module->parsed, *kernel_, module->symbols);
  const auto facts = module->image.facts.find(kernel_->name);
  if (facts != module->image.facts.end() && facts->second.registers != 0) {
    program->registers = facts->second.registers;
    program->registers_known = true;
    program->spill_bytes = facts->second.frame_bytes > program->local_bytes
                               ? facts->second.frame_bytes - program->local_bytes
                               : 0;
  }
  cover(*program, module->device->sm);
  program_ = std::move(program);
  return program_;
}

int Function::max_threads() {
  const Program* const program = this->program().get();
  const uint32_t* limit = program->required[0] != 0 ? program->required : program->maximum;
  const uint32_t declared = limit[0] != 0 ? limit[0] * limit[1] * limit[2] : 1024;
  // Registers are given in units of 256 a warp.
  const uint32_t per_warp = (program->registers * 32 + 255) / 256 * 256;
  const uint32_t warps = 65536 / std::max(per_warp, 1u);
  return static_cast<int>(std::min(declared, std::min(1024u, warps * 32)));
}

GPUSIM_API int cuFuncGetAttribute(int* value, int attribute, Function* function) {
  return call(true, [&](Driver& driver) {
    if (value == nullptr) return Result::invalid_value;
    if (driver.find_function(function) == nullptr) return Result::invalid_handle;
    const Program& program = *function->program();
    switch (attribute) {
      case 0: *value = function->max_threads(); return Result::success;
      case 1: *value = static_cast<int>(program.shared_bytes); return Result::success;
      case 2: *value = static_cast<int>(program.param_bytes); return Result::success;
      case 3: *value = static_cast<int>(program.local_bytes + program.spill_bytes); return Result::success;
      case 4: *value = static_cast<int>(program.registers); return Result::success;
      case 5: *value = program.version; return Result::success;
      case 6: *value = program.target; return Result::success;
      case 7: *value = 0; return Result::success;
      case 8: *value = function->max_dynamic_shared; return Result::success;
      case 9: *value = function->carveout; return Result::success;
      case 10:
      case 11:
      case 12:
      case 13:
      case 14:
      case 15: *value = 0; return Result::success;
      default: return Result::invalid_value;
    }
  });
}

GPUSIM_API int cuFuncSetAttribute(Function* function, int attribute, int value) {
  return call(true, [&](Driver& driver) {
    if (driver.find_function(function) == nullptr) return Result::invalid_handle;
    const auto most = static_cast<int64_t>(function->module->device->shared_per_block);
    if (attribute == 8) {
      // The shared memory of its own of a kernel that is not assembled yet is counted at the launch.
      const int64_t own = function->assembled() ? function->program()->dynamic_offset : 0;
      if (value < 0 || value + own > most) return Result::invalid_value;
      function->max_dynamic_shared = value;
      return Result::success;
    }
    if (attribute == 9) {
      if (value < -1 || value > 100) return Result::invalid_value;
      function->carveout = value;
      return Result::success;
    }
    return attribute == 14 ? Result::success : Result::invalid_value;
  });
}

GPUSIM_API int cuFuncSetCacheConfig(Function* function, int) {
  return call(true, [&](Driver& driver) {
    return driver.find_function(function) == nullptr ? Result::invalid_handle : Result::success;
  });
}

GPUSIM_API int cuFuncGetModule(LoadedModule** module, Function* function) {
  return call(true, [&](Driver& driver) {
    if (module == nullptr || driver.find_function(function) == nullptr) return Result::invalid_handle;
    *module = function->module;
    return Result::success;
  });
}

GPUSIM_API int cuFuncGetParamInfo(Function* function, size_t index, size_t* offset, size_t* bytes) {
  return call(true, [&](Driver& driver) {
    if (driver.find_function(function) == nullptr) return Result::invalid_handle;
    const auto& params = function->program()->params;
    if (index >= params.size()) return Result::invalid_value;
    if (offset != nullptr) *offset = params[index].offset;
    if (bytes != nullptr) *bytes = params[index].bytes;
    return Result::success;
  });
}

GPUSIM_API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int block_size,
                                                           size_t dynamic_shared) {
  return call(true, [&](Driver& driver) {
    if (blocks == nullptr || block_size <= 0) return Result::invalid_value;
    if (driver.find_function(function) == nullptr) return Result::invalid_handle;
    const Device& device = *function->module->device;
    const Program& program = *function->program();
    const int warps = (block_size + 31) / 32;
    const int per_warp = static_cast<int>((program.registers * 32 + 255) / 256 * 256);
    int fit = std::min(32, device.max_threads_per_sm / (warps * 32));
    fit = std::min(fit, 65536 / std::max(1, per_warp * warps));
    const uint64_t reserved = device.sm >= 80 ? 1024 : 0;
    const uint64_t shared = program.dynamic_offset + dynamic_shared + reserved;
    if (shared > 0)
      fit = static_cast<int>(std::min<uint64_t>(static_cast<uint64_t>(fit), device.shared_per_sm / shared));
    *blocks = block_size > function->max_threads() ? 0 : fit;
    return Result::success;
  });
}
