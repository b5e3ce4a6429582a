// The three products on Intel's AMX: registers of 16 rows x 16 words, of which one instruction multiplies two and adds to a
// third, 16 x 16 x 32 multiply-adds of bfloat16. Included by cpu/kernels.cc only, inside its anonymous namespace.
//
// A step multiplies 32 x 32 x 32 with four registers of sums, two of the first operand and two of the second: four loads of
// 1 KiB for four multiplications of 16 cycles. First operands lie in one piece for each register, but for E:
//
//   product           first operand                                                second operand
//   negatives         class rows [classes / 16][steps][16 classes][16 words]       features [panels][depth][32 rows]
//   feature gradient  E [rows / 16][steps][16 rows][16 pairs of classes]           class pairs [width / 16][steps][16][16]
//   weight gradient   E [classes][rows]                                            features [panels][depth][32 columns]
//
// Results of inputs or sums below 2^-126 are 0, and rounding is to nearest even, whatever the thread's settings.

constexpr int kTile = 16;  // rows, and words of a row
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTileFloats = kTileBytes / 4;
constexpr int64_t kPanelBytes = kPanel * 4;  // of a word of all lanes

// Intel SDM volume 1, table 18-1: palette 1 has eight registers.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Has the registers for its life. Giving them back spares the system from saving them with the thread.
class TileRegisters {
 public:
  TileRegisters() {
    static constexpr TileConfiguration kConfiguration;
    _tile_loadconfig(&kConfiguration);
  }
  ~TileRegisters() { _tile_release(); }
};

// The compiler does not know what the tile loads read.
MARGINFC_INLINE void publish_stores() { asm volatile("" ::: "memory"); }

// An operand as the loads see it, in bytes: between rows of a register, and between steps.
struct Operand {
  const char* first;   // the lower or left register
  const char* second;  // the upper or right one
  int64_t row;
  int64_t step;
};

// Registers 0 .. 3 (top left, top right, bottom left, bottom right) += a * b. kTall: the bottom is wanted. A multiplication
// keeps its unit busy for 16 cycles, in which the vector units can do what `meanwhile` does in each step.
template <bool kTall, typename Meanwhile>
MARGINFC_INLINE void multiply_tiles(Operand a, Operand b, int64_t steps, const Meanwhile& meanwhile) {
  for (int64_t i = 0; i < steps; i++) {
    _tile_loadd(4, a.first, a.row);
    _tile_loadd(6, b.first, b.row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b.second, b.row);
    _tile_dpbf16ps(1, 4, 7);
    if (kTall) {
      _tile_loadd(5, a.second, a.row);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    meanwhile();
    a.first += a.step;
    a.second += a.step;
    b.first += b.step;
    b.second += b.step;
  }
}

// Brings lines that will be needed soon into the second-level cache, some with each step.
struct Fetch {
  const char* line;
  int32_t lines_per_step;
  MARGINFC_INLINE void some() {
    for (int32_t l = 0; l < lines_per_step; l++, line += 64) __builtin_prefetch(line, 0, 2);
  }
};

MARGINFC_INLINE void zero_tiles() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// 32 rows of `stride` floats, of which 32 are the registers'.
template <bool kTall>
MARGINFC_INLINE void store_tiles(float* to, int64_t stride) {
  _tile_stored(0, to, stride * 4);
  _tile_stored(1, to + kTile, stride * 4);
  if (!kTall) return;
  _tile_stored(2, to + kTile * stride, stride * 4);
  _tile_stored(3, to + kTile * stride + kTile, stride * 4);
}

template <bool kTall>
MARGINFC_INLINE void load_tiles(const float* from, int64_t stride) {
  _tile_loadd(0, from, stride * 4);
  _tile_loadd(1, from + kTile, stride * 4);
  if (!kTall) return;
  _tile_loadd(2, from + kTile * stride, stride * 4);
  _tile_loadd(3, from + kTile * stride + kTile, stride * 4);
}

// Rows 4 * quarter .. + 3 of to[i][j] = from[j][i], 16 x 16 words. Loads gather every fourth row, registers transpose four.
MARGINFC_INLINE void transpose_quarter(const float (&from)[kTile][kTile], int quarter, float* to) {
  __m512 v[4];
#pragma GCC unroll 4
  for (int n = 0; n < 4; n++) {
    const float* word = &from[n][4 * quarter];
    v[n] = _mm512_castps128_ps512(_mm_load_ps(word));
    v[n] = _mm512_mask_broadcast_f32x4(v[n], 0x00f0, _mm_load_ps(word + 4 * kTile));
    v[n] = _mm512_mask_broadcast_f32x4(v[n], 0x0f00, _mm_load_ps(word + 8 * kTile));
    v[n] = _mm512_mask_broadcast_f32x4(v[n], 0xf000, _mm_load_ps(word + 12 * kTile));
  }
  const auto low = [](__m512 a, __m512 b) { return _mm512_castps_pd(_mm512_unpacklo_ps(a, b)); };
  const auto high = [](__m512 a, __m512 b) { return _mm512_castps_pd(_mm512_unpackhi_ps(a, b)); };
  const __m512d a = low(v[0], v[1]), b = low(v[2], v[3]), c = high(v[0], v[1]), d = high(v[2], v[3]);
  float* rows = to + 4 * quarter * kTile;
  _mm512_storeu_pd(rows, _mm512_unpacklo_pd(a, b));
  _mm512_storeu_pd(rows + kTile, _mm512_unpackhi_pd(a, b));
  _mm512_storeu_pd(rows + 2 * kTile, _mm512_unpacklo_pd(c, d));
  _mm512_storeu_pd(rows + 3 * kTile, _mm512_unpackhi_pd(c, d));
}

MARGINFC_INLINE int64_t steps_of(int64_t words) { return (words + kTile - 1) / kTile; }

// Where `paired` has the registers of class rows first .. first + 31 and batch rows row .. row + 15.
MARGINFC_INLINE float* paired_tile(float* paired, int32_t classes, int32_t first, int64_t row) {
  return paired + (row / kTile * steps_of((classes + 1) / 2) + first / kPanel) * kTileFloats;
}

// The same E from one that was kept.
void pair_exponentials(const float* exponentials, int64_t row_stride, int32_t classes, int32_t rows, float* paired) {
  const auto* plain = reinterpret_cast<const uint16_t*>(exponentials);
  for (int32_t first = 0; first < classes; first += kPanel)
    for (int64_t row = 0; row < rows; row += kPanel) {
      alignas(64) float words[2][kTile][kTile];
      for (int h = 0; h < kPanel; h += 2) {
        const auto read = [&](int32_t c) {
          return reinterpret_cast<Halves>(c < classes ? _mm512_loadu_si512(plain + c * row_stride + row)
                                                      : _mm512_setzero_si512());
        };
        const PairedWords pairs = pair_rows(read(first + h), read(first + h + 1));
        store(words[0][h / 2], pairs.low);
        store(words[1][h / 2], pairs.high);
      }
      for (int part = 0; part < 8; part++)
        transpose_quarter(words[part / 4], part % 4, paired_tile(paired, classes, first, row + part / 4 * kTile));
    }
}

// What follows the product of 32 classes and 32 rows, in parts that are taken while the next product is under way. All of it
// the general way where exponents are not taken as they are.
template <typename Exponents>
class NegativesEpilogue {
 public:
  explicit NegativesEpilogue(const NegativesTask& task) : task_(task) {}

  // Where the next product's sums go.
  float* sums() { return sums_[0]; }
  // Begins with what is in sums().
  MARGINFC_INLINE void begin(int32_t first, int32_t count, int64_t row) {
    first_ = first;
    count_ = count;
    row_ = row;
    plain_ = Exponents::kSame && !needs_mask(task_, first, count, row) &&
             !needs_mask(task_, first, count, row + kLanes);
    part_ = 0;
    parts_ = task_.paired ? kPairParts + kTransposeParts : kPairParts;
  }
  MARGINFC_INLINE void some(int32_t parts) {
    for (; parts > 0 && part_ < parts_; parts--, part_++)
      if (part_ < kPairParts)
        class_pair(2 * part_);
      else
        transpose(part_ - kPairParts);
  }
  MARGINFC_INLINE void finish() { some(kMostParts); }

  static constexpr int32_t kPairParts = kPanel / 2, kTransposeParts = 8, kMostParts = kPairParts + kTransposeParts;

 private:
  // E times 1 / |w| of classes h and h + 1 of lanes v * 16 .. + 15, where nothing is masked and both are there. The sums
  // come and go through memory: they would need a register each through all of a product.
  MARGINFC_INLINE void plain_exponentials(int h, int v, Vector (&e)[2]) {
    float* sums = task_.sums + row_ + v * kLanes;
    const float* inverse_norms = task_.inverse_norm + first_ + h;
    const Vector even = splat(inverse_norms[0]), odd = splat(inverse_norms[1]);
    const Vector products[2] = {load(sums_[h] + v * kLanes), load(sums_[h + 1] + v * kLanes)};
    if (task_.hardest) {
      float* hardest = task_.hardest + row_ + v * kLanes;
      const Vector exponents[2] = {products[0] * even, products[1] * odd};
      const Vector largest = larger(exponents[0], exponents[1]);
      store(hardest, larger(load(hardest), largest));
      const int64_t lane = row_ + v * kLanes;
      if (counts_above(task_, lane, largest)) count_above(task_, 2, lane, exponents);
    }
    e[0] = exp2_of_product(products[0], even);
    e[1] = exp2_of_product(products[1], odd);
    store(sums, load(sums) + (e[0] + e[1]));
    e[0] *= even;
    e[1] *= odd;
  }
  // The same in general; 0 behind the last class.
  __attribute__((noinline)) void any_exponentials(int h, int v, Vector (&e)[2]) {
    const int64_t lane = row_ + v * kLanes;
    const int32_t count = count_ - h < 2 ? count_ - h : 2;
    e[0] = e[1] = Vector{};
    if (count <= 0) return;
    for (int n = 0; n < count; n++) e[n] = load(sums_[h + n] + v * kLanes);
    masked_exponentials<Exponents>(task_, first_ + h, count, lane, e);
  }
  MARGINFC_INLINE void class_pair(int h) {
    Vector low[2], high[2];
    if (plain_ && h + 2 <= count_) {
      plain_exponentials(h, 0, low);
      plain_exponentials(h, 1, high);
    } else {
      Vector e[2];
      any_exponentials(h, 0, e);
      low[0] = e[0], low[1] = e[1];
      any_exponentials(h, 1, e);
      high[0] = e[0], high[1] = e[1];
    }
    const Halves even = to_halves(low[0], high[0]), odd = to_halves(low[1], high[1]);
    auto* e = reinterpret_cast<uint16_t*>(task_.exponentials) + (first_ + h) * task_.row_stride + row_;
    const int32_t stored = task_.exponentials ? count_ - h : 0;
    if (stored > 0) _mm512_storeu_si512(e, reinterpret_cast<__m512i>(even));
    if (stored > 1) _mm512_storeu_si512(e + task_.row_stride, reinterpret_cast<__m512i>(odd));
    const PairedWords pairs = pair_rows(even, odd);
    store(words_[0][h / 2], pairs.low);
    store(words_[1][h / 2], pairs.high);
  }
  MARGINFC_INLINE void transpose(int part) {
    transpose_quarter(words_[part / 4], part % 4,
                      paired_tile(task_.paired, task_.classes, first_, row_ + part / 4 * kTile));
  }

  const NegativesTask& task_;
  int32_t first_ = 0, count_ = 0;
  int64_t row_ = 0;
  bool plain_ = true;             // whether plain_exponentials() will do
  int32_t part_ = 0, parts_ = 0;  // none to begin with
  alignas(64) float sums_[kPanel][kPanel];
  alignas(64) float words_[2][kTile][kTile];  // [lanes][pairs of classes]
};

template <bool kTall, typename Epilogue>
MARGINFC_INLINE void negatives_tile(const NegativesTask& task, int32_t first, int32_t panel, Epilogue& epilogue,
                                    Fetch fetch) {
  const int64_t steps = task.depth / kTile;
  const auto parts = static_cast<int32_t>((Epilogue::kMostParts + steps - 1) / steps);
  const char* classes = reinterpret_cast<const char*>(task.weights + first * task.stride);
  const char* rows = reinterpret_cast<const char*>(task.features) + panel * task.depth * kPanelBytes;
  zero_tiles();
  multiply_tiles<kTall>({classes, classes + steps * kTileBytes, 64, kTileBytes},
                        {rows, rows + kTile * 4, kPanelBytes, kTile * kPanelBytes}, steps, [&] {
                          epilogue.some(parts);
                          fetch.some();
                        });
  epilogue.finish();
  store_tiles<kTall>(epilogue.sums(), kPanel);
}

// The product of 32 classes and 32 rows times 1 / |w|, in float32.
class ProductsEpilogue {
 public:
  explicit ProductsEpilogue(const NegativesTask& task) : task_(task) {}

  float* sums() { return sums_[0]; }
  MARGINFC_INLINE void begin(int32_t first, int32_t count, int64_t row) {
    float* to = task_.exponentials + first * task_.row_stride + row;
    for (int32_t h = 0; h < count; h++, to += task_.row_stride)
      for (int v = 0; v < 2; v++)
        store(to + v * kLanes, load(sums_[h] + v * kLanes) * splat(task_.inverse_norm[first + h]));
  }
  MARGINFC_INLINE void some(int32_t) {}
  MARGINFC_INLINE void finish() {}

  static constexpr int32_t kMostParts = 1;

 private:
  const NegativesTask& task_;
  alignas(64) float sums_[kPanel][kPanel];
};

template <typename Epilogue>
MARGINFC_INLINE int32_t over_tiles(const NegativesTask& task) {
  const TileRegisters registers;
  publish_stores();
  const int64_t steps = task.depth / kTile;
  const int64_t lines = task.next_weights ? (task.classes * task.next_row_bytes + 63) / 64 : 0;
  const int64_t all_steps = steps * task.panels * ((task.classes + kPanel - 1) / kPanel);
  const auto lines_per_step = static_cast<int32_t>((lines + all_steps - 1) / all_steps);
  int64_t fetched = 0;
  Epilogue epilogue(task);
  for (int32_t first = 0; first < task.classes; first += kPanel)
    for (int32_t panel = 0; panel < task.panels; panel++, fetched += lines_per_step * steps) {
      const int32_t count = task.classes - first < kPanel ? task.classes - first : kPanel;
      const Fetch fetch{static_cast<const char*>(task.next_weights) + fetched * 64,
                        fetched < lines ? lines_per_step : 0};
      if (count > kTile)
        negatives_tile<true>(task, first, panel, epilogue, fetch);
      else
        negatives_tile<false>(task, first, panel, epilogue, fetch);
      epilogue.begin(first, count, static_cast<int64_t>(panel) * kPanel);
    }
  epilogue.finish();
  return task.classes;
}

int32_t negatives(const NegativesTask& task) { return over_tiles<NegativesEpilogue<SameExponents>>(task); }

int32_t transformed_negatives(const NegativesTask& task) {
  return over_tiles<NegativesEpilogue<TransformedExponents>>(task);
}

int32_t products(const NegativesTask& task) { return over_tiles<ProductsEpilogue>(task); }

int32_t binary_negatives(const NegativesTask& task) { return over_tiles<NegativesEpilogue<BinaryExponents>>(task); }

template <bool kTall>
MARGINFC_INLINE void feature_gradient_tile(const FeatureGradientTask& task, int32_t row, int64_t panel) {
  const int64_t steps = steps_of(task.depth);
  const char* rows = reinterpret_cast<const char*>(task.exponentials) + row / kTile * steps * kTileBytes;
  const char* columns = reinterpret_cast<const char*>(task.weights) + panel * 2 * steps * kTileBytes;
  float* sums = task.accumulators + (panel * task.accumulator_rows + row) * kPanel;
  if (task.add)
    load_tiles<kTall>(sums, kPanel);
  else
    zero_tiles();
  multiply_tiles<kTall>({rows, rows + steps * kTileBytes, 64, kTileBytes},
                        {columns, columns + steps * kTileBytes, 64, kTileBytes}, steps, [] {});
  store_tiles<kTall>(sums, kPanel);
}

void feature_gradient(const FeatureGradientTask& task) {
  const TileRegisters registers;
  publish_stores();
  for (int64_t panel = 0; panel * kPanel < task.dim; panel++)
    for (int32_t row = 0; row < task.rows; row += kPanel)
      if (task.rows - row > kTile)
        feature_gradient_tile<true>(task, row, panel);
      else
        feature_gradient_tile<false>(task, row, panel);
}

// Adds columns panel * 32 .. + 31 of a gradient to the lane sums of its rows' dots with their class rows.
MARGINFC_INLINE void add_dots(const WeightGradientTask& task, int64_t panel, int64_t width, Vector* dots) {
  const auto left = static_cast<int32_t>(task.dim - panel * kPanel);
  const float *weights = task.weights + panel * kPanel, *gradient = task.gradient + panel * kPanel;
  for (int32_t h = 0; h < task.classes; h++, gradient += width, weights += task.stride)
    dots[h] += load(gradient) * load_first(weights, left) +
               load(gradient + kLanes) * load_first(weights + kLanes, left - kLanes);
}

template <bool kTall>
MARGINFC_INLINE void weight_gradient_tiles(const WeightGradientTask& task) {
  const int64_t panels = (task.dim + kPanel - 1) / kPanel, width = panels * kPanel;
  const int64_t steps = task.depth / kTile, stride = task.row_stride * 4;
  const char* classes = reinterpret_cast<const char*>(task.exponentials);
  const int64_t lines = static_cast<int64_t>(task.classes) * task.dim / kTile;
  const auto lines_per_step = static_cast<int32_t>((lines + panels * steps - 1) / (panels * steps));
  Fetch fetch{static_cast<const char*>(task.next_weights), task.next_weights ? lines_per_step : 0};
  Vector dots[kPanel] = {};
  for (int64_t panel = 0; panel < panels; panel++) {
    const char* columns = reinterpret_cast<const char*>(task.features) + panel * task.depth * kPanelBytes;
    zero_tiles();
    multiply_tiles<kTall>({classes, classes + kTile * stride, stride, 64},
                          {columns, columns + kTile * 4, kPanelBytes, kTile * kPanelBytes}, steps,
                          [&] { fetch.some(); });
    // While this product is under way, the one before is in the first-level cache.
    if (panel > 0) add_dots(task, panel - 1, width, dots);
    store_tiles<kTall>(task.gradient + panel * kPanel, width);
  }
  add_dots(task, panels - 1, width, dots);
  for (int32_t h = 0; h < task.classes; h += 4)
    four_sums({dots[h], dots[h + 1], dots[h + 2], dots[h + 3]}, task.dots + h);
}

void weight_gradient(const WeightGradientTask& task) {
  const TileRegisters registers;
  publish_stores();
  if (task.classes > kTile)
    weight_gradient_tiles<true>(task);
  else
    weight_gradient_tiles<false>(task);
}

bool pair_classes(const float* weights, int32_t classes, int32_t dim, float* product, float* gradient,
                  float* inverse_norm) {
  const int64_t steps = steps_of((dim + 1) / 2), pair_steps = steps_of((classes + 1) / 2);
  const int32_t padded = static_cast<int32_t>(pair_steps) * 2 * kTile;
  const auto read = [dim](const float* from, int32_t d) {
    if (!from || d >= dim) return Vector{};
    if (d + kLanes <= dim) return load(from + d);
    return reinterpret_cast<Vector>(_mm512_maskz_loadu_ps((1u << (dim - d)) - 1, from + d));
  };
  bool ordinary = true;
  for (int32_t c = 0; c < padded; c += 4) {
    Vector squares[4] = {};
#pragma GCC unroll 2
    for (int n = 0; n < 4; n += 2) {
      const int32_t class_of_pair = c + n;
      const auto row_of = [&](int32_t index) {
        return index < classes ? weights + static_cast<int64_t>(index) * dim : nullptr;
      };
      const float *even = row_of(class_of_pair), *odd = row_of(class_of_pair + 1);
      float* row = product + (class_of_pair / kTile * steps * kTile + class_of_pair % kTile) * kTile;
      float* pairs = gradient + (class_of_pair / (2 * kTile) * kTile + class_of_pair / 2 % kTile) * kTile;
      for (int32_t d = 0; d < dim; d += kPanel) {
        const Vector a[2] = {read(even, d), read(even, d + kLanes)}, b[2] = {read(odd, d), read(odd, d + kLanes)};
        squares[n] += a[0] * a[0] + a[1] * a[1];
        squares[n + 1] += b[0] * b[0] + b[1] * b[1];
        const Halves even_halves = to_halves(a[0], a[1]), odd_halves = to_halves(b[0], b[1]);
        float* to = row + d / kPanel * kTileFloats;
        _mm512_storeu_si512(to, reinterpret_cast<__m512i>(even_halves));
        _mm512_storeu_si512(to + kTile, reinterpret_cast<__m512i>(odd_halves));
        if (!gradient) continue;
        const PairedWords both = pair_rows(even_halves, odd_halves);
        store(pairs + d / kTile * pair_steps * kTileFloats, both.low);
        store(pairs + (d / kTile + 1) * pair_steps * kTileFloats, both.high);
      }
    }
    if (inverse_norm && c < classes) ordinary &= inverse_roots(squares, classes - c, inverse_norm + c);
  }
  return ordinary;
}
