// One matrix product of one slot: a block of 128 threads makes a tile of sums (128 x 64, in float64
// 64 x 64), 16 terms at a time, each chunk loaded into registers while the one before it is
// multiplied.
//
// What the operands are is the loaders' business (slot_operands.h and the kernels): load(chunk)
// fetches this thread's share of a chunk, zero where there is nothing; store(tile) puts it into
// shared memory.
//
// A tile of an operand lies row by row, a row is one index of the result and its 16 terms. Terms
// move in units of 16 bytes, and the units of a row change places with the row, so that neither
// neighbouring rows nor neighbouring units meet in one bank. A loader may put its indices into the
// rows in any order, and says with place(index) in which.
//
// The left operand of a tensor core lies in pairs of rows 8 apart: a unit is two terms of both, as
// the instruction wants them in neighbouring registers.
#pragma once

#include "slot.h"

namespace eft_fast {

constexpr int kPsDepth = 16;  // terms of a chunk
constexpr int kPsThreads = 128;

template <typename T>
struct alignas(16) Unit {
  static constexpr int kSize = 16 / sizeof(T);
  T at[kSize];
};

// First value of unit u of a row.
template <typename T>
__device__ inline int unit_at(int row, int u) {
  const int turn = sizeof(T) == 4 ? row >> 1 & 3 : row & 7;
  return row * kPsDepth + (u ^ turn) * Unit<T>::kSize;
}

template <typename T>
__device__ inline Unit<T>& unit(T* at) {
  return *reinterpret_cast<Unit<T>*>(at);
}

// The same of pairs of rows: pair p has rows p / 8 * 16 + p % 8 and the one 8 below; unit u of a
// pair has terms 2u and 2u + 1, each of both rows.
__device__ inline int pair_at(int pair, int u) { return pair * 2 * kPsDepth + (u ^ pair % 8) * 4; }

// Where one term lies.
template <bool kPairs, typename T>
__device__ inline int term_at(int row, int k) {
  if (kPairs) return pair_at(row / 16 * 8 + row % 8, k / 2) + k % 2 * 2 + row / 8 % 2;
  return unit_at<T>(row, k / Unit<T>::kSize) + k % Unit<T>::kSize;
}

// ---- three ways to multiply --------------------------------------------------------------------

// Fused multiply-adds; a thread has rows m, m + 16, ... and columns n, n + 8, ...
template <typename T>
struct PlainProduct {
  using Type = T;
  static constexpr int kRows = sizeof(T) == 4 ? 128 : 64, kColumns = 64;
  static constexpr int kBlocks = 2;  // of a multiprocessor, at least
  static constexpr bool kPairs = false;
  static constexpr int kHigh = kRows / 16, kWide = kColumns / 8, kUnits = kPsDepth / Unit<T>::kSize;
  T sums[kHigh][kWide] = {};

  static __device__ T operand(T x) { return x; }

  __device__ void add(const T* a, const T* b) {
    const int m = threadIdx.x / 8, n = threadIdx.x % 8;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const T* const rows = a + unit_at<T>(m, u);
      const T* const columns = b + unit_at<T>(n, u);
      Unit<T> x[kHigh];
#pragma unroll
      for (int i = 0; i < kHigh; ++i) {
        x[i] = *reinterpret_cast<const Unit<T>*>(rows + i * 16 * kPsDepth);
      }
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
        const Unit<T> y = *reinterpret_cast<const Unit<T>*>(columns + j * 8 * kPsDepth);
#pragma unroll
        for (int k = 0; k < Unit<T>::kSize; ++k) {
#pragma unroll
          for (int i = 0; i < kHigh; ++i) sums[i][j] += x[i].at[k] * y.at[k];
        }
      }
    }
  }

  template <typename F>
  __device__ void for_each(F f) const {
    const int m = threadIdx.x / 8, n = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < kHigh; ++i) {
#pragma unroll
      for (int j = 0; j < kWide; ++j) f(m + 16 * i, n + 8 * j, sums[i][j]);
    }
  }
};

// Tensor cores; four warps of 64 x 32 sums. With kSplit, x = high + low and low * low is dropped:
// float32-grade. Without, operands are rounded to TF32.
//
// The instruction wants terms t and t + 4 from a lane. Which term of the chunk that is does not
// matter if both operands agree: lane t takes terms 4t and 4t + 1 in the first step, and the next
// two in the second.
template <bool kSplit>
struct TensorProduct {
  using Type = float;
  static constexpr int kRows = 128, kColumns = 64, kBlocks = kSplit ? 2 : 3;
  static constexpr bool kPairs = true;
  float sums[4][4][4] = {};

  static __device__ float operand(float x) { return kSplit ? x : near_tf32(x); }

  __device__ void add(const float* a, const float* b) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const float* const rows = a + warp / 2 * 64 * kPsDepth;
    const float* const columns = b + warp % 2 * 32 * kPsDepth + unit_at<float>(g, t);
    Unit<float> y[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      y[j] = *reinterpret_cast<const Unit<float>*>(columns + j * 8 * kPsDepth);
    }
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
      const float* const pairs = rows + pair_at(g, 2 * t + k / 2);
      float high[4][4], low[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto x = *reinterpret_cast<const Unit<float>*>(pairs + i * 16 * kPsDepth);
#pragma unroll
        for (int f = 0; f < 4; ++f) {
          high[i][f] = x.at[f];
          if (kSplit) split_tf32(x.at[f], high[i][f], low[i][f]);
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float b_high[2] = {y[j].at[k], y[j].at[k + 1]}, b_low[2];
        if constexpr (kSplit) {
          split_tf32(y[j].at[k], b_high[0], b_low[0]);
          split_tf32(y[j].at[k + 1], b_high[1], b_low[1]);
#pragma unroll
          for (int i = 0; i < 4; ++i) mma_tf32_16x8x8(sums[i][j], low[i], b_high);
#pragma unroll
          for (int i = 0; i < 4; ++i) mma_tf32_16x8x8(sums[i][j], high[i], b_low);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) mma_tf32_16x8x8(sums[i][j], high[i], b_high);
      }
    }
  }

  template <typename F>
  __device__ void for_each(F f) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          f(warp / 2 * 64 + i * 16 + e / 2 * 8 + g,
            warp % 2 * 32 + j * 8 + t * 2 + e % 2,
            sums[i][j][e]);
        }
      }
    }
  }
};

// ---- the loop ----------------------------------------------------------------------------------

// Rows of the results keep fours together.
template <typename Product>
EFT_HD constexpr int result_stride() {
  return Product::kColumns + 4;
}

template <typename Product>
EFT_HD constexpr int slot_shared_size() {
  const int stages = 2 * (Product::kRows + Product::kColumns) * kPsDepth;
  const int results = Product::kRows * result_stride<Product>();
  return stages > results ? stages : results;
}

// Blocks that a multiprocessor shall hold: what leaves registers enough for both.
template <typename Product, typename Way>
EFT_HD constexpr int blocks_of() {
  return Product::kBlocks < Way::kBlocks ? Product::kBlocks : Way::kBlocks;
}

// Multiplies chunks [begin, end); afterwards shared, slot_shared_size elements, holds the sums, row
// by row in the places of the loaders.
template <typename Product, typename A, typename B>
__device__ inline void multiply_tile(
    A& a, B& b, int begin, int end, typename Product::Type* shared) {
  constexpr int kLeft = Product::kRows * kPsDepth;
  constexpr int kStage = kLeft + Product::kColumns * kPsDepth;
  Product product;
  if (begin < end) {
    a.load(begin);
    b.load(begin);
    a.template store<Product>(shared);
    b.template store<Product>(shared + kLeft);
  }
  __syncthreads();
  for (int chunk = begin; chunk < end; ++chunk) {
    const auto* stage = shared + (chunk - begin) % 2 * kStage;
    auto* next = shared + (chunk - begin + 1) % 2 * kStage;
    const bool has_next = chunk + 1 < end;
    if (has_next) {
      a.load(chunk + 1);
      b.load(chunk + 1);
    }
    product.add(stage, stage + kLeft);
    if (has_next) {
      a.template store<Product>(next);
      b.template store<Product>(next + kLeft);
    }
    __syncthreads();  // the next chunk is there, and nobody reads this one any more
  }
  product.for_each([&](int m, int n, auto sum) { shared[m * result_stride<Product>() + n] = sum; });
  __syncthreads();
}

// finish(row, column, sum) of every sum of a tile; a warp has one row at a time, and neighbouring
// lanes have neighbouring columns.
template <typename Product, typename A, typename B, typename F>
__device__ inline void finish_tile(const typename Product::Type* shared, F finish) {
  const int lane = threadIdx.x % 32;
  for (int m = threadIdx.x / 32; m < Product::kRows; m += kPsThreads / 32) {
    const auto* row = shared + A::place(m) * result_stride<Product>();
#pragma unroll
    for (int n = lane; n < Product::kColumns + lane; n += 32) finish(m, n, row[B::place(n)]);
  }
}

// The same with four neighbouring columns at a time; both loaders keep their indices in order.
template <typename Product, typename F>
__device__ inline void finish_fours(const typename Product::Type* shared, F finish) {
  constexpr int kAcross = Product::kColumns / 4;
  const int n = threadIdx.x % kAcross * 4;
  for (int m = threadIdx.x / kAcross; m < Product::kRows; m += kPsThreads / kAcross) {
    finish(m, n, load_four(shared + m * result_stride<Product>() + n));
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
