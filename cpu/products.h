// The three products on vectors: what kernels.h calls negatives, products, feature_gradient and weight_gradient. Included
// by cpu/kernels.cc only, inside its anonymous namespace.

// How the broadcast operand lies: a[h, k] = a[h * ld + k] or a[k * ld + h].
enum class Layout { rows, columns };

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

#if defined(__x86_64__)
// One pointer for three rows of the broadcast operand: the two others are one and two strides away, which addresses can
// hold. Opaque, or the compiler makes a pointer of each row, of which some are read from the stack in every step.
constexpr int kRowsPerPointer = 3;
MARGINFC_INLINE void opaque(const char*& pointer) { asm("" : "+r"(pointer)); }
#else
// There are registers for all rows.
constexpr int kRowsPerPointer = 1;
MARGINFC_INLINE void opaque(const char*&) {}
#endif

// acc[h][v] = sum over k of a[h, k] * b[k * ldb + v * kLanes ...]. The loops over h are unrolled whole: an
// accumulator that is indexed at run time would live in memory.
// On the way `ahead` is brought into the cache, a line with each k: spread like this it costs nothing, in a burst
// it would stall the loads that are needed now. V is 1 in a last panel that is no more than half full.
template <int H, int V, Layout kLayout>
MARGINFC_INLINE void multiply(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, Ahead ahead,
                              Vector (&acc)[H][V]) {
#pragma GCC unroll 16
  for (int h = 0; h < H; h++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[h][v] = Vector{};
  constexpr int kPointers = kLayout == Layout::rows ? (H + kRowsPerPointer - 1) / kRowsPerPointer : 1;
  const char* pointers[kPointers];
#pragma GCC unroll 16
  for (int p = 0; p < kPointers; p++) pointers[p] = reinterpret_cast<const char*>(a + kRowsPerPointer * p * lda);
  const int64_t stride = lda * static_cast<int64_t>(sizeof(float));
  for (int64_t i = 0; i < k; i++) {
    const Vector b0 = load(b), b1 = V == 2 ? load(b + kLanes) : b0;
    __builtin_prefetch(ahead.line, 0, 2);
    ahead.line += ahead.step;
#pragma GCC unroll 16
    for (int p = 0; p < kPointers; p++) opaque(pointers[p]);
#pragma GCC unroll 16
    for (int h = 0; h < H; h++) {
      const char* word = kLayout == Layout::rows ? pointers[h / kRowsPerPointer] + h % kRowsPerPointer * stride
                                                 : pointers[0] + h * sizeof(float);
      const Vector x = broadcast(reinterpret_cast<const float*>(word));
      multiply_add(x, b0, acc[h][0]);
      if (V == 2) multiply_add(x, b1, acc[h][V - 1]);
    }
#pragma GCC unroll 16
    for (int p = 0; p < kPointers; p++) pointers[p] += kLayout == Layout::rows ? sizeof(float) : stride;
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
  // Each panel of a tile fetches as many lines of the tile's part of the next block as it has steps.
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

// What a panel of columns of dW fetches, a line for each step: the panels of a tile fetch what its results go to, then the next
// classes' E, then their rows.
MARGINFC_INLINE Ahead fetched_beside(const WeightGradientTask& task, int32_t first, int32_t height, int32_t panel) {
  int64_t at = static_cast<int64_t>(panel) * task.depth * 64;
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
    multiply<H, V, Layout::rows>(exponentials, task.row_stride,
                                 task.features + static_cast<int64_t>(panel) * task.depth * kPanel, kPanel, task.depth,
                                 ahead, acc);
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

// Class tile outside, row panel inside: the tile's class rows stay in the first-level cache.
template <template <int, int> class Tile>
MARGINFC_INLINE void over_panels(const NegativesTask& task) {
  const bool half = half_full(task.rows, static_cast<int64_t>(task.panels - 1) * kPanel);
  for_tiles<kPairs ? 2 : 1>(task.classes, [&](int32_t first, int32_t height) {
    const auto tile = tile_function<NegativesTask, Tile, 2>(height);
    for (int32_t panel = 0; panel < task.panels - half; panel++) tile(task, first, panel);
    if (half) tile_function<NegativesTask, Tile, 1>(height)(task, first, task.panels - 1);
  });
}

void negatives(const NegativesTask& task) {
  SameExponents::clear(task);
  over_panels<NegativesTile>(task);
}

void transformed_negatives(const NegativesTask& task) {
  TransformedExponents::clear(task);
  over_panels<MaskedNegatives<TransformedExponents>::Tile>(task);
}

void binary_negatives(const NegativesTask& task) {
  BinaryExponents::clear(task);
  over_panels<MaskedNegatives<BinaryExponents>::Tile>(task);
}

void products(const NegativesTask& task) { over_panels<ProductsTile>(task); }

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

#if defined(__AVX512BF16__)
// The vectors of a row from its beginning on, and nothing around them. kOnLines: it begins on a line of the cache.
template <bool kOnLines>
class RowVectors {
 public:
  MARGINFC_INLINE explicit RowVectors(const float* row) : at_(row) {}
  // One behind which there is another.
  MARGINFC_INLINE Vector next() {
    at_ += kLanes;
    return load(at_ - kLanes);
  }
  MARGINFC_INLINE Vector last() { return load(at_); }

 private:
  const float* at_;
};

// A load across two lines costs as much as two, and a Float32Array mostly begins 16 bytes into a line: lines are read whole, and
// two of them permuted.
template <>
class RowVectors<false> {
 public:
  MARGINFC_INLINE explicit RowVectors(const float* row)
      : before_(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(row) / sizeof(float) % kLanes)),
        line_(row - before_),
        order_(_mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                _mm512_set1_epi32(static_cast<int32_t>(before_)))),
        read_(_mm512_maskz_load_ps(static_cast<__mmask16>(0xffffu << before_), line_)) {}
  MARGINFC_INLINE Vector next() { return take(_mm512_load_ps(line_ += kLanes)); }
  MARGINFC_INLINE Vector last() {
    return take(_mm512_maskz_load_ps(static_cast<__mmask16>((1u << before_) - 1), line_ += kLanes));
  }

 private:
  MARGINFC_INLINE Vector take(__m512 following) {
    const __m512 taken = _mm512_permutex2var_ps(read_, order_, following);
    read_ = following;
    return reinterpret_cast<Vector>(taken);
  }

  const uint32_t before_;  // numbers of the first line that are not the row's
  const float* line_;
  const __m512i order_;
  __m512 read_;
};

// Two class rows that are neighbours in k of the feature gradient, and where their words go: nowhere that are not wanted.
struct ClassPair {
  const float *even, *odd;
  float *even_words, *odd_words, *pairs;
};

// A panel of columns from `d` on, of which there are `left`; kWhole: a panel or more. Adds lanes of squares.
template <bool kWhole, bool kPairs>
MARGINFC_INLINE void pair_panel(const ClassPair& rows, int32_t d, int32_t left, const Vector (&even)[2],
                                const Vector (&odd)[2], Vector& even_squares, Vector& odd_squares) {
  even_squares += even[0] * even[0] + even[1] * even[1];
  odd_squares += odd[0] * odd[0] + odd[1] * odd[1];
  const Halves even_halves = to_halves(even[0], even[1]), odd_halves = to_halves(odd[0], odd[1]);
  if (kWhole) {
    store(rows.even_words + d / 2, reinterpret_cast<Vector>(even_halves));
    store(rows.odd_words + d / 2, reinterpret_cast<Vector>(odd_halves));
  } else {
    const auto written = static_cast<__mmask16>((1u << (left + 1) / 2) - 1);
    _mm512_mask_storeu_epi32(rows.even_words + d / 2, written, reinterpret_cast<__m512i>(even_halves));
    _mm512_mask_storeu_epi32(rows.odd_words + d / 2, written, reinterpret_cast<__m512i>(odd_halves));
  }
  if (!kPairs) return;
  const PairedWords both = pair_rows(even_halves, odd_halves);
  store(rows.pairs + d, both.low);
  store(rows.pairs + d + kLanes, both.high);
}

// All panels of two rows.
template <bool kPairs, bool kOnLines>
MARGINFC_INLINE void pair_panels(const ClassPair& rows, int32_t dim, Vector& even_squares, Vector& odd_squares) {
  const int32_t whole = dim / kPanel * kPanel, left = dim - whole;
  if (whole > 0) {
    RowVectors<kOnLines> even_row(rows.even), odd_row(rows.odd);
    int32_t d = 0;
    for (; d + kPanel < whole; d += kPanel) {
      const Vector even[2] = {even_row.next(), even_row.next()}, odd[2] = {odd_row.next(), odd_row.next()};
      pair_panel<true, kPairs>(rows, d, kPanel, even, odd, even_squares, odd_squares);
    }
    const Vector even[2] = {even_row.next(), even_row.last()}, odd[2] = {odd_row.next(), odd_row.last()};
    pair_panel<true, kPairs>(rows, d, kPanel, even, odd, even_squares, odd_squares);
  }
  if (left > 0) {
    const float *even_rest = rows.even + whole, *odd_rest = rows.odd + whole;
    const Vector even[2] = {load_first(even_rest, left), load_first(even_rest + kLanes, left - kLanes)};
    const Vector odd[2] = {load_first(odd_rest, left), load_first(odd_rest + kLanes, left - kLanes)};
    pair_panel<false, kPairs>(rows, whole, left, even, odd, even_squares, odd_squares);
  }
}

template <bool kPairs, bool kOnLines>
bool pair_classes(const float* weights, int32_t classes, int32_t dim, float* product, float* gradient,
                  float* inverse_norm) {
  const int32_t depth = (dim + 1) / 2, width = (dim + kPanel - 1) / kPanel * kPanel;
  bool ordinary = true;
  for (int32_t c = 0; c < classes; c += 4) {
    Vector squares[4] = {};
#pragma GCC unroll 2
    for (int n = 0; n < 4; n += 2) {
      if (c + n >= classes) break;
      ClassPair rows;
      rows.even = weights + static_cast<int64_t>(c + n) * dim;
      rows.even_words = product + static_cast<int64_t>(c + n) * depth;
      rows.pairs = kPairs ? gradient + static_cast<int64_t>((c + n) / 2) * width : nullptr;
      // Behind an odd last row that one again, in its own place: E that multiplies it is 0.
      const bool alone = c + n + 1 == classes;
      rows.odd = rows.even + (alone ? 0 : dim);
      rows.odd_words = rows.even_words + (alone ? 0 : depth);
      pair_panels<kPairs, kOnLines>(rows, dim, squares[n], squares[n + 1]);
    }
    if (inverse_norm) ordinary &= inverse_roots(squares, classes - c, inverse_norm + c);
  }
  return ordinary;
}

// Words [classes, ceil(dim / 2)], and where they are wanted [ceil(classes / 2), width] with zero columns behind dim.
bool pair_classes(const float* weights, int32_t classes, int32_t dim, float* product, float* gradient,
                  float* inverse_norm) {
  const bool on_lines = (reinterpret_cast<uintptr_t>(weights) / sizeof(float) | static_cast<uintptr_t>(dim)) % kLanes ==
                        0;
  const auto pair = on_lines ? (gradient ? pair_classes<true, true> : pair_classes<false, true>)
                             : (gradient ? pair_classes<true, false> : pair_classes<false, false>);
  return pair(weights, classes, dim, product, gradient, inverse_norm);
}
#else
// Asked for with pairs alone.
constexpr bool (*pair_classes)(const float*, int32_t, int32_t, float*, float*, float*) = nullptr;
#endif
