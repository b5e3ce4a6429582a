// Classes of several rows: where their rows lie, which of them move, and their largest cosines.
#include <set>

#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

constexpr SlotOrder kOrders[] = {SlotOrder::mma, SlotOrder::wgmma};
// Among them numbers that leave slots to no class, and as many as there may be.
constexpr int32_t kCenters[] = {2, 3, 9, 16};

std::string text_of(const char* kernel, int64_t classes, int32_t centers) {
  return std::string(kernel) + " of " + std::to_string(classes) + " x " + std::to_string(centers);
}

}  // namespace

void check_list_sub_centers(const Device& device) {
  for (const SlotOrder order : kOrders)
    for (const int32_t centers : kCenters)
      for (const int64_t count : {1, 5, 256, 1009})
        for (const bool listed : {false, true}) {
          const SubCenterSlots slots{centers, order};
          const std::vector<int32_t> some = shuffled(count);
          const Buffer<int32_t> classes(some), index(std::vector<int32_t>(slots.count(count), -7));
          ListSubCentersParameters p{};
          p.classes = listed ? classes.get() : nullptr;
          p.index = index.get();
          p.count = count;
          p.slots = slots;
          device.launch("list_sub_centers", p, (count + 255) / 256, 256);
          Values values(text_of("list_sub_centers", count, centers));
          const std::vector<int32_t> got = index.read();
          std::set<int64_t> used;
          for (int64_t place = 0; place < count; place++)
            for (int32_t k = 0; k < centers; k++) {
              const int64_t slot = slots.slot(place, k), c = listed ? some[place] : place;
              values.equal(got[slot], static_cast<double>(c * centers + k), place, k);
              used.insert(slot);
            }
          values.equal(static_cast<double>(used.size()), static_cast<double>(count * centers), -1);
          for (size_t slot = 0; slot < got.size(); slot++)
            if (!used.count(static_cast<int64_t>(slot))) values.equal(got[slot], -7, static_cast<int64_t>(slot), -1);
        }
}

void check_flag_sub_centers(const Device& device) {
  for (const int32_t centers : kCenters)
    for (const int64_t classes : {1, 31, 300})
      for (const int32_t dim : {1, 33, 100})
        for (const bool moves : {false, true}) {
          Random random(classes + dim);
          const int64_t size = static_cast<int64_t>(centers) * dim;
          std::vector<float> gradients(classes * size);
          std::vector<uint8_t> flag(classes);
          for (int64_t c = 0; c < classes; c++) {
            flag[c] = c % 3 == 1;
            // A single element, anywhere.
            if (c % 2) gradients[c * size + random.below(static_cast<int32_t>(size))] = c == 5 ? std::nanf("") : 0.25f;
          }
          const Buffer<uint8_t> flags(flag), row_flags(std::vector<uint8_t>(classes * centers, 7));
          const Buffer<float> gradient(gradients);
          FlagSubCentersParameters p{};
          p.flags = flags.get();
          p.gradient = moves ? gradient.get() : nullptr;
          p.row_flags = row_flags.get();
          p.classes = classes;
          p.centers = centers;
          p.dim = dim;
          device.launch("flag_sub_centers", p, 2, 32 * kRowWarps);
          Values values(text_of("flag_sub_centers", classes, centers));
          const std::vector<uint8_t> got = row_flags.read();
          for (int64_t r = 0; r < classes * centers; r++) {
            const int64_t c = r / centers;
            values.equal(got[r], flag[c] || (moves && c % 2 == 1), c, r % centers);
          }
        }
}

void check_largest_sub_centers(const Device& device) {
  for (const SlotOrder order : kOrders)
    for (const int32_t centers : kCenters)
      for (const int32_t classes : {1, 300}) {
        const SubCenterSlots slots{centers, order};
        const int64_t rows = 3, stride = slots.count(classes) + 5;
        Random random(classes);
        std::vector<float> given(rows * stride, std::nanf(""));
        std::vector<double> want(rows * classes);
        for (int64_t i = 0; i < rows; i++)
          for (int32_t c = 0; c < classes; c++) {
            double most = -std::numeric_limits<double>::infinity();
            for (int32_t k = 0; k < centers; k++) {
              float& cosine = given[i * stride + slots.slot(c, k)];
              cosine = static_cast<float>(random.normal());
              most = std::max<double>(most, cosine);
            }
            want[i * classes + c] = most;
          }
        const Buffer<float> cosines(given), largest(std::vector<float>(rows * stride, 7));
        LargestSubCentersParameters p{};
        p.cosines = cosines.get();
        p.largest = largest.get();
        p.stride = static_cast<int32_t>(stride);
        p.classes = classes;
        p.slots = slots;
        device.launch("largest_sub_centers", &p, rows, (classes + 255) / 256, 1, 256, 0);
        Values values(text_of("largest_sub_centers", classes, centers));
        const std::vector<float> got = largest.read();
        for (int64_t i = 0; i < rows; i++)
          for (int64_t c = 0; c < stride; c++)
            values.equal(got[i * stride + c], c < classes ? want[i * classes + c] : 7, i, c);
      }
}

}  // namespace marginfc::check
