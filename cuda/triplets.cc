// The triplet loss of a batch: cosines of a block of anchors to all rows, what is chosen of them, then the gradient.
#include <algorithm>
#include <new>

#include "cuda/pass.h"
#include "cuda/plan.h"

namespace marginfc::cuda {

Status CudaEngine::triplets(const Batch& batch, const TripletRule& rule, const std::vector<double>& weight, bool mean,
                            Triplets* triplets) try {
  triplets->value = 0;
  triplets->gradient.assign(batch.rows * batch.dim, 0.0f);
  const TripletPlan plan(batch.labels, batch.rows, rule, weight, mean);
  if (plan.count() == 0) return {};
  const Device::Turn turn(*device_);
  MARGINFC_TRY(turn.status());
  // On both sides of the products, and uploaded once.
  DeviceBuffer features;
  Batch anchors;
  anchors.features = batch.features;
  anchors.place = Place::device;
  if (batch.place == Place::host) {
    const size_t bytes = batch.rows * batch.dim * sizeof(float);
    MARGINFC_TRY(features.allocate(*device_, bytes));
    MARGINFC_TRY(device_->upload(features, batch.features, bytes));
    anchors.features = features.as<float>();
  }
  const std::vector<int32_t> none(batch.rows, -1);
  anchors.labels = none.data();
  anchors.rows = batch.rows;
  anchors.dim = batch.dim;
  // Free, as for CudaShard::nearest.
  anchors.scale = kMostPlainScale;
  anchors.check_finite = false;
  anchors.cancel = batch.cancel;
  CudaShard rows(*this, {0, batch.rows}, batch.dim, {anchors.features, Precision::float32, Place::device});
  CudaPass pass(rows, anchors);
  MARGINFC_TRY(pass.prepare(false));
  return pass.triplets(plan, batch.labels, triplets);
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

Status CudaPass::triplets(const TripletPlan& plan, const int32_t* labels, Triplets* result) {
  std::vector<Triplet> triplets(plan.count());
  MARGINFC_TRY(choose_triplets(plan, labels, &triplets));
  const TripletTerms terms(plan, triplets);
  result->value = terms.value;
  return terms.other.empty() ? Status{} : sum_triplets(terms, result->gradient.data());
}

Status CudaPass::choose_triplets(const TripletPlan& plan, const int32_t* labels, std::vector<Triplet>* triplets) {
  DeviceBuffer first, indexes, products, chosen;
  MARGINFC_TRY(device_.upload_all(plan.first, &first));
  std::vector<int32_t> values(labels, labels + rows_);
  for (const std::vector<int32_t>* more : {&plan.class_start, &plan.class_size, &plan.members})
    values.insert(values.end(), more->begin(), more->end());
  MARGINFC_TRY(device_.upload_all(values, &indexes));
  const size_t bytes = triplets->size() * sizeof(Triplet);
  MARGINFC_TRY(chosen.allocate(device_, bytes));

  // Blocks of anchors that the products with all rows of fit the cache, and one tile of them at least.
  const int64_t tile_bytes = class_tiles() * kTileSide * kTileSide * sizeof(float);
  const int64_t most = tiles_per_chunk(row_tiles(), class_tiles(), slots(tiles_), tile_bytes, device_.l2_bytes());
  MARGINFC_TRY(products.allocate(device_, most * tile_bytes));
  for (int64_t tile = 0; tile < row_tiles(); tile += most) {
    const int64_t tiles = std::min(most, row_tiles() - tile), row = tile * kTileSide;
    const int64_t anchors = std::min(tiles * kTileSide, rows_ - row);
    if (plan.first[row] == plan.first[row + anchors]) continue;
    if (cancelled()) return Status::aborted();
    MARGINFC_TRY(device_.pace());
    CosinesParameters p{};
    p.features = features_operand_.from(row);
    p.weights = class_operand().from(0);
    p.cosines = products.as<float>();
    p.stride = static_cast<int32_t>(class_tiles() * kTileSide);
    p.classes = rows_;
    p.steps = steps();
    p.tiles_per_split = tiles_per_block(class_tiles(), tiles, slots(tiles_), 1, class_tiles());
    MARGINFC_TRY(device_.launch(tiles_.cosines, {divide_up(class_tiles(), p.tiles_per_split), tiles}, p));

    ChooseTripletsParameters choose{};
    choose.cosines = p.cosines;
    choose.labels = indexes.as<int32_t>();
    choose.class_start = choose.labels + rows_;
    choose.class_size = choose.class_start + rows_;
    choose.members = choose.class_size + rows_;
    choose.first = first.as<int64_t>();
    choose.features = features_.as<float>();
    choose.norm = norms_memory_.as<double>();
    choose.triplets = chosen.as<Triplet>();
    choose.stride = p.stride;
    choose.rows = rows_;
    choose.dim = dim_;
    choose.anchors = static_cast<int32_t>(anchors);
    choose.first_anchor = static_cast<int32_t>(row);
    choose.semihard = plan.rule.semihard;
    MARGINFC_TRY(device_.launch(device_.kernels().choose_triplets, {divide_up(anchors, kRowWarps)}, choose));
  }
  MARGINFC_TRY(device_.download(triplets->data(), chosen, bytes));
  MARGINFC_TRY(device_.settle_downloads());
  // Before the host follows them.
  const auto is_row = [&](int32_t row) { return row >= 0 && row < rows_; };
  for (const Triplet& triplet : *triplets)
    if (triplet.positive != -1 && !(is_row(triplet.positive) && is_row(triplet.negative)))
      return Status::failure(Code::internal, device_.name() + " chose a triplet of rows that there are not");
  return cancelled() ? Status::aborted() : Status{};
}

Status CudaPass::sum_triplets(const TripletTerms& terms, float* gradient) {
  DeviceBuffer start, other, slope, along, sums;
  MARGINFC_TRY(device_.upload_all(terms.start, &start));
  MARGINFC_TRY(device_.upload_all(terms.other, &other));
  MARGINFC_TRY(device_.upload_all(terms.slope, &slope));
  MARGINFC_TRY(device_.upload_all(terms.along, &along));
  const size_t bytes = rows_ * dim_ * sizeof(float);
  MARGINFC_TRY(sums.allocate(device_, bytes));
  TripletGradientsParameters p{};
  p.features = features_.as<float>();
  p.norm = norms_memory_.as<double>();
  p.start = start.as<int64_t>();
  p.other = other.as<int32_t>();
  p.slope = slope.as<double>();
  p.along = along.as<double>();
  p.gradient = sums.as<float>();
  p.rows = rows_;
  p.dim = dim_;
  const Grid grid{divide_up(rows_, kRowWarps), divide_up(dim_, kTileSide)};
  MARGINFC_TRY(device_.launch(device_.kernels().triplet_gradients, grid, p));
  MARGINFC_TRY(device_.download(gradient, sums, bytes));
  return device_.settle();
}

}  // namespace marginfc::cuda
