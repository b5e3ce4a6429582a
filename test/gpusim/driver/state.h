// What the driver knows: devices, contexts, streams with the work that waits in them, modules. One lock guards it all; every
// entry point takes it through `call`.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "driver/api.h"
#include "driver/fatbin.h"
#include "machine/assemble.h"
#include "machine/instruction.h"
#include "memory/global_memory.h"

namespace gpusim {

struct Device {
  int ordinal = 0;
  int sm = 80;
  uint64_t memory = 0;
  uint64_t shared_per_block = 0;  // after opting in
  uint64_t shared_per_sm = 0;
  int sm_count = 0;
  int max_threads_per_sm = 0;
  Context* primary = nullptr;
  int retained = 0;
  Result sticky = Result::success;  // of a kernel that failed: every later call fails with it
  uint64_t peers = 0;               // devices whose memory its kernels may touch
};

struct Context {
  Device* device;
  bool is_primary;
  unsigned flags = 0;
};

/// What an operation waits for besides those before it in its stream.
struct Condition {
  std::vector<std::pair<Stream*, uint64_t>> after;  // other streams up to one of their operations
  std::function<bool()> ready;                      // null: nothing
};

/// Work in a stream, that happens when somebody waits for it, or in an order of streams that a seed chooses.
struct Operation {
  std::function<void()> run;
  Condition condition;
  uint64_t number = 0;
};

struct Capture {
  Graph* graph = nullptr;
  Stream* origin = nullptr;
  bool invalidated = false;
  std::set<Stream*> streams, unjoined;
};

struct Stream {
  Device* device = nullptr;
  uint64_t place = 0;  // among the streams in the order in which they were made
  bool default_stream = false;
  bool non_blocking = false;
  unsigned flags = 0;
  int priority = 0;
  std::deque<Operation> waiting;
  uint64_t issued = 0, done = 0;
  bool draining = false;
  int polls = 0;
  std::shared_ptr<Capture> capture;
};

struct Event {
  Device* device = nullptr;
  Stream* stream = nullptr;  // where it was recorded last
  uint64_t number = 0;       // after which operation of it
  uint64_t time = 0;
  bool timing = true;
  std::shared_ptr<Capture> capture;
};

struct LoadedModule {
  Device* device = nullptr;
  CodeImage image;  // whose text the parsed module refers to
  Module parsed;
  Symbols symbols;
  std::vector<std::unique_ptr<Function>> functions;
  struct Global {
    DevicePointer address;
    uint64_t bytes;
  };
  std::unordered_map<std::string, Global> globals;
};

class Function {
 public:
  Function(LoadedModule* of, const Kernel* kernel) : module(of), kernel_(kernel) {}

  LoadedModule* const module;
  int max_dynamic_shared = 48 << 10;
  int carveout = -1;

  const std::string& name() const { return kernel_->name; }
  /// Assembled when it is first asked for, which throws ModuleError. Work in streams and graphs keeps it.
  const std::shared_ptr<const Program>& program();
  bool assembled() const { return program_ != nullptr; }
  int max_threads();

 private:
  const Kernel* const kernel_;
  std::shared_ptr<const Program> program_;
};

constexpr int kKernelNode = 0;  // CUgraphNodeType

struct GraphNode {
  int type = 5;
  std::function<void()> run;
  std::vector<const GraphNode*> after;  // its dependencies
  Function* function = nullptr;         // of a kernel
};

struct Graph {
  Device* device = nullptr;
  std::vector<std::unique_ptr<GraphNode>> nodes;  // each behind its dependencies
};

struct GraphExec {
  Device* device = nullptr;
  std::vector<std::pair<GraphNode*, std::shared_ptr<GraphNode>>> nodes;  // the graph's node, and this copy; as they run
};

class Driver {
 public:
  static Driver& get();
  std::recursive_mutex mutex;
  bool initialized = false;
  std::vector<std::unique_ptr<Device>> devices;
  std::set<Context*> contexts;
  std::set<Stream*> streams;
  uint64_t streams_made = 0;
  uint64_t choices = 0;  // of run_ahead with this seed
  std::set<Event*> events;
  std::set<LoadedModule*> modules;
  std::set<Graph*> graphs;
  std::set<GraphExec*> graph_execs;
  std::unordered_map<void*, uint64_t> pinned;  // from cuMemAllocHost: freed by us
  std::string last_fault;
  std::string device_error;  // a malformed environment

  Result initialize();
  /// Null stands for the default stream of the current context; otherwise null means an invalid handle.
  Stream* resolve(Stream* stream);
  Stream* default_stream(Device* device);
  Function* find_function(Function* function);
  /// Puts work into a stream, or into the graph that the stream is captured to.
  Result enqueue(Stream* stream, int node_type, std::function<void()> work, GraphNode** node = nullptr,
                 Condition condition = {});
  /// Lets the stream's work up to `number` happen; false where it stops at something that is not ready.
  bool advance(Stream* stream, uint64_t number);
  /// The same, waiting; the lock is free meanwhile, so that other threads can make ready what is waited for.
  void drain(Stream* stream, uint64_t number);
  void drain_device(Device* device);
  void fail_device(Device* device, Result code, const std::string& text);
  void destroy_streams(Device* device);

 private:
  bool advance_one(Stream* stream);
  bool exists(Stream* stream) const;
  /// Whether the stream's next operation can happen without any of another stream.
  bool may_advance(Stream* stream) const;
  /// With a seed: lets streams run ahead of who waits for them (order.cc).
  void run_ahead();

  std::unordered_map<Device*, std::unique_ptr<Stream>> default_streams_;
  bool running_ahead_ = false;
};

/// Prints to GPUSIM_LOG, or to the standard error.
void log_line(const std::string& text);
/// What a call says that met it.
Result result_of(const ModuleError& error);

std::vector<Context*>& context_stack();
Context* current_context();

/// Runs an entry point: under the lock, without letting exceptions out. `needs_context` also asks for a current context
/// whose device has not failed.
template <class F>
int call(bool needs_context, F&& f) {
  try {
    Driver& driver = Driver::get();
    const std::lock_guard<std::recursive_mutex> lock(driver.mutex);
    if (!driver.initialized) return static_cast<int>(Result::not_initialized);
    if (needs_context) {
      Context* context = current_context();
      if (context == nullptr) return static_cast<int>(Result::invalid_context);
      if (driver.contexts.count(context) == 0) return static_cast<int>(Result::context_is_destroyed);
      if (context->device->sticky != Result::success) return static_cast<int>(context->device->sticky);
    }
    const Result result = f(driver);
    if (result == Result::success && needs_context && current_context() != nullptr &&
        driver.contexts.count(current_context()) != 0)
      return static_cast<int>(current_context()->device->sticky);
    return static_cast<int>(result);
  } catch (const std::bad_alloc&) {
    return static_cast<int>(Result::out_of_memory);
  } catch (const ModuleError& error) {
    log_line(std::string("gpusim: ") + error.what());
    return static_cast<int>(result_of(error));
  } catch (...) {
    return static_cast<int>(Result::unknown);
  }
}

/// What a launch of the kernel does, once its limits and parameters have been looked at.
Result prepare_kernel(Driver& driver, const Device* device, const KernelNodeParams& kernel, std::function<void()>* run);
Result launch_kernel(Driver& driver, Stream* stream, const KernelNodeParams& kernel);

}  // namespace gpusim
