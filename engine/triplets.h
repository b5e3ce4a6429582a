// Triplet loss over the rows of a batch: an anchor a, a positive p of its class, a negative n of another one. With
// d_ij^2 = |xh_i - xh_j|^2 = 2 - 2 cos_ij and w_a the weight of the anchor's row,
//
//   value = sum w_a max(0, d_ap^2 - d_an^2 + margin)  over the triplets that are chosen
//
// divided by the sum of their w_a where the batch's loss is a mean. Chosen are, for each row that has a positive and a negative:
//
//   hard      its furthest positive and its nearest negative (Hermans et al., arXiv 1703.07737, batch hard)
//   semihard  each positive, with the nearest negative that is further away than it, or else the furthest negative (Schroff et
//             al., arXiv 1503.03832; as TensorFlow Addons' triplet_semihard_loss)
//
// Of rows at the same distance the first one is taken. Distances are compared in float32 products and used in float64.
#pragma once

#include <vector>

namespace marginfc {

struct TripletRule {
  double margin = 0.3;
  bool semihard = false;
  // Rows that are anchors: start .. end - 1; the divisor is that of all rows.
  int64_t anchor_start = 0, anchor_end = 0;
};

struct Triplets {
  double value = 0;
  std::vector<float> gradient;  // [rows, dim], of the value
};

}  // namespace marginfc
