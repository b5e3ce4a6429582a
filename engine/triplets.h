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
// Of rows at the same distance the first one is taken. Distances are compared in float32 products and used in float64; rows
// whose product is not finite are passed over. An engine chooses the triplets and adds up the gradient; what is between is
// here.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/triplet.h"

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

// Which triplets there can be: those of an anchor follow each other, and their number is known before they are chosen.
struct TripletPlan {
  // `weight` [rows], of anchors; `mean`: the value is divided.
  TripletPlan(const int32_t* labels, int64_t rows, const TripletRule& rule, const std::vector<double>& weight,
              bool mean);

  int64_t rows() const { return static_cast<int64_t>(class_size.size()); }
  int64_t count() const { return first.back(); }
  bool has(int64_t anchor) const { return first[anchor] < first[anchor + 1]; }

  const TripletRule rule;
  std::vector<int32_t> members;      // rows that are not ignored, by class, then row
  std::vector<int32_t> class_start;  // [rows], where in members the row's class begins
  std::vector<int32_t> class_size;   // [rows], of the row's class; 0 for ignored rows
  std::vector<int64_t> first;        // [rows + 1], of each anchor's triplets
  std::vector<double> slope;         // [rows], of an anchor: dvalue / d(d_ap^2 - d_an^2) of its triplets that are not 0
};

// The loss of chosen triplets, and its gradient as a sum over other rows:
//
//   dx_i = (sum over terms of slope * xh_other + along * xh_i) / |x_i|,   without `along` where x_i has no direction
struct TripletTerms {
  // `triplets` [plan.count()].
  TripletTerms(const TripletPlan& plan, const std::vector<Triplet>& triplets);

  double value = 0;
  std::vector<int64_t> start;  // [rows + 1], of each row's terms
  std::vector<int32_t> other;  // [terms]
  std::vector<double> slope;   // [terms], dvalue / dcos of the two rows
  std::vector<double> along;   // [rows], -sum of slope * cos
};

}  // namespace marginfc
