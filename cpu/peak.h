// What this machine can do at most, measured with the threads and the instructions that calls use: what benchmarks
// compare calls with. Each function keeps all threads busy for some `seconds`.
#pragma once

#include "cpu/cpu_engine.h"

namespace marginfc {

// Floating-point operations per second of multiply-adds on registers alone.
double peak_operations(CpuEngine& engine, Precision operands, double seconds);

// Bytes per second of main memory, the best pass over an array far larger than the caches: reading it, or copying it
// to another one (bytes read and bytes written both count). 0 when there is not enough memory.
double peak_read(CpuEngine& engine, double seconds);
double peak_copy(CpuEngine& engine, double seconds);

}  // namespace marginfc
