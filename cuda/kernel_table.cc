#include "cuda/kernel_table.h"

#include <algorithm>
#include <cstdlib>

#include "cuda/driver.h"

namespace marginfc::cuda {
namespace {

constexpr const char* kKindNames[] = {"float16", "bfloat16", "float32"};  // by OperandKind

struct RowKernelName {
  const char* name;
  Kernel KernelTable::* kernel;
};
constexpr RowKernelName kRowKernels[] = {
    {"prepare_features", &KernelTable::prepare_features},
    {"weight_features", &KernelTable::weight_features},
    {"prepare_weights", &KernelTable::prepare_weights},
    {"targets", &KernelTable::targets},
    {"reduce_negatives", &KernelTable::reduce_negatives},
    {"add_products", &KernelTable::add_products},
    {"finish_features", &KernelTable::finish_features},
    {"finish_weights", &KernelTable::finish_weights},
    {"initialize_weights", &KernelTable::initialize_weights},
    {"select_nearest", &KernelTable::select_nearest},
    {"draw_classes", &KernelTable::draw_classes},
    {"list_classes", &KernelTable::list_classes},
    {"sum_unit_rows", &KernelTable::sum_unit_rows},
    {"add_unit_sums", &KernelTable::add_unit_sums},
    {"cosine_sums", &KernelTable::cosine_sums},
    {"finish_weights_aided", &KernelTable::finish_weights_aided},
    {"list_sub_centers", &KernelTable::list_sub_centers},
    {"targets_sub_centers", &KernelTable::targets_sub_centers},
    {"flag_sub_centers", &KernelTable::flag_sub_centers},
    {"largest_sub_centers", &KernelTable::largest_sub_centers},
    {"gather_class_rows", &KernelTable::gather_class_rows},
    {"add_class_rows", &KernelTable::add_class_rows},
    {"choose_triplets", &KernelTable::choose_triplets},
    {"triplet_gradients", &KernelTable::triplet_gradients},
};

struct ProductKernelName {
  const char* name;  // _T
  Kernel ProductKernels::* kernel;
};
constexpr ProductKernelName kProductKernels[] = {
    {"negatives_", &ProductKernels::negatives},
    {"features_product_", &ProductKernels::features_product},
    {"weights_product_", &ProductKernels::weights_product},
};

struct LogitKernelName {
  const char* name;  // _T, and _sub_centers_T
  Kernel LogitKernels::* kernel;
};
constexpr LogitKernelName kLogitKernels[] = {
    {"negatives_hardest_", &LogitKernels::negatives_hardest},
    {"negatives_above_", &LogitKernels::negatives_above},
    {"negatives_binary_", &LogitKernels::negatives_binary},
    {"negatives_shifted_", &LogitKernels::negatives_shifted},
    {"negatives_transformed_", &LogitKernels::negatives_transformed},
    {"negatives_transformed_hard_", &LogitKernels::negatives_transformed_hard},
    {"probabilities_", &LogitKernels::probabilities},
    {"probabilities_transformed_", &LogitKernels::probabilities_transformed},
    {"probabilities_binary_", &LogitKernels::probabilities_binary},
};

// The functions and variables of a module; keeps what was wrong with the first that did not do.
class Names {
 public:
  Names(const Driver& driver, ModuleHandle* module, StreamHandle* stream)
      : driver_(driver), module_(module), stream_(stream) {}

  bool find(const std::string& name, Kernel* kernel) {
    kernel->name = name;
    return keep(name, driver_->module_function(&kernel->function, module_, name.c_str()));
  }
  bool has(const std::string& name) {
    FunctionHandle* function;
    return driver_->module_function(&function, module_, name.c_str()) == Result::success;
  }
  bool read(const std::string& name, uint32_t* value) {
    DevicePointer address;
    size_t bytes;
    Result result = driver_->module_variable(&address, &bytes, module_, name.c_str());
    if (result == Result::success) result = driver_->copy_to_host(value, address, sizeof *value, stream_);
    if (result == Result::success) result = driver_->stream_synchronize(stream_);
    return keep(name, result);
  }
  // Dynamic shared memory beyond 48 KiB has to be asked for.
  bool allow_shared(const std::string& name, const Kernel& kernel) {
    return keep(name, driver_->set_function_attribute(kernel.function, FunctionAttribute::max_dynamic_shared_bytes,
                                                      static_cast<int32_t>(kernel.shared_bytes)));
  }
  bool find(const std::string& name, uint32_t threads, uint32_t shared_bytes, Kernel* kernel) {
    kernel->threads = threads;
    kernel->shared_bytes = shared_bytes;
    return find(name, kernel) && allow_shared(name, *kernel);
  }
  // `prefix` of the functions' names, `shape` of the two variables that say what a launch needs.
  bool find_products(const std::string& prefix, const std::string& shape, const std::string& kind,
                     ProductKernels* products) {
    uint32_t threads, bytes;
    if (!read(shape + "_threads_" + kind, &threads) || !read(shape + "_bytes_" + kind, &bytes)) return false;
    for (const ProductKernelName& product : kProductKernels)
      if (!find(prefix + product.name + kind, threads, bytes, &(products->*product.kernel))) return false;
    for (const LogitKernelName& logit : kLogitKernels)
      if (!find(prefix + logit.name + kind, threads, bytes, &(products->*logit.kernel)) ||
          !find(prefix + logit.name + "sub_centers_" + kind, threads, bytes, &(products->sub_centers.*logit.kernel)))
        return false;
    int32_t blocks = 0;
    driver_->blocks_per_multiprocessor(&blocks, products->negatives.function, static_cast<int32_t>(threads), bytes);
    products->blocks_per_multiprocessor = std::max(blocks, 1);
    return true;
  }
  const std::string& wrong() const { return wrong_; }

 private:
  bool keep(const std::string& name, Result result) {
    if (result != Result::success && wrong_.empty()) wrong_ = name + ": " + driver_.describe(result);
    return result == Result::success;
  }

  const Driver& driver_;
  ModuleHandle* const module_;
  StreamHandle* const stream_;
  std::string wrong_;
};

void find_tiles(Names& names, const std::string& kind, bool hopper, TileKernels* tiles) {
  if (!names.find_products("", "tile", kind, tiles)) return;
  const Kernel& like = tiles->negatives;
  if (!names.find("cosines_" + kind, like.threads, like.shared_bytes, &tiles->cosines)) return;
  if (kind == kKindNames[static_cast<int>(OperandKind::split)] &&
      (!names.find("negatives_angles_" + kind, like.threads, like.shared_bytes, &tiles->negatives_angles) ||
       !names.find("probabilities_angles_" + kind, like.threads, like.shared_bytes, &tiles->probabilities_angles)))
    return;
  if (hopper && names.has("hopper_negatives_" + kind)) {
    if (!names.find_products("hopper_", "hopper", kind, &tiles->hopper)) return;
    const Kernel& of = tiles->hopper.negatives;
    if (!names.find("hopper_features_product_wide_" + kind, of.threads, of.shared_bytes,
                    &tiles->features_product_wide) ||
        !names.find("hopper_weights_product_wide_" + kind, of.threads, of.shared_bytes, &tiles->weights_product_wide))
      return;
  }

  for (int n = 0; n < 3; n++) {
    const std::string of = kind + "_" + std::to_string(kUpdateWidths[n]), name = "update_" + of;
    Kernel& kernel = tiles->updates[n];
    kernel.threads = 32 * kRowWarps;
    if (!names.has(name)) continue;
    if (!names.read("update_bytes_" + of, &kernel.shared_bytes) || !names.find(name, &kernel) ||
        !names.allow_shared(name, kernel))
      return;
  }
}

}  // namespace

std::string find_kernels(const Driver& driver, ModuleHandle* module, StreamHandle* stream, int32_t capability,
                         KernelTable* table) {
  Names names(driver, module, stream);
  const char* wanted = std::getenv("MARGINFC_HOPPER");
  const bool hopper = capability == kHopperCapability && driver->tensor_map_encode &&
                      !(wanted && std::string(wanted) == "0");
  for (const RowKernelName& row : kRowKernels) {
    (table->*row.kernel).threads = 32 * kRowWarps;
    if (!names.find(row.name, &(table->*row.kernel))) return names.wrong();
  }
  for (int kind = 0; kind < 3; kind++)
    if (static_cast<OperandKind>(kind) != OperandKind::bfloat16 || capability >= kBfloat16Capability)
      find_tiles(names, kKindNames[kind], hopper, &table->tiles[kind]);
  return names.wrong();
}

}  // namespace marginfc::cuda
