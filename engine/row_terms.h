// Companion terms that each row has by itself, of its own angle and norm; added to a batch's loss with a weight. Float64, a few
// operations a row. docs/losses.md has sources.
//
//   intra  t_i = theta_i / pi        dt/dcos = -1 / (pi sin(theta))
//   ring   t_i = (|x_i| - R)^2       dt/d|x| = 2 (|x| - R),   dt/dR = -2 (|x| - R)
//
// A term is sum_i r_i t_i over the rows that are not ignored, r_i what the reduction multiplies the row's loss with.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "engine/engine.h"

namespace marginfc {

struct RowTerms {
  // Weights, where there is such a term.
  std::optional<double> intra, ring;
  double radius = std::numeric_limits<double>::quiet_NaN();  // R; NaN: the mean of |x_i|, by r_i
};

struct RowTermValues {
  double intra = 0;  // without its weight, as ring
  double ring = 0;
  double radius = std::numeric_limits<double>::quiet_NaN();  // that was used; NaN where no row counts
  double radius_gradient = 0;                                // d ring / dR
};

// Of the sum of the weighted terms, by each row's cosine and norm; [rows], or empty where they are all 0.
struct RowTermSlopes {
  std::vector<double> by_cosine, by_norm;
};

// `row_scale` [rows], the r_i: 0 for ignored rows.
RowTermValues row_terms(const RowTerms& terms, const std::vector<Target>& targets, const std::vector<double>& row_scale,
                        RowTermSlopes* slopes);

}  // namespace marginfc
