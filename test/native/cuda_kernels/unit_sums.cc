// The sums of unit rows that label smoothing needs.
#include <algorithm>

#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {

void check_sum_unit_rows(const Device& device) {
  for (const int64_t rows : {1, 32, 34, 131})
    for (const int64_t dim : kDims)
      for (const StorageKind storage : kStorages)
        for (const bool weighted : {false, true}) {
          Random random(rows * 7 + dim);
          const StoredRows w(make_rows(random, rows, dim, true), storage, rows % 2);
          std::vector<double> factors(rows, 1.0);
          for (double& factor : factors)
            if (weighted) factor = random.normal();
          const Buffer<double> factor(factors);
          // Blocks with one group of rows, with several, and with a last one that is not whole.
          const int64_t groups = (rows + kUnitRows - 1) / kUnitRows,
                        blocks = std::min<int64_t>(groups, weighted ? 2 : 5);
          const Buffer<double> partials(blocks * dim);
          SumUnitRowsParameters p{};
          p.rows = w.get();
          p.factor = weighted ? factor.get() : nullptr;
          p.partials = partials.get();
          p.count = rows;
          p.dim = static_cast<int32_t>(dim);
          p.storage = storage;
          device.launch("sum_unit_rows", p, blocks, kThreads);
          Values values(size_text("sum_unit_rows", rows, dim) + ", " + name_of(storage) +
                        (weighted ? ", weighted" : ""));
          const std::vector<double> got = partials.read();
          for (int64_t b = 0; b < blocks; b++)
            for (int64_t d = 0; d < dim; d++) {
              double want = 0, size = 0;
              for (int64_t i = 0; i < rows; i++) {
                if (i / kUnitRows % blocks != b) continue;
                const float* row = w.values.data() + i * dim;
                const double term = factors[i] * row[d] / floored(norm_of(row, dim));
                want += term;
                size += std::fabs(term);
              }
              values.near(got[b * dim + d], want, 1e-13 * size, b, d);
            }
        }
}

void check_add_unit_sums(const Device& device) {
  for (const int32_t parts : {1, 7, 8, 33})
    for (const int64_t dim : kDims) {
      const int64_t width = padded_width(dim);
      Random random(parts + dim);
      std::vector<double> rows(parts * dim);
      for (double& value : rows) value = random.normal();
      const Buffer<double> partials(rows), sum(dim);
      const Buffer<float> scaled(width);
      for (const bool scales : {false, true}) {
        AddUnitSumsParameters p{};
        p.partials = partials.get();
        p.sum = sum.get();
        p.scaled = scales ? scaled.get() : nullptr;
        p.scale = 1e3;
        p.count = parts;
        p.dim = static_cast<int32_t>(dim);
        p.width = static_cast<int32_t>(width);
        device.launch("add_unit_sums", p, (width + 255) / 256, kThreads);
        Values values(size_text("add_unit_sums", parts, dim));
        const std::vector<double> got = sum.read();
        const std::vector<float> got_scaled = scales ? scaled.read() : std::vector<float>();
        for (int64_t d = 0; d < width; d++) {
          double want = 0;
          for (int32_t n = 0; n < parts && d < dim; n++) want += rows[n * dim + d];
          if (d < dim) values.equal(got[d], want, 0, d);
          if (scales) values.equal(got_scaled[d], static_cast<float>(want * 1e3), 1, d);
        }
      }
    }
}

void check_cosine_sums(const Device& device) {
  for (const int64_t rows : {1, 9, 33})
    for (const int64_t dim : kDims)
      for (const int64_t skew : {0, 1}) {
        Random random(rows + dim);
        const std::vector<float> x = make_rows(random, rows, dim, true);
        std::vector<double> norms, sums(dim);
        for (int64_t i = 0; i < rows; i++) norms.push_back(norm_of(x.data() + i * dim, dim));
        for (double& value : sums) value = 1e3 * random.normal();
        const Buffer<float> features(x, skew);
        const Buffer<double> norm(norms), class_sum(sums), sum(rows);
        CosineSumsParameters p{};
        p.features = features.get();
        p.norm = norm.get();
        p.class_sum = class_sum.get();
        p.sum = sum.get();
        p.rows = static_cast<int32_t>(rows);
        p.dim = static_cast<int32_t>(dim);
        device.launch("cosine_sums", p, (rows + kRowWarps - 1) / kRowWarps, kThreads);
        Values values(size_text("cosine_sums", rows, dim));
        const std::vector<double> got = sum.read();
        for (int64_t i = 0; i < rows; i++) {
          double want = 0, size = 0;
          for (int64_t d = 0; d < dim; d++) {
            const double term = x[i * dim + d] * sums[d] / floored(norms[i]);
            want += term;
            size += std::fabs(term);
          }
          values.near(got[i], want, 1e-13 * size, i);
        }
      }
}

}  // namespace marginfc::check
