// The tile kernels by name: each for every operand type, and what a launch of one needs.
#pragma once

#include "cuda/kernels/negatives.cuh"
#include "cuda/kernels/probabilities.cuh"
#include "cuda/kernels/products.cuh"

// The attributes of a kernel over tiles of operand type T.
#define MARGINFC_TILE_KERNEL(T)                                                 \
  extern "C" __global__ void __launch_bounds__(marginfc::TileShape<T>::threads, \
                                               marginfc::TileShape<T>::blocks_per_processor)

#define MARGINFC_TILE_NEGATIVES(T, mode, sub_centers, name)                               \
  MARGINFC_TILE_KERNEL(T) name(const __grid_constant__ marginfc::NegativesParameters p) { \
    marginfc::negatives<T, marginfc::NegativesMode::mode, sub_centers>(p);                \
  }
#define MARGINFC_TILE_PROBABILITIES(T, mode, sub_centers, name)                               \
  MARGINFC_TILE_KERNEL(T) name(const __grid_constant__ marginfc::ProbabilitiesParameters p) { \
    marginfc::probabilities<T, marginfc::ProbabilitiesMode::mode, sub_centers>(p);            \
  }
#define MARGINFC_TILE_PRODUCT(T, along, name)                                           \
  MARGINFC_TILE_KERNEL(T) name(const __grid_constant__ marginfc::ProductParameters p) { \
    marginfc::product<T, marginfc::Along::along>(p);                                    \
  }

// All kernels of operand type T, under the name the host knows it by.
#define MARGINFC_TILE_KERNELS(T, name)                                                              \
  extern "C" __device__ int32_t tile_threads_##name = marginfc::TileShape<T>::threads;              \
  extern "C" __device__ int32_t tile_bytes_##name = marginfc::TileShape<T>::bytes;                  \
  MARGINFC_TILE_NEGATIVES(T, sums, false, negatives_##name)                                         \
  MARGINFC_TILE_NEGATIVES(T, hardest, false, negatives_hardest_##name)                              \
  MARGINFC_TILE_NEGATIVES(T, above, false, negatives_above_##name)                                  \
  MARGINFC_TILE_NEGATIVES(T, binary, false, negatives_binary_##name)                                \
  MARGINFC_TILE_NEGATIVES(T, shifted, false, negatives_shifted_##name)                              \
  MARGINFC_TILE_NEGATIVES(T, transformed, false, negatives_transformed_##name)                      \
  MARGINFC_TILE_NEGATIVES(T, transformed_hard, false, negatives_transformed_hard_##name)            \
  MARGINFC_TILE_PROBABILITIES(T, softmax, false, probabilities_##name)                              \
  MARGINFC_TILE_PROBABILITIES(T, transformed, false, probabilities_transformed_##name)              \
  MARGINFC_TILE_PROBABILITIES(T, binary, false, probabilities_binary_##name)                        \
  MARGINFC_TILE_NEGATIVES(T, hardest, true, negatives_hardest_sub_centers_##name)                   \
  MARGINFC_TILE_NEGATIVES(T, above, true, negatives_above_sub_centers_##name)                       \
  MARGINFC_TILE_NEGATIVES(T, binary, true, negatives_binary_sub_centers_##name)                     \
  MARGINFC_TILE_NEGATIVES(T, shifted, true, negatives_shifted_sub_centers_##name)                   \
  MARGINFC_TILE_NEGATIVES(T, transformed, true, negatives_transformed_sub_centers_##name)           \
  MARGINFC_TILE_NEGATIVES(T, transformed_hard, true, negatives_transformed_hard_sub_centers_##name) \
  MARGINFC_TILE_PROBABILITIES(T, softmax, true, probabilities_sub_centers_##name)                   \
  MARGINFC_TILE_PROBABILITIES(T, transformed, true, probabilities_transformed_sub_centers_##name)   \
  MARGINFC_TILE_PROBABILITIES(T, binary, true, probabilities_binary_sub_centers_##name)             \
  MARGINFC_TILE_KERNEL(T) cosines_##name(const __grid_constant__ marginfc::CosinesParameters p) {   \
    marginfc::cosines<T>(p);                                                                        \
  }                                                                                                 \
  MARGINFC_TILE_PRODUCT(T, inner, features_product_##name)                                          \
  MARGINFC_TILE_PRODUCT(T, outer, weights_product_##name)

MARGINFC_TILE_KERNELS(marginfc::Float16, float16)
MARGINFC_TILE_KERNELS(marginfc::Split, float32)
// Angles are taken in float32 alone.
MARGINFC_TILE_NEGATIVES(marginfc::Split, angles, false, negatives_angles_float32)
MARGINFC_TILE_PROBABILITIES(marginfc::Split, angles, false, probabilities_angles_float32)
// sm_75 has no bfloat16.
#if __CUDA_ARCH__ >= 800
MARGINFC_TILE_KERNELS(marginfc::Bfloat16, bfloat16)
#endif
