// The tile kernels by name: each for every operand type, and what a launch of one needs.
#pragma once

#include "cuda/kernels/negatives.cuh"
#include "cuda/kernels/probabilities.cuh"
#include "cuda/kernels/products.cuh"

// The attributes of a kernel over tiles of operand type T.
#define MARGINFC_TILE_KERNEL(T)                                                 \
  extern "C" __global__ void __launch_bounds__(marginfc::TileShape<T>::threads, \
                                               marginfc::TileShape<T>::blocks_per_processor)

// All kernels of operand type T, under the name the host knows it by.
#define MARGINFC_TILE_KERNELS(T, name)                                                                        \
  extern "C" __device__ int32_t tile_threads_##name = marginfc::TileShape<T>::threads;                        \
  extern "C" __device__ int32_t tile_bytes_##name = marginfc::TileShape<T>::bytes;                            \
  MARGINFC_TILE_KERNEL(T) negatives_##name(const __grid_constant__ marginfc::NegativesParameters p) {         \
    marginfc::negatives<T, marginfc::NegativesMode::sums>(p);                                                 \
  }                                                                                                           \
  MARGINFC_TILE_KERNEL(T) negatives_hardest_##name(const __grid_constant__ marginfc::NegativesParameters p) { \
    marginfc::negatives<T, marginfc::NegativesMode::hardest>(p);                                              \
  }                                                                                                           \
  MARGINFC_TILE_KERNEL(T) negatives_above_##name(const __grid_constant__ marginfc::NegativesParameters p) {   \
    marginfc::negatives<T, marginfc::NegativesMode::above>(p);                                                \
  }                                                                                                           \
  MARGINFC_TILE_KERNEL(T) negatives_shifted_##name(const __grid_constant__ marginfc::NegativesParameters p) { \
    marginfc::negatives<T, marginfc::NegativesMode::shifted>(p);                                              \
  }                                                                                                           \
  MARGINFC_TILE_KERNEL(T) probabilities_##name(const __grid_constant__ marginfc::ProbabilitiesParameters p) { \
    marginfc::probabilities<T>(p);                                                                            \
  }                                                                                                           \
  MARGINFC_TILE_KERNEL(T) cosines_##name(const __grid_constant__ marginfc::CosinesParameters p) {             \
    marginfc::cosines<T>(p);                                                                                  \
  }                                                                                                           \
  MARGINFC_TILE_KERNEL(T) features_product_##name(const __grid_constant__ marginfc::ProductParameters p) {    \
    marginfc::product<T, marginfc::Along::inner>(p);                                                          \
  }                                                                                                           \
  MARGINFC_TILE_KERNEL(T) weights_product_##name(const __grid_constant__ marginfc::ProductParameters p) {     \
    marginfc::product<T, marginfc::Along::outer>(p);                                                          \
  }

MARGINFC_TILE_KERNELS(marginfc::Float16, float16)
MARGINFC_TILE_KERNELS(marginfc::Split, float32)
// sm_75 has no bfloat16.
#if __CUDA_ARCH__ >= 800
MARGINFC_TILE_KERNELS(marginfc::Bfloat16, bfloat16)
#endif
