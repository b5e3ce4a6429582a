// Graphs: captured from streams, in whose order they run then, or made node by node. Of nodes that may run next the one that was
// added last does, so that a dependency that is missing shows.
#include <algorithm>
#include <cstring>

#include "driver/state.h"

using namespace gpusim;

namespace {

void end_capture(Capture& capture) {
  const std::set<Stream*> streams = capture.streams;
  for (Stream* stream : streams)
    if (Driver::get().streams.count(stream) != 0) stream->capture.reset();
}

// A graph's nodes in the order in which they run.
std::vector<GraphNode*> in_order(const Graph& graph) {
  std::vector<GraphNode*> order, left;
  for (const auto& node : graph.nodes) left.push_back(node.get());
  const auto ready = [&](const GraphNode* node) {
    return std::all_of(node->after.begin(), node->after.end(), [&](const GraphNode* before) {
      return std::find(order.begin(), order.end(), before) != order.end();
    });
  };
  while (!left.empty()) {
    const auto last = std::find_if(left.rbegin(), left.rend(), ready);
    order.push_back(*last);
    left.erase(std::next(last).base());
  }
  return order;
}

void copy_nodes(const Graph& graph, GraphExec* exec) {
  exec->nodes.clear();
  for (GraphNode* node : in_order(graph)) exec->nodes.emplace_back(node, std::make_shared<GraphNode>(*node));
}

Result instantiate(Driver& driver, GraphExec** exec, Graph* graph) {
  if (exec == nullptr) return Result::invalid_value;
  if (driver.graphs.count(graph) == 0) return Result::invalid_handle;
  *exec = new GraphExec;
  (*exec)->device = graph->device;
  copy_nodes(*graph, *exec);
  driver.graph_execs.insert(*exec);
  return Result::success;
}

}  // namespace

GPUSIM_API int cuStreamBeginCapture_v2(Stream* stream, int) {
  return call(true, [&](Driver& driver) {
    stream = driver.resolve(stream);
    if (stream == nullptr) return Result::invalid_handle;
    if (stream->default_stream) return Result::stream_capture_unsupported;
    if (stream->capture) return Result::invalid_value;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->capture->streams.insert(stream);
    stream->capture->graph = new Graph;
    stream->capture->graph->device = stream->device;
    driver.graphs.insert(stream->capture->graph);
    return Result::success;
  });
}

GPUSIM_API int cuStreamEndCapture(Stream* stream, Graph** graph) {
  return call(true, [&](Driver& driver) {
    stream = driver.resolve(stream);
    if (stream == nullptr || graph == nullptr) return Result::invalid_handle;
    *graph = nullptr;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (!capture) return Result::invalid_value;
    if (capture->origin != stream) return Result::stream_capture_unmatched;
    end_capture(*capture);
    if (capture->invalidated || !capture->unjoined.empty()) {
      driver.graphs.erase(capture->graph);
      delete capture->graph;
      return capture->invalidated ? Result::stream_capture_invalidated : Result::stream_capture_unjoined;
    }
    *graph = capture->graph;
    return Result::success;
  });
}

GPUSIM_API int cuStreamIsCapturing(Stream* stream, int* status) {
  return call(true, [&](Driver& driver) {
    stream = driver.resolve(stream);
    if (stream == nullptr) return Result::invalid_handle;
    if (status == nullptr) return Result::invalid_value;
    *status = !stream->capture ? 0 : stream->capture->invalidated ? 2 : 1;
    return Result::success;
  });
}

GPUSIM_API int cuThreadExchangeStreamCaptureMode(int* mode) {
  return mode == nullptr ? static_cast<int>(Result::invalid_value) : 0;
}

GPUSIM_API int cuGraphCreate(Graph** graph, unsigned flags) {
  return call(true, [&](Driver& driver) {
    if (graph == nullptr || flags != 0) return Result::invalid_value;
    *graph = new Graph;
    (*graph)->device = current_context()->device;
    driver.graphs.insert(*graph);
    return Result::success;
  });
}

GPUSIM_API int cuGraphAddKernelNode(GraphNode** node, Graph* graph, GraphNode* const* dependencies, size_t count,
                                    const KernelNodeParams* kernel) {
  return call(true, [&](Driver& driver) {
    if (node == nullptr || kernel == nullptr || (count > 0 && dependencies == nullptr)) return Result::invalid_value;
    if (driver.graphs.count(graph) == 0) return Result::invalid_handle;
    auto added = std::make_unique<GraphNode>();
    added->type = kKernelNode;
    added->function = kernel->function;
    for (size_t i = 0; i < count; i++) {
      const auto same = [&](const auto& other) { return other.get() == dependencies[i]; };
      if (std::none_of(graph->nodes.begin(), graph->nodes.end(), same)) return Result::invalid_value;
      added->after.push_back(dependencies[i]);
    }
    const Result result = prepare_kernel(driver, graph->device, *kernel, &added->run);
    if (result != Result::success) return result;
    *node = added.get();
    graph->nodes.push_back(std::move(added));
    return Result::success;
  });
}

GPUSIM_API int cuGraphDestroy(Graph* graph) {
  return call(true, [&](Driver& driver) {
    if (driver.graphs.erase(graph) == 0) return Result::invalid_handle;
    delete graph;
    return Result::success;
  });
}

GPUSIM_API int cuGraphGetNodes(Graph* graph, GraphNode** nodes, size_t* count) {
  return call(true, [&](Driver& driver) {
    if (driver.graphs.count(graph) == 0) return Result::invalid_handle;
    if (count == nullptr) return Result::invalid_value;
    if (nodes == nullptr) {
      *count = graph->nodes.size();
      return Result::success;
    }
    for (size_t i = 0; i < *count; i++) nodes[i] = i < graph->nodes.size() ? graph->nodes[i].get() : nullptr;
    *count = std::min(*count, graph->nodes.size());
    return Result::success;
  });
}

GPUSIM_API int cuGraphNodeGetType(GraphNode* node, int* type) {
  return call(true, [&](Driver& driver) {
    if (type == nullptr) return Result::invalid_value;
    for (Graph* graph : driver.graphs)
      for (auto& candidate : graph->nodes)
        if (candidate.get() == node) {
          *type = node->type;
          return Result::success;
        }
    return Result::invalid_handle;
  });
}

GPUSIM_API int cuGraphInstantiateWithFlags(GraphExec** exec, Graph* graph, unsigned long long flags) {
  return call(true, [&](Driver& driver) {
    return (flags & ~uint64_t{8}) != 0 ? Result::not_supported : instantiate(driver, exec, graph);
  });
}

GPUSIM_API int cuGraphInstantiate_v2(GraphExec** exec, Graph* graph, GraphNode**, char*, size_t) {
  return call(true, [&](Driver& driver) { return instantiate(driver, exec, graph); });
}

GPUSIM_API int cuGraphUpload(GraphExec* exec, Stream*) {
  return call(true, [&](Driver& driver) {
    return driver.graph_execs.count(exec) == 0 ? Result::invalid_handle : Result::success;
  });
}

GPUSIM_API int cuGraphLaunch(GraphExec* exec, Stream* stream) {
  return call(true, [&](Driver& driver) {
    stream = driver.resolve(stream);
    if (driver.graph_execs.count(exec) == 0 || stream == nullptr) return Result::invalid_handle;
    if (stream->capture) return Result::stream_capture_unsupported;
    // The copies live until they have run, also if the graph is destroyed or updated before.
    const auto nodes = exec->nodes;
    return driver.enqueue(stream, 4, [nodes] {
      for (const auto& node : nodes) node.second->run();
    });
  });
}

/// Of launches from now on.
GPUSIM_API int cuGraphExecKernelNodeSetParams(GraphExec* exec, GraphNode* node, const KernelNodeParams* kernel) {
  return call(true, [&](Driver& driver) {
    if (driver.graph_execs.count(exec) == 0) return Result::invalid_handle;
    const auto same = [&](const auto& copy) { return copy.first == node; };
    const auto found = std::find_if(exec->nodes.begin(), exec->nodes.end(), same);
    if (kernel == nullptr || found == exec->nodes.end() || found->second->type != kKernelNode)
      return Result::invalid_value;
    auto changed = std::make_shared<GraphNode>(*found->second);
    changed->function = kernel->function;
    const Result result = prepare_kernel(driver, exec->device, *kernel, &changed->run);
    if (result == Result::success) found->second = std::move(changed);
    return result;
  });
}

/// An instantiated graph takes over another of the same shape: the same kinds of nodes and the same kernels in order.
GPUSIM_API int cuGraphExecUpdate_v2(GraphExec* exec, Graph* graph, GraphUpdateInfo* info) {
  return call(true, [&](Driver& driver) {
    if (driver.graph_execs.count(exec) == 0 || driver.graphs.count(graph) == 0) return Result::invalid_handle;
    GraphUpdateInfo outcome{};
    if (exec->nodes.size() != graph->nodes.size()) outcome.result = 2;  // topology changed
    const std::vector<GraphNode*> nodes = in_order(*graph);
    for (size_t i = 0; outcome.result == 0 && i < nodes.size(); i++) {
      const GraphNode &before = *exec->nodes[i].second, &after = *nodes[i];
      if (before.type != after.type) outcome.result = 3;
      if (before.function != after.function) outcome.result = 4;
      if (outcome.result != 0) outcome.error_node = nodes[i];
    }
    if (info != nullptr) *info = outcome;
    if (outcome.result != 0) return Result::graph_exec_update_failure;
    copy_nodes(*graph, exec);
    return Result::success;
  });
}

GPUSIM_API int cuGraphExecDestroy(GraphExec* exec) {
  return call(true, [&](Driver& driver) {
    if (driver.graph_execs.erase(exec) == 0) return Result::invalid_handle;
    delete exec;
    return Result::success;
  });
}
