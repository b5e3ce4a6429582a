// Companion terms of the features alone, which know nothing of the class weights: centre loss and triplet loss. Added to a batch's
// loss with a weight; docs/losses.md has sources.
//
//   center   t_i = |x_i - c_y|^2 / 2          dt/dx = x - c_y
//   triplet  see engine/triplets.h
//
// The centre loss is sum_i r_i t_i over the rows that are not ignored, r_i what the reduction multiplies the row's loss with.
#pragma once

#include <optional>
#include <vector>

#include "engine/engine.h"
#include "engine/owners.h"

namespace marginfc {

struct CenterTerm {
  double weight = 0;
  float* centers = nullptr;  // [range, dim]
  ClassRange range;          // of this process: rows of other classes are other processes'
};

struct TripletTerm {
  double weight = 0;
  TripletRule rule;
};

struct FeatureTermOptions {
  std::optional<CenterTerm> center;
  std::optional<TripletTerm> triplet;
  Engine* engine = nullptr;  // finds triplets
};

struct FeatureTermValues {
  double center = 0;   // of this process's classes, without its weight
  double triplet = 0;  // of this process's anchors, likewise
};

class FeatureTerms {
 public:
  FeatureTerms(const Batch& batch, const FeatureTermOptions& options) : batch_(batch), options_(options) {}

  // Where the features [rows, dim] have to be copied to before find(); null where the host has them or none are looked at.
  float* wanted_features();
  // `row_scale` [rows], the r_i; `mean`: whether they are a mean's.
  Status find(const std::vector<double>& row_scale, bool mean, FeatureTermValues* values);
  // Adds `factor` times the gradient of the weighted terms to dX [rows, dim]; after find().
  void add_gradient(double factor, float* gradient) const;
  // c_j -= rate * sum over rows of j of (c_j - x_i) / (1 + their number); rows count alike, whatever their weight.
  void move_centers(double rate);

 private:
  // Row i's centre; null for rows that have none here.
  float* center_of(int64_t i) const;
  // In the host's memory.
  const float* feature_row(int64_t i) const {
    return (batch_.place == Place::host ? batch_.features : features_.data()) + i * batch_.dim;
  }

  const Batch batch_;
  const FeatureTermOptions options_;
  std::vector<float> features_;    // [rows, dim], of a batch in a GPU's memory, for centres
  std::vector<double> row_scale_;  // [rows]
  std::vector<Owner> owners_;      // of the centres
  std::vector<double> row_;        // [dim]
  Triplets triplets_;
};

}  // namespace marginfc
