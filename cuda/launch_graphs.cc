#include "cuda/launch_graphs.h"

#include <algorithm>
#include <new>

namespace marginfc::cuda {
namespace {

// A graph costs about as much as two launches (docs/performance.md).
constexpr size_t kLeastLaunches = 4;
// Of each head on the device and way of training it there is one.
constexpr size_t kMostGraphs = 8;

bool same(const Launch& a, const Launch& b) {
  return a.grid.x == b.grid.x && a.grid.y == b.grid.y && a.grid.z == b.grid.z && a.parameters == b.parameters;
}

// Whether `a` does for `b` once some nodes are told what changed, at most half of them.
bool alike(const std::vector<Launch>& a, const std::vector<Launch>& b) {
  if (a.size() != b.size()) return false;
  size_t changed = 0;
  for (size_t n = 0; n < a.size(); n++) {
    if (a[n].kernel != b[n].kernel) return false;
    if (!same(a[n], b[n]) && 2 * ++changed > a.size()) return false;
  }
  return true;
}

// As the driver wants it; borrows the launch's parameters.
struct KernelOf {
  explicit KernelOf(const Launch& launch)
      : arguments{launch.parameters.data()},
        node{launch.kernel->function,
             {static_cast<uint32_t>(launch.grid.x), static_cast<uint32_t>(launch.grid.y),
              static_cast<uint32_t>(launch.grid.z)},
             {launch.kernel->threads, 1, 1},
             launch.kernel->shared_bytes,
             arguments,
             nullptr} {}
  KernelOf(const KernelOf&) = delete;
  KernelOf& operator=(const KernelOf&) = delete;

  const void* const arguments[1];
  const KernelNode node;
};

}  // namespace

struct LaunchGraphs::Graph {
  Graph(const Driver& driver, const std::vector<Launch>& launches) : driver(driver), launches(launches) {}
  ~Graph() {
    // What was launched of it runs all the same.
    if (exec) driver->graph_exec_destroy(exec);
    if (graph) driver->graph_destroy(graph);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  const Driver& driver;
  std::vector<Launch> launches;  // as the nodes have them
  GraphHandle* graph = nullptr;
  std::vector<GraphNodeHandle*> nodes;
  GraphExecHandle* exec = nullptr;  // null: they came once
};

LaunchGraphs::LaunchGraphs(const Driver& driver)
    : driver_(driver),
      usable_(driver->graph_create && driver->graph_destroy && driver->graph_add_kernel && driver->graph_instantiate &&
              driver->graph_exec_destroy && driver->graph_set_kernel && driver->graph_launch) {}

LaunchGraphs::~LaunchGraphs() = default;

bool LaunchGraphs::launch(const std::vector<Launch>& launches, StreamHandle* stream) try {
  if (!usable_ || launches.size() < kLeastLaunches) return false;
  Graph* graph = find(launches);
  if (!graph) {
    if (graphs_.size() == kMostGraphs) graphs_.erase(graphs_.begin());
    graphs_.push_back(std::make_unique<Graph>(driver_, launches));
    return false;
  }
  usable_ = update(graph, launches) && (graph->exec || build(graph)) &&
            driver_->graph_launch(graph->exec, stream) == Result::success;
  if (!usable_) graphs_.clear();
  return usable_;
} catch (const std::bad_alloc&) {
  // Some node may have what its graph does not know of.
  graphs_.clear();
  return false;
}

LaunchGraphs::Graph* LaunchGraphs::find(const std::vector<Launch>& launches) {
  const auto found = std::find_if(graphs_.begin(), graphs_.end(), [&](const std::unique_ptr<Graph>& graph) {
    return alike(graph->launches, launches);
  });
  if (found == graphs_.end()) return nullptr;
  std::rotate(found, found + 1, graphs_.end());
  return graphs_.back().get();
}

bool LaunchGraphs::build(Graph* graph) {
  if (driver_->graph_create(&graph->graph, 0) != Result::success) return false;
  for (const Launch& launch : graph->launches) {
    const KernelOf kernel(launch);
    GraphNodeHandle* node;
    GraphNodeHandle* const* before = graph->nodes.empty() ? nullptr : &graph->nodes.back();
    if (driver_->graph_add_kernel(&node, graph->graph, before, before ? 1 : 0, &kernel.node) != Result::success)
      return false;
    graph->nodes.push_back(node);
  }
  return driver_->graph_instantiate(&graph->exec, graph->graph, 0) == Result::success;
}

bool LaunchGraphs::update(Graph* graph, const std::vector<Launch>& launches) {
  for (size_t n = 0; n < launches.size(); n++) {
    if (same(graph->launches[n], launches[n])) continue;
    graph->launches[n] = launches[n];
    const KernelOf kernel(launches[n]);
    if (graph->exec && driver_->graph_set_kernel(graph->exec, graph->nodes[n], &kernel.node) != Result::success)
      return false;
  }
  return true;
}

}  // namespace marginfc::cuda
