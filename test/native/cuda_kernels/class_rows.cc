// The kernels over rows of a few classes: to one place, and added to those of a gradient.
#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

// Every third of the classes, in an order of their own.
std::vector<int32_t> some_of(int64_t classes) {
  std::vector<int32_t> some;
  for (const int32_t c : shuffled(classes))
    if (c % 3 == 0) some.push_back(c);
  return some;
}

}  // namespace

void check_gather_class_rows(const Device& device) {
  for (const int64_t classes : {1, 131})
    for (const int64_t dim : kDims)
      for (const StorageKind storage : kStorages)
        for (const int64_t skew : {0, 1}) {
          const bool listed = (classes + dim + skew) % 2;
          Random random(classes * 7 + dim);
          const StoredRows w(make_rows(random, classes, dim, true), storage, skew);
          const std::vector<int32_t> some = some_of(classes);
          const Buffer<int32_t> index(some);
          const auto count = static_cast<int32_t>(some.size());
          // Those behind stay.
          const Buffer<float> out(std::vector<float>((count + 1) * dim, 7));
          GatherClassRowsParameters p{};
          p.rows = w.get();
          p.index = listed ? index.get() : nullptr;
          p.out = out.get();
          p.count = count;
          p.dim = static_cast<int32_t>(dim);
          p.storage = storage;
          device.launch("gather_class_rows", p, (count + kRowWarps - 1) / kRowWarps, kThreads);
          Values values(size_text("gather_class_rows", classes, dim) + ", " + name_of(storage));
          const std::vector<float> got = out.read();
          for (int64_t i = 0; i <= count; i++)
            for (int64_t d = 0; d < dim; d++)
              values.equal(got[i * dim + d], i == count ? 7 : w.values[(listed ? some[i] : i) * dim + d], i, d);
        }
}

void check_add_class_rows(const Device& device) {
  for (const int64_t classes : {1, 131})
    for (const int64_t dim : kDims)
      for (const int64_t skew : {0, 1}) {
        Random random(classes * 11 + dim);
        const std::vector<int32_t> some = some_of(classes);
        const auto count = static_cast<int32_t>(some.size());
        const std::vector<float> rows = make_rows(random, count, dim, false),
                                 before = make_rows(random, classes, dim, false);
        const Buffer<float> added(rows, skew), to(before, skew);
        const Buffer<int32_t> index(some);
        AddClassRowsParameters p{};
        p.rows = added.get();
        p.index = index.get();
        p.to = to.get();
        p.count = count;
        p.dim = static_cast<int32_t>(dim);
        device.launch("add_class_rows", p, (count + kRowWarps - 1) / kRowWarps, kThreads);
        Values values(size_text("add_class_rows", classes, dim));
        std::vector<float> want = before;
        for (int64_t i = 0; i < count; i++)
          for (int64_t d = 0; d < dim; d++) want[some[i] * dim + d] += rows[i * dim + d];
        const std::vector<float> got = to.read();
        for (int64_t e = 0; e < classes * dim; e++) values.equal(got[e], want[e], e / dim, e % dim);
      }
}

}  // namespace marginfc::check
