// What fusion alone buys: ArcFace as a library of separate operations computes it, with the engine's own products and
// threads. Normalised copies of both operands, all B x C logits in memory, and a pass over them each for the largest, for
// exp and the sum, and for the gradient. For benchmarks only: nothing in the package calls it.
#pragma once

#include "cpu/cpu_engine.h"

namespace marginfc {

struct UnfusedProblem {
  const float* features = nullptr;  // [rows, dim]
  const float* weights = nullptr;   // [classes, dim]
  const int32_t* labels = nullptr;  // [rows], in range
  int64_t rows = 0;
  int64_t classes = 0;
  int32_t dim = 0;
  double scale = 64;  // s
  double m = 0.5;     // ArcFace's margin, radians
};

struct UnfusedResult {
  float* row_loss = nullptr;          // [rows]
  float* feature_gradient = nullptr;  // [rows, dim], of the mean loss
  float* weight_gradient = nullptr;   // [classes, dim]
};

Status unfused_arcface(CpuEngine& engine, const UnfusedProblem& problem, const UnfusedResult& result);

}  // namespace marginfc
