// The GEMM kernel of fixtures/gemm.cu: C[m][n] = sum over k of A[m][k] B[n][k], in bfloat16 with float32 sums. It has what
// the project's kernels have: cp.async stages, ldmatrix from swizzled tiles, mma.
#pragma once

#include "tests/check.h"

namespace gpusim {

struct GemmProblem {
  GemmProblem(int m, int n, int k);
  Outcome run(const std::string& ptx, unsigned shared = 65536);
  /// The largest error after a run.
  double error() const;
  int m, n, k;
  Buffer a, b, c;
};

/// fixtures/gemm.ptx, compiled by nvcc 13.0; empty if it is missing.
std::string gemm_text();
/// Warp instructions that all launches of this process have executed.
uint64_t total_instructions();

}  // namespace gpusim
