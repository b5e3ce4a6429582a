// Launches: the limits that the driver checks at the call, and the work that a stream runs later.
#include "machine/launch.h"

#include <cstring>

#include "driver/state.h"
#include "stats/coverage.h"
#include "stats/report.h"

using namespace gpusim;

namespace gpusim {
namespace {

constexpr uintptr_t kParamBuffer = 1, kParamBufferSize = 2;  // CU_LAUNCH_PARAM_*

Result collect_params(const Program& program, void** params, void** extra, std::vector<uint8_t>* block) {
  block->assign(program.param_bytes, 0);
  if (extra != nullptr) {
    const void* buffer = nullptr;
    size_t size = 0;
    for (void** at = extra; *at != nullptr; at += 2) {
      if (reinterpret_cast<uintptr_t>(*at) == kParamBuffer)
        buffer = at[1];
      else if (reinterpret_cast<uintptr_t>(*at) == kParamBufferSize)
        size = *static_cast<size_t*>(at[1]);
      else
        return Result::invalid_value;
    }
    if (buffer == nullptr || size < program.param_bytes) return Result::invalid_value;
    std::memcpy(block->data(), buffer, program.param_bytes);
    return Result::success;
  }
  for (size_t i = 0; i < program.params.size(); i++) {
    if (params == nullptr || params[i] == nullptr) return Result::invalid_value;
    std::memcpy(block->data() + program.params[i].offset, params[i], program.params[i].bytes);
  }
  return Result::success;
}

Result check_limits(Function& function, const unsigned* grid, const unsigned* block, unsigned shared_bytes) {
  const Program& program = *function.program();
  for (int i = 0; i < 3; i++)
    if (grid[i] == 0 || block[i] == 0) return Result::invalid_value;
  if (grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) return Result::invalid_value;
  if (block[0] > 1024 || block[1] > 1024 || block[2] > 64) return Result::invalid_value;
  if (uint64_t{grid[0]} * grid[1] * grid[2] > 0xffffffffu)
    return Result::not_supported;  // blocks are numbered in 32 bits
  const uint64_t threads = uint64_t{block[0]} * block[1] * block[2];
  if (threads > 1024) return Result::invalid_value;
  if (program.required[0] != 0)
    for (int i = 0; i < 3; i++)
      if (block[i] != program.required[i]) return Result::invalid_value;
  if (program.maximum[0] != 0 && threads > uint64_t{program.maximum[0]} * program.maximum[1] * program.maximum[2])
    return Result::invalid_value;
  if (threads > static_cast<uint64_t>(function.max_threads())) return Result::launch_out_of_resources;
  if (static_cast<int64_t>(shared_bytes) > function.max_dynamic_shared) return Result::invalid_value;
  const uint64_t most = function.max_dynamic_shared > (48 << 10) ? function.module->device->shared_per_block : 48 << 10;
  if (program.dynamic_offset + uint64_t{shared_bytes} > most) return Result::invalid_value;
  return Result::success;
}

}  // namespace

Result prepare_kernel(Driver& driver, const Device* device, const KernelNodeParams& kernel,
                      std::function<void()>* run) {
  Function* function = driver.find_function(kernel.function);
  if (function == nullptr || function->module->device != device) return Result::invalid_handle;
  Result result = check_limits(*function, kernel.grid, kernel.block, kernel.shared_bytes);
  if (result != Result::success) return result;
  auto launch = std::make_shared<Launch>();
  launch->program = function->program().get();
  launch->options = &Options::get();
  launch->counting = launch->options->checks || !launch->options->stats_path.empty();
  launch->device = device->ordinal;
  launch->dynamic_shared = kernel.shared_bytes;
  for (int i = 0; i < 3; i++) {
    launch->grid[i] = kernel.grid[i];
    launch->block[i] = kernel.block[i];
  }
  result = collect_params(*launch->program, kernel.params, kernel.extra, &launch->params);
  if (result != Result::success) return result;
  *run = [launch, device, keep = function->program()] {
    Launch running;
    running.program = launch->program;
    running.options = launch->options;
    running.counting = launch->counting;
    running.device = launch->device;
    running.dynamic_shared = launch->dynamic_shared;
    running.params = launch->params;
    running.reachable = device->peers;
    for (int i = 0; i < 3; i++) {
      running.grid[i] = launch->grid[i];
      running.block[i] = launch->block[i];
    }
    running.run();
    report_launch(running, device->sm);
    cover(running, device->sm);
  };
  return Result::success;
}

Result launch_kernel(Driver& driver, Stream* stream, const KernelNodeParams& kernel) {
  stream = driver.resolve(stream);
  if (stream == nullptr) return Result::invalid_handle;
  std::function<void()> run;
  Result result = prepare_kernel(driver, stream->device, kernel, &run);
  if (result != Result::success) return result;
  GraphNode* node = nullptr;
  result = driver.enqueue(stream, kKernelNode, std::move(run), &node);
  if (node != nullptr) node->function = kernel.function;
  return result;
}

}  // namespace gpusim

GPUSIM_API int cuLaunchKernel(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream* stream, void** params,
                              void** extra) {
  return call(true, [&](Driver& driver) {
    return launch_kernel(
        driver, stream, {function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, params, extra});
  });
}

// Attributes of CUlaunchAttributeID. What cannot be honoured is refused.
GPUSIM_API int cuLaunchKernelEx(const LaunchConfig* config, Function* function, void** params, void** extra) {
  return call(true, [&](Driver& driver) {
    if (config == nullptr || (config->attribute_count > 0 && config->attributes == nullptr))
      return Result::invalid_value;
    for (unsigned i = 0; i < config->attribute_count; i++) {
      const LaunchAttribute& attribute = config->attributes[i];
      switch (attribute.id) {
        case 0:
        case 1:
        case 3:
        case 5:
        case 8: break;  // ignore, L2 window, policies, priority
        case 2:
          if (attribute.value != 0) return Result::not_supported;  // cooperative
          break;
        case 4:
          if (attribute.cluster.x * attribute.cluster.y * attribute.cluster.z != 1) return Result::not_supported;
          break;
        case 6: break;  // programmatic serialization: in order is always allowed
        default: return Result::not_supported;
      }
    }
    const unsigned *grid = config->grid, *block = config->block;
    return launch_kernel(
        driver, config->stream,
        {function, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, config->shared_bytes, params, extra});
  });
}
