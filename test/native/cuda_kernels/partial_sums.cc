// The kernels that add up what others left in parts.
#include <algorithm>

#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {

void check_reduce_negatives(const Device& device) {
  for (const int32_t rows : {1, 255, 257, 1009})
    for (const int32_t partials : {0, 1, 2, 33}) {
      const auto padded = static_cast<int32_t>(padded_rows(rows));
      Random random(rows + partials);
      std::vector<float> sums(partials * padded, std::nanf("")), hardest(sums);
      for (size_t e = 0; e < sums.size(); e++) {
        if (static_cast<int32_t>(e % padded) >= rows) continue;
        sums[e] = static_cast<float>(std::exp(20 * random.normal()));
        hardest[e] = e % 3 ? static_cast<float>(random.normal()) : -std::numeric_limits<float>::infinity();
      }
      // A row without negatives, and one with weights that are not finite.
      for (int32_t part = 0; part < partials; part++) sums[part * padded] = 0;
      for (int32_t part = 0; part < partials && rows > 1; part++)
        sums[part * padded + 1] = std::numeric_limits<float>::infinity();
      std::vector<float> offsets(padded);
      for (float& offset : offsets) offset = static_cast<float>(50 * random.normal());
      std::vector<int32_t> counts(partials * padded);
      for (int32_t& count : counts) count = random.below(1 << 20);
      const Buffer<int32_t> above(counts), counted(rows);
      const Buffer<float> parts(sums), hardest_parts(hardest), largest(rows), offset(offsets), shift(padded);
      const Buffer<double> sum(rows), hard_sum(rows), slope_sum(rows);
      // Slopes of their own: one row's too small for its shift.
      std::vector<float> slopes(sums);
      for (float& slope : slopes) slope *= 0.25f;
      for (int32_t part = 0; part < partials && rows > 1; part++) slopes[part * padded + rows - 1] = 0x1p-120f;
      const Buffer<float> slope_parts(slopes);
      // As phase 2 does: hardest negatives, and what there is of slopes, of a plain scale, offsets of a far one.
      for (const bool with_hardest : {false, true}) {
        ReduceNegativesParameters p{};
        p.sums = parts.get();
        p.hardest = with_hardest ? hardest_parts.get() : nullptr;
        p.offset = with_hardest ? nullptr : offset.get();
        p.sum = sum.get();
        p.shift = shift.get();
        p.largest = with_hardest ? largest.get() : nullptr;
        p.above = with_hardest ? above.get() : nullptr;
        p.hard = with_hardest ? parts.get() : nullptr;
        p.hard_sum = with_hardest ? hard_sum.get() : nullptr;
        p.slopes = with_hardest ? slope_parts.get() : nullptr;
        p.slope_sum = with_hardest ? slope_sum.get() : nullptr;
        p.count = with_hardest ? counted.get() : nullptr;
        p.partials = partials;
        p.rows = rows;
        p.padded_rows = padded;
        device.launch("reduce_negatives", p, (padded + 255) / 256, 256);
        const std::vector<double> got = sum.read();
        const std::vector<float> got_shift = shift.read();
        const std::vector<float> got_largest = with_hardest ? largest.read() : std::vector<float>();
        const std::vector<int32_t> got_counts = with_hardest ? counted.read() : std::vector<int32_t>();
        const std::vector<double> got_hard = with_hardest ? hard_sum.read() : std::vector<double>();
        const std::vector<double> got_slopes = with_hardest ? slope_sum.read() : std::vector<double>();
        Values values(size_text("reduce_negatives", partials, rows));
        for (int32_t i = 0; i < rows; i++) {
          double want = 0;
          float want_largest = -std::numeric_limits<float>::infinity();
          for (int32_t part = 0; part < partials; part++) {
            want += sums[part * padded + i];
            want_largest = std::max(want_largest, hardest[part * padded + i]);
          }
          values.equal(got[i], want, i);
          if (with_hardest) {
            values.equal(got_largest[i], want_largest, i, 1);
            int32_t count = 0;
            for (int32_t part = 0; part < partials; part++) count += counts[part * padded + i];
            values.equal(got_counts[i], count, i, 4);
            values.equal(got_hard[i], want, i, 5);
          }
          double whole = want;
          if (with_hardest) {
            whole = 0;
            for (int32_t part = 0; part < partials; part++) whole += slopes[part * padded + i];
            values.equal(got_slopes[i], whole, i, 6);
          }
          double want_shift = std::log2(whole) + (p.offset ? offsets[i] : 0) - kProbabilityExponent;
          if (with_hardest) want_shift = std::max(want_shift, kLeastSlopeShift);
          if (whole == 0 || std::isinf(whole))
            values.equal(got_shift[i], std::numeric_limits<float>::infinity(), i, 2);
          else
            values.near(got_shift[i], want_shift, std::ldexp(std::fabs(want_shift), -24), i, 2);
        }
        for (int32_t i = rows; i < padded; i++)
          values.equal(got_shift[i], std::numeric_limits<float>::infinity(), i, 3);
      }
    }
}

void check_add_products(const Device& device) {
  for (const int32_t splits : {1, 2, 5, 7})
    for (const int64_t count : {int64_t{4}, int64_t{128} * 128, int64_t{256} * 384}) {
      const int64_t stride = count + 64;
      Random random(count + splits);
      std::vector<float> parts(splits * stride, std::nanf(""));
      for (int64_t e = 0; e < splits * stride; e++)
        if (e % stride < count) parts[e] = static_cast<float>(random.normal());
      const Buffer<float> products(parts);
      const Buffer<double> total(count);
      Values values(size_text("add_products", splits, count));
      for (const bool first : {true, false}) {
        AddProductsParameters p{};
        p.products = products.get();
        p.total = total.get();
        p.count = count;
        p.split_stride = stride;
        p.splits = splits;
        p.first = first;
        device.launch("add_products", p, 3, 256);
        const std::vector<double> got = total.read();
        for (int64_t e = 0; e < count; e++) {
          double want = 0;
          for (int round = first ? 1 : 0; round < 2; round++)
            for (int32_t split = 0; split < splits; split++) want += parts[split * stride + e];
          values.equal(got[e], want, e);
        }
      }
    }
}

}  // namespace marginfc::check
