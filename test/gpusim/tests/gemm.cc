#include "tests/gemm.h"

#include <cmath>

#include "ops/rounding.h"

namespace gpusim {
namespace {

// Small multiples of 1/8: products and sums are exact in float32, so any order of additions gives the same.
float entry(int row, int column) {
  return static_cast<float>((row * 31 + column * 17 + (row ^ column)) % 15 - 7) * 0.125f;
}

Buffer matrix(int rows, int columns, int salt) {
  std::vector<uint16_t> bits;
  bits.reserve(static_cast<size_t>(rows) * static_cast<size_t>(columns));
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) bits.push_back(f32_to_bf16(entry(i + salt, j)));
  return Buffer::of(bits);
}

}  // namespace

GemmProblem::GemmProblem(int m_of, int n_of, int k_of)
    : m(m_of),
      n(n_of),
      k(k_of),
      a(matrix(m, k, 0)),
      b(matrix(n, k, 5)),
      c(Buffer::unwritten(static_cast<size_t>(m) * static_cast<size_t>(n) * 4)) {}

Outcome GemmProblem::run(const std::string& ptx, unsigned shared) {
  return run_kernel(ptx, "gemm", {static_cast<unsigned>(n) / 128, static_cast<unsigned>(m) / 128}, {128}, shared,
                    {&a, &b, &c, m, n, k}, 80);
}

double GemmProblem::error() const {
  const auto got = c.as<float>();
  double worst = 0;
  for (int i = 0; i < m; i += 3)
    for (int j = 0; j < n; j += 5) {
      double want = 0;
      for (int p = 0; p < k; p++) want += double{entry(i, p)} * entry(j + 5, p);
      const double error = std::fabs(got[static_cast<size_t>(i) * static_cast<size_t>(n) + static_cast<size_t>(j)] -
                                     want);
      if (!(error <= worst)) worst = error;  // also for a NaN
    }
  return worst;
}

std::string gemm_text() { return read_file(source_folder() + "/tests/fixtures/gemm.ptx"); }

uint64_t total_instructions() { return Launch::total_executed(); }

}  // namespace gpusim
