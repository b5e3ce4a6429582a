#include "memory/access.h"

#include <algorithm>
#include <cstring>

namespace gpusim {
namespace {

uint64_t pack(const GranuleAccess& access) {
  return static_cast<uint64_t>(access.segment) | static_cast<uint64_t>(access.bytes) << 32 |
         static_cast<uint64_t>(access.atomic) << 48;
}

GranuleAccess unpack(uint64_t bits) {
  return {static_cast<uint32_t>(bits), static_cast<uint16_t>(bits >> 32), static_cast<uint16_t>(bits >> 48)};
}

bool happened_before(const Warp& w, uint32_t number) {
  const Segment& segment = segment_at(number);
  const Block& block = *w.block;
  if (segment.block == block.linear)
    return segment.warp == static_cast<uint32_t>(w.index) || segment.count <= w.clock.seen[segment.warp];
  const auto seen = block.seen_blocks.find(segment.block);
  return seen != block.seen_blocks.end() && segment.block_releases <= seen->second;
}

bool conflicts(const Warp& w, const GranuleAccess& other, uint16_t bytes, bool atomic) {
  return other.segment >= w.block->launch.first_segment && other.segment != w.segment && (other.bytes & bytes) != 0 &&
         !(atomic && other.atomic != 0) && !happened_before(w, other.segment);
}

std::string name_of(uint32_t number) {
  const Segment& segment = segment_at(number);
  return "block " + std::to_string(segment.block) + " (linear), warp " + std::to_string(segment.warp);
}

/// Puts an access into its cell, together with what the same segment did before; returns what was there. Blocks run on
/// several cores, if not on one `alone`: of two that meet here, each records first and looks for the other afterwards, so that one
/// finds it.
uint64_t record(std::atomic<uint64_t>* cell, GranuleAccess mine, bool alone) {
  const uint64_t before = cell->load();
  const GranuleAccess last = unpack(before);
  if (last.segment == mine.segment) {
    mine.bytes |= last.bytes;
    mine.atomic &= last.atomic;
    if (pack(mine) == before) return before;
  }
  if (!alone) return cell->exchange(pack(mine));
  cell->store(pack(mine), std::memory_order_relaxed);
  return before;
}

void note_access(Warp& w, const Instruction& in, int lane, Allocation& allocation, uint64_t address, uint32_t bytes,
                 const GlobalAccess& access) {
  if (allocation.granules == nullptr) return;
  if (w.segment == 0)
    w.segment = new_segment({w.block->linear, w.block->releases, static_cast<uint32_t>(w.index), w.count});
  const uint64_t offset = address - allocation.base;
  Granule& granule = allocation.granules[offset >> 4];
  const auto touched = static_cast<uint16_t>(((1u << bytes) - 1) << (offset & 15));
  const uint32_t first = w.block->launch.first_segment;
  const uint64_t before = record(access.write ? &granule.writer : &granule.reader, {w.segment, touched, access.atomic},
                                 w.block->launch.options->threads == 1);
  const GranuleAccess last = unpack(before);
  if (last.segment != w.segment && last.segment >= first)
    (access.write ? granule.other_writer : granule.other_reader).store(before);
  const auto look = [&](const GranuleAccess& other, const char* what) {
    if (!conflicts(w, other, touched, access.atomic)) return;
    // Equal values are benign.
    if (access.write && access.value != nullptr && std::memcmp(allocation.data + offset, access.value, bytes) == 0)
      return;
    w.fail_at(in, lane, FaultCode::launch_failed, address,
              std::string("races with a ") + what + " by " + name_of(other.segment) + " in this launch");
  };
  look(access.write ? last : unpack(granule.writer.load()), "write");
  look(unpack(granule.other_writer.load()), "write");
  if (!access.write) return;
  look(unpack(granule.reader.load()), "read");
  look(unpack(granule.other_reader.load()), "read");
}

bool all_written(const uint8_t* flags, uint32_t bytes) {
  uint64_t both = 0x0101010101010101u;
  for (; bytes >= 8; bytes -= 8, flags += 8) {
    uint64_t word;
    std::memcpy(&word, flags, 8);
    both &= word;
  }
  for (; bytes > 0; bytes--, flags++) both &= *flags == 0 ? 0 : ~uint64_t{0};
  return both == 0x0101010101010101u;
}

Allocation& find_allocation(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes) {
  for (Allocation* cached : w.cached)
    if (cached != nullptr && cached->contains(address, bytes)) return *cached;
  Allocation* found = GlobalMemory::get().find(address);
  if (found == nullptr || !found->contains(address, bytes)) {
    const bool partly = found != nullptr && address - found->base < found->bytes;
    w.fail_at(in, lane, FaultCode::illegal_address, address,
              partly ? "runs over the end of an allocation of " + std::to_string(found->bytes) + " bytes"
                     : GlobalMemory::get().describe(address));
  }
  if (found->device >= 0 && (w.block->launch.reachable >> found->device & 1) == 0)
    w.fail_at(in, lane, FaultCode::illegal_address, address,
              "is memory of device " + std::to_string(found->device) + ", to which there is no peer access");
  w.cached[1] = w.cached[0];
  w.cached[0] = found;
  return *found;
}

}  // namespace

uint8_t* global_bytes(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes,
                      const GlobalAccess& access) {
  require_aligned(w, in, lane, address, bytes);
  Allocation& allocation = find_allocation(w, in, lane, address, bytes);
  if (access.write && allocation.kind == Allocation::Kind::module_constant)
    w.fail_at(in, lane, FaultCode::illegal_address, address, "is constant memory, which kernels cannot write");
  const uint64_t offset = address - allocation.base;
  if (w.block->launch.options->checks) {
    if (!access.write && allocation.written != nullptr && !all_written(allocation.written + offset, bytes))
      w.fail_at(in, lane, FaultCode::launch_failed, address, "is read, but nobody wrote it");
    if (bytes <= 16) {
      note_access(w, in, lane, allocation, address, bytes, access);
    } else {
      note_access(w, in, lane, allocation, address, 16, access);
      GlobalAccess second = access;
      if (access.value != nullptr) second.value = static_cast<const uint8_t*>(access.value) + 16;
      note_access(w, in, lane, allocation, address + 16, bytes - 16, second);
    }
  }
  return allocation.data + offset;
}

uint8_t* global_run(Warp& w, const Instruction& in, const uint64_t* addresses, uint32_t bytes,
                    const GlobalAccess& access) {
  const uint64_t base = addresses[0];
  if ((bytes != 4 && bytes != 8 && bytes != 16) || base % bytes != 0) return nullptr;
  uint64_t apart = 0;
  for (uint64_t lane = 0; lane < kLanes; lane++) apart |= addresses[lane] ^ (base + lane * bytes);
  Allocation* allocation = w.cached[0];
  const uint32_t total = kLanes * bytes;
  if (apart != 0 || allocation == nullptr || !allocation->contains(base, total)) return nullptr;
  if (access.write && allocation->kind == Allocation::Kind::module_constant) return nullptr;
  const uint64_t offset = base - allocation->base;
  if (w.block->launch.options->checks) {
    if (!access.write && allocation->written != nullptr && !all_written(allocation->written + offset, total))
      return nullptr;
    for (uint32_t at = 0; at < total;) {
      const auto piece = std::min(total - at, 16 - static_cast<uint32_t>((offset + at) & 15));
      GlobalAccess part = access;
      if (access.value != nullptr) part.value = static_cast<const uint8_t*>(access.value) + at;
      note_access(w, in, static_cast<int>(at / bytes), *allocation, base + at, piece, part);
      at += piece;
    }
  }
  return allocation->data + offset;
}

void store_global(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes, const void* value,
                  bool atomic) {
  uint8_t* to = global_bytes(w, in, lane, address, bytes, {true, atomic, value});
  copy_small(to, value, bytes);
  Allocation& allocation = *w.cached[w.cached[0]->contains(address, bytes) ? 0 : 1];
  allocation.mark_written(address, bytes);
}

void fail_shared(Warp& w, const Instruction& in, int lane, uint64_t address, SharedProblem problem) {
  std::string text = describe(problem);
  if (problem == SharedProblem::bounds) text += " of " + std::to_string(w.block->shared.size()) + " bytes";
  w.fail_at(in, lane, problem == SharedProblem::bounds ? FaultCode::illegal_address : FaultCode::launch_failed, address,
            "in shared memory " + text);
}

void count_global(Warp& w, uint32_t mask, const uint64_t* addresses, uint32_t bytes, bool write) {
  if (!w.block->launch.counting) return;
  AccessCounters& counters = w.block->accesses;
  const auto lanes = static_cast<uint64_t>(__builtin_popcount(mask));
  uint64_t apart = mask ^ kAllLanes;
  for (uint64_t lane = 0; lane < kLanes; lane++) apart |= addresses[lane] ^ (addresses[0] + lane * bytes);
  if (apart == 0) {
    const uint64_t last = addresses[0] + lanes * bytes - 1, touched = (last >> 5) - (addresses[0] >> 5) + 1;
    (write ? counters.store_sectors : counters.load_sectors) += touched;
    (write ? counters.ideal_store_sectors : counters.ideal_load_sectors) += lanes * bytes / 32;
    (write ? counters.store_bytes : counters.load_bytes) += lanes * bytes;
    return;
  }
  uint64_t sectors[2 * kLanes];
  int count = 0;
  bool sorted = true;
  for_lanes(mask, [&](int l) {
    const uint64_t first = addresses[l] >> 5, last = (addresses[l] + bytes - 1) >> 5;
    for (uint64_t sector = first; sector <= last && count < 2 * kLanes; sector++) {
      if (count > 0 && sectors[count - 1] == sector) continue;
      sorted &= count == 0 || sectors[count - 1] < sector;
      sectors[count++] = sector;
    }
  });
  if (!sorted) {
    std::sort(sectors, sectors + count);
    count = static_cast<int>(std::unique(sectors, sectors + count) - sectors);
  }
  const uint64_t ideal = std::min<uint64_t>(static_cast<uint64_t>(count), (lanes * bytes + 31) / 32);
  if (write) {
    counters.store_sectors += static_cast<uint64_t>(count);
    counters.ideal_store_sectors += ideal;
    counters.store_bytes += lanes * bytes;
  } else {
    counters.load_sectors += static_cast<uint64_t>(count);
    counters.ideal_load_sectors += ideal;
    counters.load_bytes += lanes * bytes;
  }
}

void count_shared(Warp& w, uint32_t mask, const uint32_t* addresses, uint32_t bytes) {
  if (!w.block->launch.counting) return;
  const int lanes = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
  const uint32_t words = bytes <= 4 ? 1 : bytes / 4;
  AccessCounters& counters = w.block->accesses;
  for (int start = 0; start < kLanes; start += lanes) {
    const uint32_t phase = mask & (lanes == 32 ? kAllLanes : ((1u << lanes) - 1) << start);
    if (phase == 0) continue;
    uint32_t banks = 0;
    bool clash = false;
    for_lanes(phase, [&](int l) {
      // words is 1, 2 or 4, and addresses are aligned: a lane's banks are neighbours.
      const uint32_t mine = ((1u << words) - 1) << ((addresses[l] >> 2) & 31 & ~(words - 1));
      clash |= (banks & mine) != 0;
      banks |= mine;
    });
    uint64_t turns = 1;
    if (clash) {
      uint32_t seen[32][kLanes], count[32] = {};
      for_lanes(phase, [&](int l) {
        for (uint32_t i = 0; i < words; i++) {
          const uint32_t word = (addresses[l] >> 2) + i;
          uint32_t& n = count[word & 31];
          if (std::find(seen[word & 31], seen[word & 31] + n, word) == seen[word & 31] + n) seen[word & 31][n++] = word;
        }
      });
      turns = *std::max_element(count, count + 32);
    }
    counters.wavefronts += turns;
    counters.ideal_wavefronts += 1;
  }
}

void synchronise_blocks(Warp& w, uint64_t address, bool releases, bool acquires) {
  Block& block = *w.block;
  Launch& launch = block.launch;
  if (!launch.options->checks || launch.blocks() == 1) return;
  const std::lock_guard<std::mutex> lock(launch.sync_mutex);
  SyncCell& cell = launch.sync_cells[address];
  if (acquires)
    for (const auto& [other, count] : cell.blocks) {
      uint32_t& seen = block.seen_blocks[other];
      seen = std::max(seen, count);
    }
  if (releases) {
    for (const auto& [other, count] : block.seen_blocks) {
      uint32_t& known = cell.blocks[other];
      known = std::max(known, count);
    }
    cell.blocks[block.linear] = block.releases++;
    for (auto& warp : block.warps) warp->segment = 0;
  }
}

}  // namespace gpusim
