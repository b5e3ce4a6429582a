// The CUDA kernels: one translation unit, so that one fatbin comes out. Compiled from the repository's root.
#include "cuda/kernels/features.cuh"
#include "cuda/kernels/hopper_kernels.cuh"
#include "cuda/kernels/nearest.cuh"
#include "cuda/kernels/sampling.cuh"
#include "cuda/kernels/tile_kernels.cuh"
#include "cuda/kernels/unit_sums.cuh"
#include "cuda/kernels/update.cuh"
#include "cuda/kernels/weights.cuh"
