#include "stats/report.h"

#include <array>
#include <cstdio>
#include <mutex>

#include "memory/global_memory.h"

namespace gpusim {
namespace {

class Json {
 public:
  Json& number(const char* name, double value) {
    char text[64];
    std::snprintf(text, sizeof text, "%.17g", value);
    return raw(name, text);
  }
  Json& count(const char* name, uint64_t value) { return raw(name, std::to_string(value)); }
  Json& text(const char* name, const std::string& value) { return raw(name, "\"" + value + "\""); }
  Json& raw(const char* name, const std::string& value) {
    body_ += std::string(body_.empty() ? "" : ", ") + "\"" + name + "\": " + value;
    return *this;
  }
  std::string object() const { return "{" + body_ + "}"; }

 private:
  std::string body_;
};

std::string extent(const uint32_t* e) {
  return "[" + std::to_string(e[0]) + ", " + std::to_string(e[1]) + ", " + std::to_string(e[2]) + "]";
}

/// Executions of each PTX line, for coverage.
std::string lines(const Launch& launch) {
  std::string text;
  for (size_t i = 0; i + 1 < launch.counts.size(); i++)
    text += std::string(text.empty() ? "" : ", ") + "[" + std::to_string(launch.program->code[i].line) + ", " +
            std::to_string(launch.counts[i]) + "]";
  return "[" + text + "]";
}

/// The innermost loop around the matrix instructions that are executed most often, without what it skips mostly.
struct MatrixLoop {
  uint64_t instructions = 0, matrix = 0;
};

MatrixLoop matrix_loop(const Launch& launch) {
  const Program& program = *launch.program;
  const size_t size = launch.counts.size();
  const auto is_matrix = [&](size_t i) {
    return program.code[i].kind == Class::mma || program.code[i].kind == Class::wgmma;
  };
  size_t busiest = size;
  for (size_t i = 0; i < size; i++)
    if (is_matrix(i) && (busiest == size || launch.counts[i] > launch.counts[busiest])) busiest = i;
  if (busiest == size || launch.counts[busiest] == 0) return {};
  size_t first = 0, last = size - 1;
  for (size_t i = busiest; i < size; i++) {
    const bool branch = program.text[i].compare(0, 3, "bra") == 0;
    if (!branch || program.code[i].imm > busiest || launch.counts[i] == 0) continue;
    first = program.code[i].imm;
    last = i;
    break;
  }
  MatrixLoop loop;
  for (size_t i = first; i <= last; i++) {
    if (2 * launch.counts[i] < launch.counts[busiest]) continue;
    loop.instructions += launch.counts[i];
    if (is_matrix(i)) loop.matrix += launch.counts[i];
  }
  return loop;
}

std::string describe(const Launch& launch, int sm) {
  const Program& program = *launch.program;
  const AccessCounters& a = launch.accesses;
  std::array<uint64_t, kClasses> by_class{};
  uint64_t total = 0, float64 = 0;
  for (size_t i = 0; i < launch.counts.size(); i++) {
    by_class[static_cast<size_t>(program.code[i].kind)] += launch.counts[i];
    total += launch.counts[i];
    const bool wide = program.text[i].find(".f64") != std::string::npos;
    if (wide && program.code[i].kind == Class::floating) float64 += launch.counts[i];
  }
  Json classes;
  for (int c = 0; c < kClasses; c++)
    if (by_class[static_cast<size_t>(c)] != 0)
      classes.count(class_name(static_cast<Class>(c)), by_class[static_cast<size_t>(c)]);
  const uint64_t dram = GlobalMemory::get().touched_since(launch.first_segment);
  const Roofline roofline = predict(launch, sm, dram);
  Json predicted;
  predicted.text("gpu", roofline.gpu).number("tensor", roofline.tensor).number("issue", roofline.issue);
  predicted.number("shared", roofline.shared).number("l2", roofline.l2).number("dram", roofline.dram);
  predicted.number("special", roofline.special).text("binds", roofline.binds);
  Json json;
  json.text("kernel", program.name)
      .count("device", static_cast<uint64_t>(launch.device))
      .count("sm", static_cast<uint64_t>(sm));
  json.raw("grid", extent(launch.grid)).raw("block", extent(launch.block));
  json.count("registers", program.registers).text("registersFrom", program.registers_known ? "cubin" : "estimate");
  json.count("spillBytes", program.spill_bytes).count("localBytes", program.local_bytes);
  json.count("sharedBytes", launch.shared_bytes());
  json.count("warpInstructions", total).raw("instructions", classes.object());
  json.count("mma", a.mma_count).count("wgmma", a.wgmma_count).count("tensorFlops", a.mma_flops);
  json.count("float64Instructions", float64);
  const MatrixLoop loop = matrix_loop(launch);
  json.raw("matrixLoop", Json().count("instructions", loop.instructions).count("matrix", loop.matrix).object());
  json.count("globalLoadBytes", a.load_bytes).count("globalLoadSectors", a.load_sectors);
  json.count("idealLoadSectors", a.ideal_load_sectors);
  json.count("asyncLoadSectors", a.async_sectors);
  json.count("globalStoreBytes", a.store_bytes).count("globalStoreSectors", a.store_sectors);
  json.count("idealStoreSectors", a.ideal_store_sectors);
  json.count("sharedWavefronts", a.wavefronts).count("idealWavefronts", a.ideal_wavefronts);
  json.count("bulkBytes", a.bulk_bytes).count("atomics", a.atomics).count("bytesTouched", dram);
  json.raw("predictedClocks", predicted.object());
  json.raw("lines", lines(launch));
  return json.object();
}

}  // namespace

void report_launch(const Launch& launch, int sm) {
  const std::string& path = launch.options->stats_path;
  if (path.empty()) return;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  static bool begun = false;
  const std::string text = describe(launch, sm);
  std::FILE* file = std::fopen(path.c_str(), begun ? "r+" : "w");
  if (file == nullptr) return;
  // The closing bracket is written over by the next launch.
  if (begun) std::fseek(file, -3, SEEK_END);
  std::fprintf(file, "%s%s\n]\n", begun ? ",\n" : "[\n", text.c_str());
  std::fclose(file);
  begun = true;
}

}  // namespace gpusim
