// One matrix product of one slot: a block of 128 threads makes a tile of 64 x 64 sums, 16 terms at
// a time, each chunk loaded into registers while the one before it is multiplied.
//
// What the operands are is the loaders' business: load(chunk, values) fetches this thread's 8
// elements of a chunk, zero where there are none. A loader's Layout says which elements these are
// and how they lie in shared memory: Rows for operands that are contiguous along the sum, Columns
// for those that are contiguous across it.
#pragma once

#include "slot.h"

namespace eft_fast {

constexpr int kPsTile = 64;
constexpr int kPsDepth = 16;  // terms of a chunk
constexpr int kPsThreads = 128;
constexpr int kPsLoads = kPsTile * kPsDepth / kPsThreads;

// Strides are padded so that the lanes of a warp read from different banks.
struct Rows {
  static constexpr int kStride = kPsDepth + 4;
  static constexpr int kSize = kPsTile * kStride;
  static __device__ int at(int index, int k) { return index * kStride + k; }
  static __device__ int index(int load) { return threadIdx.x / kPsDepth + load * 8; }
  static __device__ int k(int) { return threadIdx.x % kPsDepth; }
};

struct Columns {
  static constexpr int kStride = kPsTile + 8;
  static constexpr int kSize = kPsDepth * kStride;
  static __device__ int at(int index, int k) { return k * kStride + index; }
  static __device__ int index(int) { return threadIdx.x % kPsTile; }
  static __device__ int k(int load) { return threadIdx.x / kPsTile + load * 2; }
};

// ---- three ways to multiply --------------------------------------------------------------------

// Fused multiply-adds; a thread has rows m, m + 8, ... and columns n, n + 16, ...
template <typename T>
struct PlainProduct {
  T sums[8][4] = {};

  template <typename A, typename B>
  __device__ void add(const T* a, const T* b) {
    const int m = threadIdx.x / 16, n = threadIdx.x % 16;
#pragma unroll 4
    for (int k = 0; k < kPsDepth; ++k) {
      T x[8], y[4];
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = a[A::at(m + 8 * i, k)];
#pragma unroll
      for (int j = 0; j < 4; ++j) y[j] = b[B::at(n + 16 * j, k)];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += x[i] * y[j];
      }
    }
  }

  template <typename F>
  __device__ void for_each(F f) const {
    const int m = threadIdx.x / 16, n = threadIdx.x % 16;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) f(m + 8 * i, n + 16 * j, sums[i][j]);
    }
  }
};

__device__ inline void split_tf32(float x, float& high, float& low) {
  high = to_tf32(x);
  low = to_tf32(x - high);
}

// Tensor cores; four warps of 32 x 32 sums. With kSplit, x = high + low and low * low is dropped:
// float32-grade. Without, operands are rounded to TF32.
template <bool kSplit>
struct TensorProduct {
  float sums[2][4][4] = {};

  template <typename A, typename B>
  __device__ void add(const float* a, const float* b) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int m = warp / 2 * 32 + g, n = warp % 2 * 32 + g;
#pragma unroll
    for (int k = t; k < kPsDepth + t; k += 8) {
      float a_high[2][4], a_low[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int f = 0; f < 4; ++f) {
          const float x = a[A::at(m + i * 16 + f % 2 * 8, k + f / 2 * 4)];
          split_tf32(x, a_high[i][f], a_low[i][f]);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float b_high[2], b_low[2];
#pragma unroll
        for (int f = 0; f < 2; ++f) {
          split_tf32(b[B::at(n + j * 8, k + f * 4)], b_high[f], b_low[f]);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if constexpr (kSplit) {
            mma_tf32_16x8x8(sums[i][j], a_low[i], b_high);
            mma_tf32_16x8x8(sums[i][j], a_high[i], b_low);
          }
          mma_tf32_16x8x8(sums[i][j], a_high[i], b_high);
        }
      }
    }
  }

  template <typename F>
  __device__ void for_each(F f) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          f(warp / 2 * 32 + i * 16 + e / 2 * 8 + g,
            warp % 2 * 32 + j * 8 + t * 2 + e % 2,
            sums[i][j][e]);
        }
      }
    }
  }
};

// ---- the loop ----------------------------------------------------------------------------------

constexpr int kPsResultStride = kPsTile + 1;

template <typename A, typename B>
EFT_HD constexpr int slot_shared_size() {
  const int stages = 2 * (A::Layout::kSize + B::Layout::kSize);
  return stages > kPsTile * kPsResultStride ? stages : kPsTile * kPsResultStride;
}

template <typename Layout, typename T>
__device__ inline void store_chunk(const T (&values)[kPsLoads], T* target) {
#pragma unroll
  for (int i = 0; i < kPsLoads; ++i) target[Layout::at(Layout::index(i), Layout::k(i))] = values[i];
}

// Multiplies chunks [begin, end) and hands each sum of the tile to finish(row, column, sum), one
// row after the other, so that neighbouring threads write neighbouring columns. shared has
// slot_shared_size elements.
template <typename Product, typename T, typename A, typename B, typename F>
__device__ inline void multiply_tile(A& a, B& b, int begin, int end, T* shared, F finish) {
  using Left = typename A::Layout;
  using Right = typename B::Layout;
  constexpr int kStage = Left::kSize + Right::kSize;
  Product product;
  T left[kPsLoads], right[kPsLoads];
  if (begin < end) {
    a.load(begin, left);
    b.load(begin, right);
    store_chunk<Left>(left, shared);
    store_chunk<Right>(right, shared + Left::kSize);
  }
  __syncthreads();
  for (int chunk = begin; chunk < end; ++chunk) {
    const T* stage = shared + (chunk - begin) % 2 * kStage;
    T* next = shared + (chunk - begin + 1) % 2 * kStage;
    const bool has_next = chunk + 1 < end;
    if (has_next) {
      a.load(chunk + 1, left);
      b.load(chunk + 1, right);
    }
    product.template add<Left, Right>(stage, stage + Left::kSize);
    if (has_next) {
      store_chunk<Left>(left, next);
      store_chunk<Right>(right, next + Left::kSize);
    }
    __syncthreads();  // the next chunk is there, and nobody reads this one any more
  }
  product.for_each([&](int m, int n, T sum) { shared[m * kPsResultStride + n] = sum; });
  __syncthreads();
#pragma unroll 4
  for (int i = threadIdx.x; i < kPsTile * kPsTile; i += kPsThreads) {
    const int m = i / kPsTile, n = i % kPsTile;
    finish(m, n, shared[m * kPsResultStride + n]);
  }
}

// Calls launch(Product<...>{}) with the product that was asked for; false if there is none.
template <typename F>
bool with_product(float, int64_t arithmetic, F launch) {
  if (arithmetic == kSlotFloat32) {
    launch(PlainProduct<float>{});
  } else if (arithmetic == kSlotThreeTf32) {
    launch(TensorProduct<true>{});
  } else if (arithmetic == kSlotTf32) {
    launch(TensorProduct<false>{});
  } else {
    return false;
  }
  return true;
}

template <typename F>
bool with_product(double, int64_t arithmetic, F launch) {
  if (arithmetic != kSlotFloat32) return false;
  launch(PlainProduct<double>{});
  return true;
}

}  // namespace eft_fast
