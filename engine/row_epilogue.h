// Phase 3: from a row's sum over negatives and its own angle to the loss and the coefficients of both
// gradients. Host and device; float64, a few operations a row.
//
//   lse_i  = log(sum_{j != y} exp z_ij + exp z_iy),  z_iy = s F(theta_iy)
//   loss_i = lse_i - z_iy
//   dLoss/dcos_ij = r_i s p_ij,  dLoss/dcos_iy = -r_i s (1 - p_iy) F'(cos theta_iy)
//
// r_i is what the reduction and the caller multiply the row's loss with. 1 - p_iy is formed from the
// negatives alone; taking the target's exp from a total would cancel.
#pragma once

#include "engine/margin.h"

namespace marginfc {

struct RowLoss {
  double loss;  // 0 for an ignored row
  double log_sum_exp;
  double target_shortfall;  // 1 - p_iy, in [0, 1]
};

// `log_negatives` = log of the sum over negatives, -inf if there are none. `logit` = z_iy.
MARGINFC_HOST_DEVICE inline RowLoss row_loss(double log_negatives, double logit) {
  const double above = log_negatives - logit;  // log of negatives over target
  RowLoss row;
  // loss = log(1 + exp(above)), from the side that neither overflows nor loses digits.
  row.loss = above > 0 ? above + log1p(exp(-above)) : log1p(exp(above));
  row.log_sum_exp = above > 0 ? log_negatives + log1p(exp(-above)) : logit + row.loss;
  row.target_shortfall = 1.0 / (1.0 + exp(-above));
  return row;
}

struct BinaryLoss {
  double loss;
  double slope;  // dLoss/dz
};

// softplus(z) = log(1 + e^z) and its derivative, sigmoid(z).
inline BinaryLoss binary_loss(double z) {
  const double small = exp(-fabs(z));
  return {(z > 0 ? z : 0.0) + log1p(small), (z > 0 ? 1.0 : small) / (1.0 + small)};
}

}  // namespace marginfc
