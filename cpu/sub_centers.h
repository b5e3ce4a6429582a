// Classes of several rows (Deng et al., Sub-center ArcFace, ECCV 2020): the products of a block go to memory, where each lane has
// one class after the other, takes the largest of its rows and does with that what is done with the one row of a class. Included by
// cpu/kernels.cc only, inside its anonymous namespace.

// Lanes of the last panel that products leaves as they were are none of the rows'.
MARGINFC_INLINE int64_t product_lanes(const NegativesTask& task) {
  constexpr int64_t kUnit = kTransposesPairs ? kPanel : kLanes;
  return (task.rows + kUnit - 1) / kUnit * kUnit;
}

template <typename Exponents>
void reduce_sub_centers(const NegativesTask& task) {
  const int32_t centers = task.sub_centers, classes = task.classes / centers;
  float ones[kHeight];
  for (float& one : ones) one = 1;
  // Exponents have 1 / |w| of their row already.
  NegativesTask of_classes = task;
  of_classes.inverse_norm = ones;
  if (kTransposesPairs) of_classes.paired = nullptr;
  for (int64_t lane = 0; lane < product_lanes(task); lane += kLanes)
    for (int32_t first = 0; first < classes; first += kHeight) {
      const int32_t count = classes - first < kHeight ? classes - first : kHeight;
      const float* products = task.products + static_cast<int64_t>(first) * centers * task.product_stride + lane;
      Vector largest[kHeight], e[kHeight];
      const float* row = products;
      for (int32_t h = 0; h < count; h++) {
        largest[h] = load(row);
        row += task.product_stride;
        for (int32_t k = 1; k < centers; k++, row += task.product_stride) largest[h] = larger(largest[h], load(row));
        e[h] = largest[h];
      }
      of_classes.first_class = task.first_class + first;
      masked_exponentials<Exponents>(of_classes, 0, count, lane, e);
      if (!task.exponentials) continue;
      // kHeight is even, so pairs of rows begin with a group.
      row = products;
      const int32_t start = first * centers, rows = count * centers;
      Vector stored[kStored];
      for (int32_t r = 0, h = 0, k = 0; r < rows; r++, row += task.product_stride) {
        const auto wins = load(row) == largest[h];
        stored[r % kStored] = wins ? e[h] * splat(task.inverse_norm[start + r]) : Vector{};
        // Of equal ones the first.
        e[h] = wins ? Vector{} : e[h];
        if (++k == centers) h++, k = 0;
        if (r % kStored == kStored - 1)
          store_exponentials(of_classes, start + r - (kStored - 1), false, lane, stored);
        else if (r + 1 == rows)
          store_exponentials(of_classes, start + r, true, lane, stored);
      }
    }
  if (kTransposesPairs && task.paired)
    pair_exponentials(task.exponentials, task.row_stride, task.classes, task.rows, task.paired);
}

template <typename Exponents>
int32_t sub_center_negatives(const NegativesTask& task) {
  NegativesTask to_memory = task;
  to_memory.exponentials = task.products;
  to_memory.row_stride = task.product_stride;
  // A class may have rows on both sides of where that ends.
  if (products(to_memory) < task.classes) return 0;
  reduce_sub_centers<Exponents>(task);
  return task.classes;
}

// Of classes of one row or of several.
template <typename Exponents, int32_t (*kOfOneRow)(const NegativesTask&)>
int32_t of_any_rows(const NegativesTask& task) {
  return task.sub_centers == 1 ? kOfOneRow(task) : sub_center_negatives<Exponents>(task);
}
