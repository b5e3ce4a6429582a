// The three products on vectors: what kernels.h calls negatives, products, feature_gradient and weight_gradient. Included
// by cpu/kernels.cc only, inside its anonymous namespace.

// How the broadcast operand lies: a[h, k] = a[h * ld + k] or a[k * ld + h].
enum class Layout { rows, columns };

// Caches, as __builtin_prefetch has them.
constexpr int kFirstLevel = 3, kSecondLevel = 2;

// Memory that will be needed soon.
struct Ahead {
  const char* line;
  int64_t step;  // to the next line; 0 when there is nothing to fetch
};
MARGINFC_INLINE Ahead fetch_ahead(const void* from, int64_t bytes_before) {
  return {static_cast<const char*>(from) + bytes_before, 64};
}
// Stays on a line that is in the cache anyway.
MARGINFC_INLINE Ahead nothing_ahead(const float* hot) { return {reinterpret_cast<const char*>(hot), 0}; }

// acc[h][v] = sum over k of a[h, k] * b[k * ldb + v * kLanes ...]. The loops over h are unrolled whole: an
// accumulator that is indexed at run time would live in memory.
// On the way `ahead` is brought into kCache, a line with each k: spread like this it costs nothing, in a burst
// it would stall the loads that are needed now. V is 1 in a last panel that is no more than half full.
template <int H, int V, Layout kLayout, int kCache = kSecondLevel>
MARGINFC_INLINE void multiply(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, Ahead ahead,
                              Vector (&acc)[H][V]) {
#pragma GCC unroll 16
  for (int h = 0; h < H; h++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[h][v] = Vector{};
  const int64_t stride = lda * static_cast<int64_t>(sizeof(float));
  RowPointers<kLayout == Layout::rows ? H : 1, const char> words(a, stride);
  for (int64_t i = 0; i < k; i++) {
    const Vector b0 = load(b), b1 = V == 2 ? load(b + kLanes) : b0;
    __builtin_prefetch(ahead.line, 0, kCache);
    ahead.line += ahead.step;
    words.hide();
#pragma GCC unroll 16
    for (int h = 0; h < H; h++) {
      const char* word = kLayout == Layout::rows ? words[h] : words[0] + h * sizeof(float);
      const Vector x = broadcast(reinterpret_cast<const float*>(word));
      multiply_add(x, b0, acc[h][0]);
      if (V == 2) multiply_add(x, b1, acc[h][V - 1]);
    }
    words.advance(kLayout == Layout::rows ? sizeof(float) : stride);
    b += ldb;
  }
}

// Splits `count` in the fewest parts of at most kHeight, as even as can be: 45 = 12 + 11 + 11 + 11 runs faster
// than 14 + 14 + 14 + 3. Parts are multiples of kUnit but for the last. Calls body(first, height).
template <int kUnit, typename Body>
MARGINFC_INLINE void for_tiles(int32_t count, const Body& body) {
  const int32_t units = (count + kUnit - 1) / kUnit, tiles = (units + kHeight / kUnit - 1) / (kHeight / kUnit);
  for (int32_t t = 0, first = 0; t < tiles; t++) {
    const int32_t left = (count - first + kUnit - 1) / kUnit;
    const int32_t height = (left + tiles - t - 1) / (tiles - t) * kUnit;
    body(first, height < count - first ? height : count - first);
    first += height;
  }
}

// One function per tile height, found by height - 1.
template <typename Task, template <int, int> class Tile, int V, int... kHeights>
struct TileTable {
  static constexpr void (*entries[])(const Task&, int32_t, int32_t) = {&Tile<kHeights, V>::run...};
};
template <typename Task, template <int, int> class Tile, int V>
MARGINFC_INLINE auto tile_function(int32_t height) {
#if defined(__AVX512F__)
  using Table = TileTable<Task, Tile, V, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;
#elif defined(__aarch64__)
  using Table = TileTable<Task, Tile, V, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
#else
  using Table = TileTable<Task, Tile, V, 1, 2, 3, 4, 5, 6>;
#endif
  return Table::entries[height - 1];
}

// How many vectors the items from `start` on fill, of a panel's two.
MARGINFC_INLINE bool half_full(int64_t items, int64_t start) { return items - start <= kLanes; }

// Classes first .. first + H - 1 against one panel of rows.
template <int H, int V>
MARGINFC_INLINE void negatives_product(const NegativesTask& task, int32_t first, int32_t panel, Vector (&acc)[H][V]) {
  const float* features = task.features + static_cast<int64_t>(panel) * task.depth * kPanel;
  // Each panel of a tile fetches as many lines of what is to be fetched with it as it has steps.
  const int64_t fetched = static_cast<int64_t>(panel) * task.depth * 64;
  const Ahead ahead = task.next_weights && fetched < H * task.next_row_bytes
                          ? fetch_ahead(task.next_weights, first * task.next_row_bytes + fetched)
                          : nothing_ahead(features);
  multiply<H, V, Layout::rows>(task.weights + first * task.stride, task.stride, features, kPanel, task.depth, ahead,
                               acc);
}

// The epilogue in general. exponents in: products.
template <typename Exponents, int H>
void store_masked(const NegativesTask& task, int32_t first, int64_t lane, Vector (&exponents)[H]) {
  masked_exponentials<Exponents>(task, first, H, lane, exponents);
  if (!task.exponentials) return;
#pragma GCC unroll 16
  for (int h = 0; h < H; h += kStored) {
    Vector e[kStored];
    for (int n = 0; n < kStored && h + n < H; n++) e[n] = exponents[h + n];
    store_exponentials(task, first + h, h + kStored > H, lane, e);
  }
}

// Classes first .. first + H - 1 against one panel of rows, then the exponential in registers.
template <int H, int V>
struct NegativesTile {
  static void run(const NegativesTask& task, int32_t first, int32_t panel) {
    Vector acc[H][V];
    negatives_product(task, first, panel, acc);
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      const int64_t lane = static_cast<int64_t>(panel) * kPanel + v * kLanes;
      Vector products[H];
#pragma GCC unroll 16
      for (int h = 0; h < H; h++) products[h] = acc[h][v];
      if (needs_mask(task, first, H, lane))
        store_masked<SameExponents>(task, first, lane, products);
      else if (task.exponentials)
        plain<true>(task, first, lane, products);
      else
        plain<false>(task, first, lane, products);
    }
  }

 private:
  // Where no lane's own class is among them and there is no offset.
  template <bool kStores>
  MARGINFC_INLINE static void plain(const NegativesTask& task, int32_t first, int64_t lane,
                                    const Vector (&products)[H]) {
    const float* inverse_norm = task.inverse_norm + first;
    if (task.hardest) {
      Vector largest = products[0] * splat(inverse_norm[0]);
#pragma GCC unroll 16
      for (int h = 1; h < H; h++) largest = larger(largest, products[h] * splat(inverse_norm[h]));
      store(task.hardest + lane, larger(load(task.hardest + lane), largest));
      if (counts_above(task, lane, largest)) {
        Vector exponents[H];
#pragma GCC unroll 16
        for (int h = 0; h < H; h++) exponents[h] = products[h] * splat(inverse_norm[h]);
        count_above(task, H, lane, exponents);
      }
    }
    Vector total = load(task.sums + lane);
#pragma GCC unroll 16
    for (int h = 0; h < H; h += kStored) {
      Vector e[kStored];
      for (int n = 0; n < kStored && h + n < H; n++) {
        e[n] = exp2_of_product(products[h + n], splat(inverse_norm[h + n]));
        total += e[n];
        if (kStores) e[n] *= splat(inverse_norm[h + n]);
      }
      if (kStores) store_exponentials(task, first + h, h + kStored > H, lane, e);
    }
    store(task.sums + lane, total);
  }
};

// The same with the epilogue in general everywhere.
template <typename Exponents>
struct MaskedNegatives {
  template <int H, int V>
  struct Tile {
    static void run(const NegativesTask& task, int32_t first, int32_t panel) {
      Vector acc[H][V];
      negatives_product(task, first, panel, acc);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) {
        Vector products[H];
#pragma GCC unroll 16
        for (int h = 0; h < H; h++) products[h] = acc[h][v];
        store_masked<Exponents>(task, first, static_cast<int64_t>(panel) * kPanel + v * kLanes, products);
      }
    }
  };
};

template <int H, int V>
struct ProductsTile {
  static void run(const NegativesTask& task, int32_t first, int32_t panel) {
    Vector acc[H][V];
    negatives_product(task, first, panel, acc);
    float* products = task.exponentials + first * task.row_stride + static_cast<int64_t>(panel) * kPanel;
#pragma GCC unroll 16
    for (int h = 0; h < H; h++) {
      const Vector inverse_norm = splat(task.inverse_norm[first + h]);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) store(products + h * task.row_stride + v * kLanes, acc[h][v] * inverse_norm);
    }
  }
};

// Rows first .. first + H - 1 of the block against one panel of columns, added to the accumulators.
template <int H, int V>
struct FeatureGradientTile {
  static void run(const FeatureGradientTask& task, int32_t first, int32_t panel) {
    const bool tail = task.tail && (panel + 1) * kPanel > task.dim;
    Vector acc[H][V];
    multiply<H, V, Layout::columns>(task.exponentials + first, task.row_stride,
                                    tail ? task.tail : task.weights + static_cast<int64_t>(panel) * kPanel,
                                    tail ? kPanel : task.stride, task.depth, nothing_ahead(task.exponentials), acc);
    float* out = task.accumulators + (static_cast<int64_t>(panel) * task.accumulator_rows + first) * kPanel;
#pragma GCC unroll 16
    for (int h = 0; h < H; h++) {
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) {
        float* sums = out + h * kPanel + v * kLanes;
        store(sums, task.add ? load(sums) + acc[h][v] : acc[h][v]);
      }
    }
  }
};

// What a panel of columns of dW fetches, a line for each step: the last panels of a tile its class rows, for the dots with them
// and for what follows; the others what its results go to, then the next classes' E, then their rows.
MARGINFC_INLINE Ahead fetched_beside(const WeightGradientTask& task, int32_t first, int32_t height, int32_t panel) {
  const int64_t panel_bytes = int64_t{task.depth} * 64, rows_bytes = height * int64_t{task.dim} * 4;
  const int64_t panels = (task.dim + kPanel - 1) / kPanel, own = rows_bytes - (panels - panel) * panel_bytes;
  if (own > -panel_bytes && rows_bytes < panels * panel_bytes)
    return fetch_ahead(task.weights + first * task.stride, own > 0 ? own : 0);
  int64_t at = panel * panel_bytes;
  const auto fetch = [&](const void* from, int64_t row_bytes, Ahead* ahead) {
    if (!from) return false;
    if (at < height * row_bytes) {
      *ahead = fetch_ahead(static_cast<const char*>(from) + first * row_bytes, at);
      return true;
    }
    at -= height * row_bytes;
    return false;
  };
  Ahead ahead = nothing_ahead(task.exponentials);
  fetch(task.destination, static_cast<int64_t>(task.dim) * 4, &ahead) ||
      fetch(task.next_exponentials, task.row_stride * 4, &ahead) ||
      fetch(task.next_weights, task.next_row_bytes, &ahead);
  return ahead;
}

// One panel of columns of H classes from `first` on, summed over all rows of the batch. Columns of `gradient` behind a half
// panel are left as they are, and finite.
template <int H, int V>
struct WeightGradientTile {
  static void run(const WeightGradientTask& task, int32_t first, int32_t panel) {
    const float* exponentials = task.exponentials + first * task.row_stride;
    const Ahead ahead = fetched_beside(task, first, H, panel);
    Vector acc[H][V];
    multiply<H, V, Layout::rows, kFirstLevel>(exponentials, task.row_stride,
                                              task.features + static_cast<int64_t>(panel) * task.depth * kPanel, kPanel,
                                              task.depth, ahead, acc);
    const int64_t width = (static_cast<int64_t>(task.dim) + kPanel - 1) / kPanel * kPanel;
    float* out = task.gradient + first * width + static_cast<int64_t>(panel) * kPanel;
#pragma GCC unroll 16
    for (int h = 0; h < H; h++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) store(out + h * width + v * kLanes, acc[h][v]);
  }
};

// The dots of a weight gradient's rows with their class rows. In a pass of its own: sums kept from panel to panel beside
// the accumulators would live in memory.
template <int H, int>
struct ClassDots {
  static void run(const WeightGradientTask& task, int32_t first, int32_t) {
    const int64_t width = static_cast<int64_t>(task.dim + kPanel - 1) / kPanel * kPanel;
    for (int32_t h = first; h < first + H; h += 4) {
      // Behind the last row that one again: its dots have a place.
      const float *rows[4], *weights[4];
      for (int32_t n = 0; n < 4; n++) {
        const int32_t row = h + n < first + H ? h + n : first + H - 1;
        rows[n] = task.gradient + row * width;
        weights[n] = task.weights + row * task.stride;
      }
      Vector dots[4] = {}, second[4] = {};
      int32_t start = 0;
      for (; start + kPanel <= task.dim; start += kPanel)
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) {
          dots[n] += load(rows[n] + start) * load(weights[n] + start);
          second[n] += load(rows[n] + start + kLanes) * load(weights[n] + start + kLanes);
        }
      for (int32_t left = task.dim - start; left > 0; start += kLanes, left -= kLanes)
        for (int n = 0; n < 4; n++) dots[n] += load(rows[n] + start) * load_first(weights[n] + start, left);
      for (int n = 0; n < 4; n++) dots[n] += second[n];
      four_sums(dots, task.dots + h);
    }
  }
};

// Class tile outside, row panel inside: the tile's class rows stay in the first-level cache, where making their operands brought
// them.
template <template <int, int> class Tile>
MARGINFC_INLINE int32_t over_panels(const NegativesTask& task) {
  const bool half = half_full(task.rows, static_cast<int64_t>(task.panels - 1) * kPanel);
  int32_t done = task.begin;
  for_tiles<kPairs ? 2 : 1>(task.classes - task.begin, [&](int32_t start, int32_t height) {
    const int32_t first = task.begin + start;
    if (done < first || (task.unmade.rows && !make_operands(task.unmade, first, height))) return;
    done = first + height;
    const auto tile = tile_function<NegativesTask, Tile, 2>(height);
    for (int32_t panel = 0; panel < task.panels - half; panel++) tile(task, first, panel);
    if (half) tile_function<NegativesTask, Tile, 1>(height)(task, first, task.panels - 1);
  });
  return done;
}

int32_t negatives(const NegativesTask& task) { return over_panels<NegativesTile>(task); }

int32_t transformed_negatives(const NegativesTask& task) {
  return over_panels<MaskedNegatives<TransformedExponents>::Tile>(task);
}

int32_t binary_negatives(const NegativesTask& task) {
  return over_panels<MaskedNegatives<BinaryExponents>::Tile>(task);
}

int32_t products(const NegativesTask& task) { return over_panels<ProductsTile>(task); }

// Column panel outside, tiles of `items` inside: the panel's part of the second operand stays close while all tiles pass.
template <typename Task, template <int, int> class Tile>
MARGINFC_INLINE void over_columns(const Task& task, int32_t items) {
  for (int32_t panel = 0; panel * kPanel < task.dim; panel++)
    for_tiles<1>(items, [&](int32_t first, int32_t height) {
      const bool half = half_full(task.dim, static_cast<int64_t>(panel) * kPanel);
      const auto tile = half ? tile_function<Task, Tile, 1>(height) : tile_function<Task, Tile, 2>(height);
      tile(task, first, panel);
    });
}

void feature_gradient(const FeatureGradientTask& task) {
  over_columns<FeatureGradientTask, FeatureGradientTile>(task, task.rows);
}

void weight_gradient(const WeightGradientTask& task) {
  over_columns<WeightGradientTask, WeightGradientTile>(task, task.classes);
  for_tiles<1>(task.classes, [&](int32_t first, int32_t height) {
    tile_function<WeightGradientTask, ClassDots, 2>(height)(task, first, 0);
  });
}

// Words (c / 2) * kRowBlock + i.
void pair_exponentials(const float* exponentials, int64_t row_stride, int32_t classes, int32_t rows, float* paired) {
  const auto* from = reinterpret_cast<const uint16_t*>(exponentials);
  auto* to = reinterpret_cast<uint32_t*>(paired);
  for (int32_t c = 0; c < classes; c += 2)
    for (int32_t i = 0; i < rows; i++) {
      const uint32_t low = from[c * row_stride + i], high = c + 1 < classes ? from[(c + 1) * row_stride + i] : 0;
      to[c / 2 * kRowBlock + i] = low | high << 16;
    }
}
