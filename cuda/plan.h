// How much a launch does: numbers that follow from the problem and the device alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/parameters.h"

namespace marginfc::cuda {

inline int64_t divide_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

// Float32 sums run over at most this many tiles, or their last digits go.
constexpr int64_t kMostTilesPerSum = 256;
// Tensor cores truncate: of the gradient of x, over this many classes.
constexpr int64_t kMostTilesPerProduct = 16;
// Beyond weights, features and gradients a pass holds less than 64 MiB and one chunk: partial sums over negatives,
// partial products of dX, and dW on its way to the host.
constexpr int64_t kMostSumBytes = int64_t{8} << 20;
constexpr int64_t kMostProductBytes = int64_t{24} << 20;
constexpr int64_t kMostResultBytes = int64_t{24} << 20;

// Tiles each block takes, of `tiles` in a line, `lines` of them, so that the last wave of blocks is as full as the
// others: `slots` blocks run at the same time. A block costs a tile more than its tiles.
inline int32_t tiles_per_block(int64_t tiles, int64_t lines, int64_t slots, int64_t least, int64_t most) {
  least = std::min(std::max<int64_t>(least, 1), tiles);
  most = std::max(std::min(most, tiles), least);
  int64_t best = least, best_cost = INT64_MAX;
  for (int64_t each = least; each <= most; each++) {
    const int64_t cost = divide_up(divide_up(tiles, each) * lines, slots) * (each + 1);
    if (cost <= best_cost) {
      best = each;
      best_cost = cost;
    }
  }
  return static_cast<int32_t>(best);
}

// Tiles of classes whose P and raw dW are made and used up before the next: `tile_bytes` of them a tile. Half the cache,
// the rest is for the operands; up to all of it where less would leave multiprocessors idle; whole waves; at least one,
// else at most `most`.
inline int64_t tiles_per_chunk(int64_t tiles, int64_t row_tiles, int64_t slots, int64_t tile_bytes, int64_t l2_bytes,
                               int64_t most = INT64_MAX) {
  int64_t chunk = std::max<int64_t>(l2_bytes / 2 / tile_bytes, 1);
  const int64_t wave = divide_up(slots, row_tiles);
  if (chunk < wave) chunk = std::max(chunk, std::min(wave, l2_bytes / tile_bytes));
  chunk = std::max<int64_t>(std::min(chunk, most), 1);
  const int64_t waves = chunk * row_tiles / slots;
  if (waves > 0) chunk = std::max<int64_t>(waves * slots / row_tiles, 1);
  // Chunks of about the same size.
  return divide_up(tiles, divide_up(tiles, chunk));
}

// Blocks of kernels whose warps take one row after the other.
inline int64_t row_blocks(int64_t rows, int64_t multiprocessors) {
  return std::min(divide_up(rows, kRowWarps), 16 * multiprocessors);
}

}  // namespace marginfc::cuda
