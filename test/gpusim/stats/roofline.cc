// The predicted roofline. For each resource: the work counted, divided by what all multiprocessors do in a clock.
//   tensor   2 x multiply-adds of mma and wgmma / dense 16-bit rate
//   issue    warp instructions (PTX, not machine code) / 4 schedulers
//   shared   wavefronts / 1; bytes of bulk copies / 128
//   l2       32 x sectors + bytes of bulk copies / L2 bytes
//   dram     bytes touched, each once / DRAM bytes
//   special  approximations, 32 lanes / 16 units
#include <algorithm>

#include "stats/report.h"

namespace gpusim {
namespace {

struct Gpu {
  int sm;
  const char* name;
  double multiprocessors;
  double flops;       // of a multiprocessor and clock: dense fp16 with float32 accumulation
  double l2_bytes;    // of a multiprocessor and clock, as remembered from microbenchmarks
  double dram_bytes;  // of the device and clock
};
// Data sheets: T4 65 TFLOP/s, 320 GB/s at 1.59 GHz; A100 SXM 312, 2039 at 1.41; RTX 3090 142 (float32 accumulation 71), 936
// at 1.695; RTX 4090 165, 1008 at 2.52; H100 SXM 989, 3350 at 1.83 (boost of the tensor rate); RTX 5090 209, 1792 at 2.41.
constexpr Gpu kGpus[] = {
    {75, "T4", 40, 1024, 32, 201},       {80, "A100", 108, 2048, 47, 1446}, {86, "RTX 3090", 82, 512, 32, 552},
    {89, "RTX 4090", 128, 512, 32, 400}, {90, "H100", 132, 4096, 48, 1831}, {120, "RTX 5090", 170, 512, 32, 744},
};

const Gpu& gpu_for(int sm) {
  const Gpu* best = &kGpus[0];
  for (const Gpu& gpu : kGpus)
    if (gpu.sm <= sm) best = &gpu;
  return *best;
}

}  // namespace

Roofline predict(const Launch& launch, int sm, uint64_t dram_bytes) {
  const Gpu& gpu = gpu_for(sm);
  double instructions = 0, special = 0;
  for (size_t i = 0; i < launch.counts.size(); i++) {
    instructions += static_cast<double>(launch.counts[i]);
    if (launch.program->code[i].kind == Class::special_function) special += static_cast<double>(launch.counts[i]);
  }
  const AccessCounters& a = launch.accesses;
  const auto bulk = static_cast<double>(a.bulk_bytes);
  const double per = gpu.multiprocessors;
  Roofline r{gpu.name, 0, 0, 0, 0, 0, 0, ""};
  r.tensor = static_cast<double>(a.mma_flops) / (gpu.flops * per);
  r.issue = instructions / (4 * per);
  r.shared = (static_cast<double>(a.wavefronts) + bulk / 128) / per;
  r.l2 = (static_cast<double>(a.load_sectors + a.store_sectors) * 32 + bulk) / (gpu.l2_bytes * per);
  r.dram = static_cast<double>(dram_bytes) / gpu.dram_bytes;
  r.special = special * 2 / per;
  const std::pair<double, const char*> bounds[] = {{r.tensor, "tensor"}, {r.issue, "issue"}, {r.shared, "shared"},
                                                   {r.l2, "l2"},         {r.dram, "dram"},   {r.special, "special"}};
  r.binds = std::max_element(std::begin(bounds), std::end(bounds))->second;
  return r;
}

}  // namespace gpusim
