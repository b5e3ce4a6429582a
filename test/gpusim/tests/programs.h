// The other things that gpusim_check can do.
#pragma once

namespace gpusim {

/// Prints warp instructions a second, with and without checks, and the time of a GEMM.
int measure_speed();
/// Feeds mutated text and fatbins to the loader for a while.
int fuzz_parsers(double seconds);

}  // namespace gpusim
