// Runs of launches as CUDA graphs: the driver is handed all launches of a run in one call, which costs the host less than one each
// and the device less between two kernels. A run that is much like an earlier one, as the steps of a head are, takes its graph; only
// those nodes are told whose grid or arguments changed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/driver.h"
#include "cuda/kernel_table.h"

namespace marginfc::cuda {

struct Launch {
  const Kernel* kernel;
  Grid grid;
  std::vector<char> parameters;
};

// Of one context, which is current in every call.
class LaunchGraphs {
 public:
  explicit LaunchGraphs(const Driver& driver);
  ~LaunchGraphs();
  LaunchGraphs(const LaunchGraphs&) = delete;
  LaunchGraphs& operator=(const LaunchGraphs&) = delete;

  // In stream order, one after the other. False, and nothing was enqueued: the caller launches them one by one. So it is for short
  // runs, for those that are like none before, and once a driver refused.
  bool launch(const std::vector<Launch>& launches, StreamHandle* stream);

 private:
  struct Graph;

  // The graph of launches like these, which is the last of graphs_ afterwards; null if there is none.
  Graph* find(const std::vector<Launch>& launches);
  bool build(Graph* graph);
  bool update(Graph* graph, const std::vector<Launch>& launches);

  const Driver& driver_;
  bool usable_;
  std::vector<std::unique_ptr<Graph>> graphs_;  // the last one was used last
};

}  // namespace marginfc::cuda
