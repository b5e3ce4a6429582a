// The nearest classes of each row: cosines of a chunk of classes, then its best merged into the best so far.
#include <algorithm>
#include <new>
#include <utility>

#include "cuda/pass.h"
#include "cuda/plan.h"

namespace marginfc::cuda {

Status CudaPass::nearest(int64_t k, int32_t* classes, float* cosines) try {
  const Device::Turn turn(device_);
  MARGINFC_TRY(turn.status());
  if (classes_ == 0 || batch_.rows == 0) return {};
  int32_t bad_class = INT32_MAX;
  MARGINFC_TRY(device_.download(norms_.data(), norms_memory_, rows_ * sizeof(double)));
  if (checked_) MARGINFC_TRY(device_.download(&bad_class, bad_class_, sizeof bad_class));
  MARGINFC_TRY(device_.settle());
  MARGINFC_TRY(check_features());
  MARGINFC_TRY(check_weights(bad_class));

  const int64_t tile_bytes = static_cast<int64_t>(padded_rows_) * kTileSide * sizeof(float);
  const int64_t chunk_tiles = tiles_per_chunk(class_tiles(), row_tiles(), slots(tiles_), tile_bytes,
                                              device_.l2_bytes());
  DeviceBuffer products, largest;
  // What is found so far, and the merge with a chunk, by turns.
  struct List {
    DeviceBuffer classes, cosines;  // [rows, k]
  } lists[2];
  MARGINFC_TRY(products.allocate(device_, chunk_tiles * tile_bytes));
  if (has_sub_centers()) MARGINFC_TRY(largest.allocate(device_, chunk_tiles * tile_bytes));
  int64_t seen = 0;  // classes
  for (List& list : lists) {
    MARGINFC_TRY(list.classes.allocate(device_, rows_ * k * sizeof(int32_t)));
    MARGINFC_TRY(list.cosines.allocate(device_, rows_ * k * sizeof(float)));
  }
  for (int64_t first = 0; first < places(); first += chunk_tiles * kTileSide) {
    const Chunk chunk = chunk_from(first, chunk_tiles);
    if (cancelled()) return Status::aborted();
    MARGINFC_TRY(device_.pace());
    CosinesParameters p{};
    p.features = features_operand_.from(0);
    p.weights = class_operand().from(first);
    p.cosines = products.as<float>();
    p.stride = static_cast<int32_t>(chunk_tiles * kTileSide);
    p.classes = chunk.classes;
    p.steps = steps();
    p.tiles_per_split = tiles_per_block(chunk.tiles, row_tiles(), slots(tiles_), 1, chunk.tiles);
    MARGINFC_TRY(device_.launch(tiles_.cosines, {divide_up(chunk.tiles, p.tiles_per_split), row_tiles()}, p));

    SelectNearestParameters select{};
    const int64_t count = rows_of(chunk).count / slots_.centers;
    select.cosines = p.cosines;
    select.stride = p.stride;
    select.classes = static_cast<int32_t>(count);
    select.first_class = static_cast<int32_t>(seen);
    if (has_sub_centers()) {
      const LargestSubCentersParameters of_several{p.cosines, largest.as<float>(), p.stride, select.classes, slots_};
      const Grid grid{rows_, divide_up(count, 256)};
      MARGINFC_TRY(device_.launch(device_.kernels().largest_sub_centers, grid, of_several));
      select.cosines = of_several.largest;
    }
    select.best_class = lists[0].classes.as<int32_t>();
    select.best_cosine = lists[0].cosines.as<float>();
    select.next_class = lists[1].classes.as<int32_t>();
    select.next_cosine = lists[1].cosines.as<float>();
    select.found = static_cast<int32_t>(std::min(seen, k));
    select.k = static_cast<int32_t>(k);
    select.unscale = static_cast<float>(1 / operand_scale_);
    select.last = seen + count == classes_;
    MARGINFC_TRY(device_.launch(device_.kernels().select_nearest, {rows_}, select));
    std::swap(lists[0], lists[1]);
    seen += count;
  }
  const int64_t count = rows_ * k;
  MARGINFC_TRY(device_.download(classes, lists[0].classes, count * sizeof(int32_t)));
  MARGINFC_TRY(device_.download(cosines, lists[0].cosines, count * sizeof(float)));
  MARGINFC_TRY(device_.settle());
  for (int64_t n = 0; n < count; n++) classes[n] += static_cast<int32_t>(shard_.range().start);
  return {};
} catch (const std::bad_alloc&) {
  return Status::no_workspace();
}

}  // namespace marginfc::cuda
