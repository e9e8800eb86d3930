// How a thread's share of an operand lies: the shapes in which loaders fetch and store. A tile of
// kExtent indices and 16 terms has kExtent / 8 values per thread. kLeft: the operand is the left
// one, whose rows a tensor core wants in pairs.
#pragma once

#include "slot_product.h"

namespace eft_fast {

// For operands that are contiguous along the sum, of any length: a thread keeps one term, and an
// index every 8.
template <typename T, int kExtent, bool kLeft>
struct AlongSum {
  static constexpr int kLoads = kExtent / 8;
  static __device__ int k() { return threadIdx.x % kPsDepth; }
  // The two rows of a warp lie in different banks.
  static __device__ int index(int i) {
    const int row = threadIdx.x / kPsDepth;
    return (kLeft ? row / 2 + row % 2 * 8 : row) + step(i);
  }
  static constexpr __device__ int step(int i) { return kLeft ? i % 2 * 4 + i / 2 * 16 : i * 8; }
  static __device__ int place(int index) { return index; }

  template <typename Product, typename F>
  static __device__ void store(T* tile, F value) {
    // Rows that are a multiple of 8 apart have their units in the same order.
    T *const even = tile + term_at < kLeft && Product::kPairs, T > (index(0), k());
    T *const odd = tile + term_at < kLeft && Product::kPairs, T > (index(1), k());
#pragma unroll
    for (int i = 0; i < kLoads; i += 2) {
      even[step(i) * kPsDepth] = Product::operand(value(i));
      odd[step(i) * kPsDepth] = Product::operand(value(i + 1));
    }
  }
};

// For operands that are contiguous along the sum, whole units at a time (float): a thread keeps
// one unit of terms, and an index every 32.
template <int kExtent, bool kLeft>
struct UnitsAlongSum {
  static constexpr int kLoads = kExtent / 32;
  static __device__ int k() { return threadIdx.x % 4 * 4; }
  static __device__ int index(int i) {
    const int row = threadIdx.x / 4;
    return kLeft ? row % 8 + i % 2 * 8 + row / 8 * 16 + i / 2 * 64 : row + i * 32;
  }
  static __device__ int place(int index) { return index; }

  // value(i, e): term k() + e of index i.
  template <typename Product, typename F>
  static __device__ void store(float* tile, F value) {
    if constexpr (kLeft && Product::kPairs) {
      const int pair = threadIdx.x / 4;
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        float* const target = tile + pair_at(pair, k() / 2 + u);
#pragma unroll
        for (int i = 0; i < kLoads; i += 2) {
          Unit<float> terms;
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            terms.at[e] = Product::operand(value(i + e % 2, 2 * u + e / 2));
          }
          unit(target + i * 32 * kPsDepth) = terms;
        }
      }
    } else {
      float* const target = tile + unit_at<float>(index(0), k() / 4);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        Unit<float> terms;
#pragma unroll
        for (int e = 0; e < 4; ++e) terms.at[e] = Product::operand(value(i, e));
        unit(target + (index(i) - index(0)) * kPsDepth) = terms;
      }
    }
  }
};

// For operands that are contiguous across the sum, of any length: a thread keeps one index, and
// terms that follow each other.
template <typename T, int kExtent, bool kLeft>
struct AcrossSum {
  static constexpr int kLoads = kExtent / 8;
  static __device__ int k() { return threadIdx.x / kExtent * kLoads; }
  static __device__ int index() { return threadIdx.x % kExtent; }
  static __device__ int place(int index) { return index; }

  template <typename Product, typename F>
  static __device__ void store(T* tile, F value) {
    if constexpr (kLeft && Product::kPairs) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        tile[term_at<true, T>(index(), k() + i)] = Product::operand(value(i));
      }
    } else {
      constexpr int kSize = Unit<T>::kSize;
#pragma unroll
      for (int u = 0; u < kLoads / kSize; ++u) {
        Unit<T> terms;
#pragma unroll
        for (int e = 0; e < kSize; ++e) terms.at[e] = Product::operand(value(u * kSize + e));
        unit(tile + unit_at<T>(index(), k() / kSize + u)) = terms;
      }
    }
  }
};

// For the left operand where 128 indices are contiguous across the sum, four at a time (float): a
// thread has a square of 4 indices x 4 terms. Its indices go into rows that are far apart, so that
// the lanes' rows follow each other.
template <bool kPairs>
struct SquaresAcrossSum {
  static __device__ int k() { return threadIdx.x / 32 * 4; }
  static __device__ int index() { return threadIdx.x % 32 * 4; }
  static __device__ int place(int index) {
    const int lane = index / 4, e = index % 4, pair = e / 2 * 32 + lane;
    return kPairs ? pair / 8 * 16 + pair % 8 + e % 2 * 8 : e * 32 + lane;
  }

  // value(e, j): index() + e, term k() + j.
  template <typename Product, typename F>
  static __device__ void store(float* tile, F value) {
    const int lane = threadIdx.x % 32;
    if constexpr (kPairs) {
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        float* const target = tile + pair_at(lane, k() / 2 + u);
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          Unit<float> terms;
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            terms.at[e] = Product::operand(value(2 * pair + e % 2, 2 * u + e / 2));
          }
          unit(target + pair * 64 * kPsDepth) = terms;
        }
      }
    } else {
      float* const target = tile + unit_at<float>(lane, k() / 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        Unit<float> terms;
#pragma unroll
        for (int j = 0; j < 4; ++j) terms.at[j] = Product::operand(value(e, j));
        unit(target + e * 32 * kPsDepth) = terms;
      }
    }
  }
};

// The same for 64 indices of the right operand: 4 indices x 2 terms.
struct PairsAcrossSum {
  static __device__ int k() { return threadIdx.x / 32 * 4 + threadIdx.x / 8 % 2 * 2; }
  static __device__ int lane() { return threadIdx.x % 8 + threadIdx.x / 16 % 2 * 8; }
  static __device__ int index() { return lane() * 4; }
  static __device__ int place(int index) { return index % 4 * 16 + index / 4; }

  struct alignas(8) Pair {
    float at[2];
  };

  template <typename Product, typename F>
  static __device__ void store(float* tile, F value) {
    float* const target = tile + unit_at<float>(lane(), k() / 4) + k() % 4;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      Pair terms;
#pragma unroll
      for (int j = 0; j < 2; ++j) terms.at[j] = Product::operand(value(e, j));
      *reinterpret_cast<Pair*>(target + e * 16 * kPsDepth) = terms;
    }
  }
};

// Which loaders a kernel over a slot's weights has: start(Way<...>{}, product) with the way that
// serves the shape and the product that was asked for; false if there is no such product. A way by
// fours or by taps is templated on the type of the state, term by term on that of the numbers.
template <template <typename> class AsMatrix,
          template <typename> class TapByTap,
          template <typename> class TermByTerm,
          typename T,
          typename Start>
bool with_way(
    const Weights<T>& weights, bool has_taps, bool is_matrix, int64_t arithmetic, Start start) {
  return with_product(T(0), arithmetic, [&](auto product) {
    if constexpr (std::is_same_v<T, float>) {
      if (has_taps && holds_fours(weights.start, 4) &&
          holds_fours(weights.delta, weights.is_bf16 ? 2 : 4)) {
        with_state<float>(weights.is_bf16, [&](auto state) {
          using S = decltype(state);
          if (is_matrix) {
            start(AsMatrix<S>{}, product);
          } else {
            start(TapByTap<S>{}, product);
          }
        });
        return;
      }
    }
    start(TermByTerm<T>{}, product);
  });
}

}  // namespace eft_fast
