#include "driver/state.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "machine/fault.h"
#include "machine/launch.h"

namespace gpusim {
namespace {

uint64_t environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 10);
}

/// Limits by compute capability: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
void set_limits(Device* device) {
  const int sm = device->sm;
  device->max_threads_per_sm = sm == 75 ? 1024 : sm == 86 || sm == 89 || sm == 120 ? 1536 : 2048;
  device->shared_per_block = (sm == 75 ? 64 : sm == 80 || sm == 87 ? 163 : sm < 90 || sm == 120 ? 99 : 227) << 10;
  device->shared_per_sm = (sm == 75 ? 64 : sm == 80 || sm == 87 ? 164 : sm < 90 || sm == 120 ? 100 : 228) << 10;
  device->sm_count = sm == 75 ? 40 : sm < 90 ? 108 : 132;
}

}  // namespace

Driver& Driver::get() {
  // Never destroyed, as every other static object here: threads may still call while the process exits.
  static Driver* const driver = new Driver;
  return *driver;
}

Result Driver::initialize() {
  if (initialized) return Result::success;
  const uint64_t count = environment("GPUSIM_DEVICES", 1);
  const uint64_t sm = environment("GPUSIM_SM", 80);
  const uint64_t megabytes = environment("GPUSIM_MEMORY_MB", 1024);
  if (count == 0 || count > 16) return Result::no_device;
  if (sm < 75 || sm > 121) {
    log_line("gpusim: GPUSIM_SM must be a compute capability from 75 to 121");
    return Result::invalid_value;
  }
  for (uint64_t i = 0; i < count; i++) {
    auto device = std::make_unique<Device>();
    device->ordinal = static_cast<int>(i);
    device->sm = static_cast<int>(sm);
    device->memory = megabytes << 20;
    device->peers = uint64_t{1} << i;
    set_limits(device.get());
    devices.push_back(std::move(device));
  }
  initialized = true;
  return Result::success;
}

std::vector<Context*>& context_stack() {
  static thread_local std::vector<Context*> stack;
  return stack;
}

Context* current_context() { return context_stack().empty() ? nullptr : context_stack().back(); }

void log_line(const std::string& text) {
  const std::string& path = Options::get().log_path;
  std::FILE* file = path.empty() ? stderr : std::fopen(path.c_str(), "a");
  if (file == nullptr) return;
  std::fprintf(file, "%s\n", text.c_str());
  if (file != stderr) std::fclose(file);
}

Stream* Driver::default_stream(Device* device) {
  auto& stream = default_streams_[device];
  if (!stream) {
    stream = std::make_unique<Stream>();
    stream->device = device;
    stream->default_stream = true;
  }
  return stream.get();
}

Stream* Driver::resolve(Stream* stream) {
  const auto value = reinterpret_cast<uintptr_t>(stream);
  // 1 is CU_STREAM_LEGACY; 2, a default stream for each thread, is taken as an ordinary one of the device.
  if (value <= 2) return default_stream(current_context()->device);
  return streams.count(stream) != 0 ? stream : nullptr;
}

Function* Driver::find_function(Function* function) {
  for (LoadedModule* module : modules)
    for (auto& candidate : module->functions)
      if (candidate.get() == function) return function;
  return nullptr;
}

Result Driver::enqueue(Stream* stream, int node_type, std::function<void()> work, GraphNode** node,
                       Condition condition) {
  if (stream->capture) {
    if (stream->capture->invalidated) return Result::stream_capture_invalidated;
    auto captured = std::make_unique<GraphNode>();
    captured->type = node_type;
    captured->run = std::move(work);
    auto& nodes = stream->capture->graph->nodes;
    if (!nodes.empty()) captured->after.push_back(nodes.back().get());
    if (node != nullptr) *node = captured.get();
    nodes.push_back(std::move(captured));
    if (stream != stream->capture->origin) stream->capture->unjoined.insert(stream);
    return Result::success;
  }
  Operation operation;
  operation.run = std::move(work);
  operation.condition = std::move(condition);
  operation.number = ++stream->issued;
  // The default stream and the blocking streams of a device wait for each other.
  if (stream->default_stream) {
    for (Stream* other : streams)
      if (other->device == stream->device && !other->non_blocking && other->issued > other->done)
        operation.condition.after.emplace_back(other, other->issued);
  } else if (!stream->non_blocking) {
    Stream* legacy = default_stream(stream->device);
    if (legacy->issued > legacy->done) operation.condition.after.emplace_back(legacy, legacy->issued);
  }
  stream->polls = 0;
  stream->waiting.push_back(std::move(operation));
  if (Options::get().eager) advance(stream, stream->issued);
  run_ahead();
  return Result::success;
}

bool Driver::advance_one(Stream* stream) {
  run_ahead();
  Operation& next = stream->waiting.front();
  for (auto& [other, number] : next.condition.after)
    if (exists(other) && !advance(other, number)) return false;
  // Work that follows a failed kernel does not happen.
  const bool failed = stream->device->sticky != Result::success;
  if (!failed && next.condition.ready && !next.condition.ready()) return false;
  const Operation operation = std::move(next);
  stream->waiting.pop_front();
  if (!failed) {
    try {
      operation.run();
    } catch (const Fault& fault) {
      fail_device(stream->device, static_cast<Result>(fault.code), fault.what());
    } catch (const std::exception& error) {
      fail_device(stream->device, Result::unknown, error.what());
    }
  }
  stream->done = operation.number;
  return true;
}

bool Driver::advance(Stream* stream, uint64_t number) {
  if (stream->draining) return true;  // an operation that waits for its own stream: already in order
  stream->draining = true;
  bool ready = true;
  while (ready && stream->done < number && !stream->waiting.empty()) ready = advance_one(stream);
  stream->draining = false;
  return ready;
}

void Driver::drain(Stream* stream, uint64_t number) {
  while (exists(stream) && !advance(stream, number)) {
    mutex.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    mutex.lock();
  }
}

bool Driver::exists(Stream* stream) const {
  if (streams.count(stream) != 0) return true;
  return std::any_of(default_streams_.begin(), default_streams_.end(),
                     [stream](const auto& entry) { return entry.second.get() == stream; });
}

void Driver::drain_device(Device* device) {
  drain(default_stream(device), default_stream(device)->issued);
  const std::vector<Stream*> all(streams.begin(), streams.end());
  for (Stream* stream : all)
    if (exists(stream) && stream->device == device) drain(stream, stream->issued);
}

void Driver::fail_device(Device* device, Result code, const std::string& text) {
  last_fault = text;
  device->sticky = code;
  log_line("gpusim: " + text);
}

void Driver::destroy_streams(Device* device) {
  for (auto it = streams.begin(); it != streams.end();) {
    if ((*it)->device == device) {
      delete *it;
      it = streams.erase(it);
    } else {
      ++it;
    }
  }
  default_streams_.erase(device);
}

}  // namespace gpusim
