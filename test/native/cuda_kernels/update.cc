// The fused update of weights against the two kernels that it replaces, bit by bit; those are compared with float64.
#include <algorithm>
#include <numeric>

#include "test/native/cuda_kernels/tile_problem.h"

namespace marginfc::check {
namespace {

struct Sink {
  const char* name;
  SinkKind kind;
  StorageKind storage;
  bool momentum;
  SgdStep sgd;
  AdamwStep adamw;
};
constexpr Sink kSinks[] = {
    {"write", SinkKind::write, StorageKind::float32, false, {}, {}},
    {"write, bfloat16 weights", SinkKind::write, StorageKind::bfloat16, false, {}, {}},
    {"write, float16 weights", SinkKind::write, StorageKind::float16, false, {}, {}},
    {"accumulate", SinkKind::accumulate, StorageKind::float32, false, {}, {}},
    {"sgd", SinkKind::sgd, StorageKind::float32, false, {0.1f, 0, 5e-4f, false}, {}},
    {"sgd with momentum", SinkKind::sgd, StorageKind::float32, true, {0.1f, 0.9f, 5e-4f, false}, {}},
    {"sgd with Nesterov's", SinkKind::sgd, StorageKind::float32, true, {0.1f, 0.9f, 5e-4f, true}, {}},
    {"adamw", SinkKind::adamw, StorageKind::float32, true, {}, {0.01f, 0.9f, 0.999f, 31.6f, 1e-8f, 0.99f}},
};

// Everything beside the product that a sink needs, on the device.
struct UpdateProblem {
  UpdateProblem(const TileProblem& of, int32_t step_count)
      : problem(of),
        steps(step_count),
        probabilities(of),
        classes(of.size.classes),
        dim(of.size.dim),
        width(padded_width(of.size.dim)),
        raw(of.w.padded * width),
        start([&] {
          Random random(classes);
          std::vector<float> rows = make_rows(random, classes, dim, true);
          if (classes > 4) rows[4 * dim] = std::numeric_limits<float>::infinity();
          return rows;
        }()),
        x([&] {
          Random random(dim);
          return make_rows(random, of.size.rows, dim, true);
        }()),
        features(x),
        norm(norms()),
        cosine(std::vector<double>(of.size.rows, 0.25)),
        gamma(std::vector<double>(of.size.rows, 0.5)) {
    std::vector<std::pair<int32_t, int32_t>> owners;
    for (int32_t i = 0; i < of.size.rows; i++)
      if (of.labels[i] >= 0) owners.push_back({of.labels[i], i});
    std::sort(owners.begin(), owners.end());
    std::vector<int32_t> owner_classes, owner_rows;
    for (const auto& [label, row] : owners) {
      owner_classes.push_back(label);
      owner_rows.push_back(row);
    }
    owner_count = static_cast<int32_t>(owners.size());
    owner_class = std::make_unique<Buffer<int32_t>>(owner_classes);
    owner_row = std::make_unique<Buffer<int32_t>>(owner_rows);

    ProductParameters p{};
    p.left = probabilities.operand();
    p.right = of.v.operand();
    p.width = static_cast<int32_t>(width);
    p.out = raw.get();
    p.steps = p.steps_per_split = steps;
    of.launch("weights_product", &p, width / kTileSide, of.class_tiles(), 1);
  }

  std::vector<double> norms() const {
    std::vector<double> out;
    for (int32_t i = 0; i < problem.size.rows; i++) out.push_back(norm_of(x.data() + i * dim, dim));
    return out;
  }

  // What the sink wrote: gradient or weights, momentum, variance, operand.
  struct Written {
    std::vector<float> gradient, weights, momentum, variance;
    std::vector<uint16_t> operand;
    bool operator==(const Written& other) const {
      const auto same = [](const auto& a, const auto& b) {
        return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0);
      };
      return same(gradient, other.gradient) && same(weights, other.weights) && same(momentum, other.momentum) &&
             same(variance, other.variance) && same(operand, other.operand);
    }
  };

  // With the fused kernel if it is given a name. `skew` as in Buffer.
  Written run(const Sink& sink, OperandKind operand_kind, int64_t skew, const char* fused, int32_t shared_bytes) const {
    // Half of the sinks of the fused kernel touch rows that lie elsewhere, by an index, and none in some places.
    const bool lists = sink.kind != SinkKind::write && operand_kind != OperandKind::split, listed = fused && lists;
    const auto is_none = [&](int64_t c) { return lists && c % 3 == 1 && c + 1 < classes; };
    std::vector<int32_t> order(classes);
    std::iota(order.begin(), order.end(), 0);
    if (listed) order = shuffled(classes);
    std::vector<int32_t> places = order;
    for (int64_t c = 0; c < classes; c++)
      if (is_none(c)) places[c] = -1;
    const Buffer<int32_t> index(places);
    const auto read = [&](const Buffer<float>& rows) { return gathered(rows.read(), order); };
    const StoredRows w(scattered(start, order), sink.storage, skew);
    const std::vector<float> state(classes * dim, 0.5f);
    const Buffer<float> gradient(state, skew), momentum(state, skew), variance(state, skew);
    const OperandBuffer operand(padded_rows(classes), dim, operand_kind);
    UpdateParameters u{};
    u.left = probabilities.operand();
    u.right = problem.v.operand();
    u.steps = steps;
    FinishWeightsParameters& f = u.finish;
    f.raw = fused ? nullptr : raw.get();
    f.unscale = 0x1p-25;
    f.weights = w.get();
    f.index = listed ? index.get() : nullptr;
    f.gradient = gradient.get();
    f.momentum = sink.momentum ? momentum.get() : nullptr;
    f.variance = sink.kind == SinkKind::adamw ? variance.get() : nullptr;
    f.operand = operand.memory.get();
    f.low = operand.low;
    f.operand_scale = operand_kind == OperandKind::split ? 16 : 1;
    f.owner_class = owner_class->get();
    f.owner_row = owner_row->get();
    f.owners = owner_count;
    f.features = features.get();
    f.norm = norm.get();
    f.cosine = cosine.get();
    f.gamma = gamma.get();
    f.sgd_step = sink.sgd;
    f.adamw_step = sink.adamw;
    f.classes = static_cast<int32_t>(classes);
    f.padding = static_cast<int32_t>(operand.rows - classes);
    f.dim = static_cast<int32_t>(dim);
    f.depth = operand.depth;
    f.width = static_cast<int32_t>(width);
    f.kind = operand_kind;
    f.storage = sink.storage;
    f.sink = sink.kind;
    if (fused)
      problem.device.launch(fused, &u, 2, 1, 1, 32 * kRowWarps, shared_bytes);
    else
      problem.device.launch("finish_weights", f, 3, 32 * kRowWarps);
    Written written{read(gradient), sink.storage == StorageKind::float32 ? read(w.wide) : std::vector<float>{},
                    read(momentum), read(variance), operand.memory.read()};
    // Without a list those places are touched.
    for (int64_t c = 0; c < classes && !fused; c++) {
      if (!is_none(c)) continue;
      for (std::vector<float>* rows : {&written.gradient, &written.momentum, &written.variance})
        std::fill_n(rows->begin() + c * dim, dim, 0.5f);
      if (!written.weights.empty()) std::copy_n(start.begin() + c * dim, dim, written.weights.begin() + c * dim);
      std::fill_n(written.operand.begin() + c * operand.depth, operand.depth, OperandBuffer::kPoison);
    }
    return written;
  }

  const TileProblem& problem;
  const int32_t steps;  // along the batch
  TileProbabilities probabilities;
  int64_t classes, dim, width;
  Buffer<float> raw;
  std::vector<float> start, x;
  Buffer<float> features;
  Buffer<double> norm, cosine, gamma;
  int32_t owner_count = 0;
  std::unique_ptr<Buffer<int32_t>> owner_class, owner_row;
};

}  // namespace

void check_updates(TileProblems& problems, OperandKind kind, int32_t width) {
  const std::string of = type_name(kind) + "_" + std::to_string(width), kernel = "update_" + of;
  const int32_t shared_bytes = problems.device().variable(("update_bytes_" + of).c_str());
  const auto compare = [&](const UpdateProblem& update, const Sink& sink, OperandKind stored, int64_t skew) {
    check(update.run(sink, stored, skew, kernel.c_str(), shared_bytes) == update.run(sink, stored, skew, nullptr, 0),
          update.problem.text(Path::common, "update_" + std::to_string(width)) + ", " + sink.name + ", " +
              name_of(stored) + (skew ? ", at an odd address" : ""));
  };
  // Everything that the sinks can do, on few classes.
  for (const TileSize& size : {TileSize{33, 5, width, 1}, TileSize{33, 6, width - 5, 1}, TileSize{9, 2, width, 1}}) {
    const UpdateProblem update(problems.of(kind, size), 4);
    for (const Sink& sink : kSinks)
      for (const OperandKind stored : kOperands)
        for (const int64_t skew : {0, 1})
          if (skew == 0 || size.dim % 4 == 0) compare(update, sink, stored, skew);
  }
  // More tiles than blocks, and steps that come round to every stage; of the sinks that update every third.
  size_t turn = 0;
  for (const auto& [size, steps] :
       {std::pair{TileSize{131, 600, width - 28, 1}, 8}, {{257, 131, width, 1}, 12}, {{257, 131, width, 1}, 5}}) {
    const UpdateProblem update(problems.of(kind, size), steps);
    turn++;
    for (size_t s = 0; s < std::size(kSinks); s++)
      if (s < 4 || s % 3 == turn % 3) compare(update, kSinks[s], kOperands[s % 3], (s + turn) % 2);
  }
}

}  // namespace marginfc::check
