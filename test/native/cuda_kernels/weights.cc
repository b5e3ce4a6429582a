// The kernels that make operands of class rows, and class rows.
#include <numeric>

#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

PrepareWeightsParameters prepare_parameters(const StoredRows& w, int64_t classes, int64_t dim,
                                            const OperandBuffer& operand, int32_t* bad_class) {
  PrepareWeightsParameters p{};
  p.weights = w.get();
  p.operand = operand.memory.get();
  p.low = operand.low;
  p.classes = classes;
  p.operand_scale = operand_scale(operand.kind);
  p.bad_class = bad_class;
  p.dim = static_cast<int32_t>(dim);
  p.depth = operand.depth;
  p.kind = operand.kind;
  p.storage = w.kind;
  return p;
}

}  // namespace

void check_prepare_weights(const Device& device) {
  for (const int64_t classes : {1, 2, 131, 1009})
    for (const int64_t dim : kDims)
      for (const StorageKind storage : kStorages)
        for (const OperandKind kind : kOperands) {
          Random random(classes * 1013 + dim);
          const StoredRows w(make_rows(random, classes, dim, true), storage, classes % 2);
          const OperandBuffer operand(padded_rows(classes), dim, kind);
          const Buffer<int32_t> bad(std::vector<int32_t>{INT32_MAX});
          PrepareWeightsParameters p = prepare_parameters(w, classes, dim, operand, bad.get());
          std::vector<int32_t> order(classes);
          std::iota(order.begin(), order.end(), 0);
          if (kind != OperandKind::bfloat16) order = shuffled(classes);
          // Places of no class, among them the last.
          for (int64_t c = 1; kind == OperandKind::float16 && c < classes; c += 2) order[c] = -1;
          const Buffer<int32_t> index(order);
          if (kind != OperandKind::bfloat16) p.index = index.get();
          device.launch("prepare_weights", p, operand.rows / kRowWarps, kThreads);
          Values values(size_text("prepare_weights", classes, dim) + ", , " + name_of(storage) + " to " +
                        name_of(kind));
          const OperandValues operands(operand);
          for (int64_t c = 0; c < classes; c++)
            operands.compare(values, c,
                             order[c] < 0 ? std::vector<double>(dim)
                                          : unit_row(w.values.data() + order[c] * dim, dim, operand_scale(kind)));
          for (int64_t c = classes; c < operand.rows; c++) operands.same(values, c, classes - 1);
          values.equal(bad.read()[0], INT32_MAX, classes);
        }

  // The first bad class is found, and no other row is touched by it.
  for (const StorageKind storage : kStorages)
    for (const float poison : {std::nanf(""), std::numeric_limits<float>::infinity()})
      for (const int64_t dim : {33, 132}) {
        if (storage == StorageKind::float16 && std::isinf(poison)) continue;  // cut off on the way
        Random random(5);
        std::vector<float> rows = make_rows(random, 131, dim, false);
        rows[130 * dim] = rows[70 * dim + 32] = rows[71 * dim + 5] = poison;
        const StoredRows w(rows, storage, 0);
        const OperandBuffer operand(256, dim, OperandKind::split);
        const Buffer<int32_t> bad(std::vector<int32_t>{INT32_MAX}), listed(std::vector<int32_t>{INT32_MAX});
        // Row 70 takes no part in the list.
        std::vector<int32_t> order(131);
        std::iota(order.begin(), order.end(), 0);
        order[70] = 3;
        const Buffer<int32_t> index(order);
        PrepareWeightsParameters some = prepare_parameters(w, 131, dim, operand, listed.get());
        some.index = index.get();
        device.launch("prepare_weights", some, 32, kThreads);
        for (int32_t* where : {bad.get(), static_cast<int32_t*>(nullptr)})
          device.launch("prepare_weights", prepare_parameters(w, 131, dim, operand, where), 32, kThreads);
        Values values(size_text("prepare_weights", 131, dim) + ", bad rows of " + name_of(storage));
        values.equal(bad.read()[0], 70, 0);
        values.equal(listed.read()[0], 71, 0);
        const OperandValues operands(operand);
        for (int64_t c = 0; c < 131; c++)
          operands.compare(values, c, unit_row(w.values.data() + c * dim, dim, operand_scale(operand.kind)));
      }
}

void check_initialize_weights(const Device& device) {
  for (const int64_t classes : {1, 2, 131})
    for (const int64_t dim : kDims) {
      const Buffer<float> weights(classes * dim);
      InitializeWeightsParameters p{};
      p.weights = weights.get();
      p.classes = classes;
      p.first_class = int64_t{1} << 33;
      p.std = 0.01;
      p.seed = 0x123456789abcdef0u;
      p.dim = static_cast<int32_t>(dim);
      device.launch("initialize_weights", p, 3, 256);
      Values values(size_text("initialize_weights", classes, dim));
      const std::vector<float> got = weights.read();
      for (int64_t c = 0; c < classes; c++)
        for (int64_t d = 0; d < dim; d++) {
          const Random4 random = philox(p.seed, p.first_class + c, d / 4);
          double normal[2];
          normal_pair(random.v[d % 4 / 2 * 2], random.v[d % 4 / 2 * 2 + 1], &normal[0], &normal[1]);
          const double want = p.std * normal[d % 2];
          values.near(got[c * dim + d], want, 6e-8 * std::fabs(want) + 1e-17, c, d);
        }
    }
}

}  // namespace marginfc::check
