// Rows of one block of channels, padded and side by side, for the depthwise convolutions.
//
// A block is 16 channels. Its rows are copied once into rings that stay in the first cache: padding
// and the clamp are done there, so that the products that follow know neither borders nor strides.
// A block takes 64 bytes of each pixel, a pattern that the processor does not foresee: the row
// after the one at hand is asked for early (a third of the time of maps that the second cache
// cannot hold).
#pragma once

#include "../kernels.h"
#include "vec.h"

namespace eft_fast {
namespace EFT_ISA {

using FVec = Vec<float>;

constexpr int kBlock = 16;
constexpr int kParts = kBlock / kLanes<float>;
// Pixels that are computed side by side.
constexpr int kPixels = 8;

EFT_INLINE FVec clamp6(FVec x) {
  x = select(x < FVec(0), FVec(0), x);
  return select(FVec(6) < x, FVec(6), x);
}

// The gradient where a clamp to [0, 6] let its argument, or here its result, pass.
EFT_INLINE FVec pass6(FVec value, FVec g) {
  return select((value <= FVec(0)) | (FVec(6) <= value), FVec(0), g);
}

// The first `count` numbers of a vector, zeros behind them.
EFT_INLINE FVec load_some(const float* p, int count) {
  if (count >= kLanes<float>) return FVec::load(p);
  if (count <= 0) return FVec(0);
#if defined(__AVX512F__)
  return FVec((FVec::Raw)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p));
#else
  FVec out(0);
  for (int i = 0; i < count; ++i) out.v[i] = p[i];
  return out;
#endif
}

EFT_INLINE void store_some(FVec x, float* p, int count) {
  if (count >= kLanes<float>) {
    x.store(p);
    return;
  }
#if defined(__AVX512F__)
  if (count > 0) _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)x.v);
#else
  for (int i = 0; i < count; ++i) p[i] = x.v[i];
#endif
}

// Up to 16 numbers of one pixel; those that do not exist are 0.
struct Pixel {
  FVec part[kParts];

  EFT_INLINE static Pixel load(const float* p, int count) {
    Pixel out;
    for (int v = 0; v < kParts; ++v)
      out.part[v] = load_some(p + v * kLanes<float>, count - v * kLanes<float>);
    return out;
  }
  EFT_INLINE void store(float* p) const {
    for (int v = 0; v < kParts; ++v) part[v].store(p + v * kLanes<float>);
  }
};

// Writes one part of a block, of whose channels only the first `count` exist.
EFT_INLINE void store_part(FVec x, float* p, int part, int count) {
  store_some(x, p + part * kLanes<float>, count - part * kLanes<float>);
}

// Where the channels of a block begin, and how many there are.
struct Block {
  int64_t first;
  int count;
  Block(int64_t number, int64_t channels) : first(number * kBlock) {
    const int64_t left = channels - first;
    count = left < kBlock ? static_cast<int>(left) : kBlock;
  }
};

// The last `rows` rows of a map, each with zeros before and behind its pixels.
struct Ring {
  float* memory;
  int rows;
  int64_t before, columns;  // zeros before a row; its length with all zeros

  static int64_t size(int rows, int64_t columns) { return rows * columns * kBlock; }
  void clear() {
    for (int64_t i = 0; i < size(rows, columns); ++i) memory[i] = 0;
  }
  EFT_INLINE float* row(int64_t y) const { return memory + (y % rows) * columns * kBlock; }
  // Pixel x of row y; x may be negative.
  EFT_INLINE float* at(int64_t y, int64_t x) const { return row(y) + (before + x) * kBlock; }
};

// Copies row y of the input, of whose block only `count` channels exist, into the ring.
EFT_INLINE void load_input_row(
    const cpu::DepthwiseMaps& a, const Ring& in, const float* from, int64_t y, int count) {
  float* to = in.at(y, 0);
  const bool clamp = a.clamp_in;
  for (int64_t x = 0; x < a.width; ++x) {
    Pixel pixel = Pixel::load(from + x * a.channels, count);
    __builtin_prefetch(from + (a.width + x) * a.channels);
    if (clamp)
      for (int v = 0; v < kParts; ++v) pixel.part[v] = clamp6(pixel.part[v]);
    pixel.store(to + x * kBlock);
  }
}

// Calls Run<kernel, stride>::call, of the kernels and strides that there are.
template <template <int, int> class Run, typename Args>
void by_form(const Args& args) {
  if (args.kernel == 3) {
    args.stride == 1 ? Run<3, 1>::call(args) : Run<3, 2>::call(args);
  } else {
    args.stride == 1 ? Run<5, 1>::call(args) : Run<5, 2>::call(args);
  }
}

// Weights [C,k,k] of a block as [k*k,16].
inline void load_weights(const float* weight, int taps, Block block, float* out) {
  for (int i = 0; i < taps * kBlock; ++i) out[i] = 0;
  const float* from = weight + block.first * taps;
  for (int c = 0; c < block.count; ++c)
    for (int t = 0; t < taps; ++t) out[t * kBlock + c] = from[c * taps + t];
}

}  // namespace EFT_ISA
}  // namespace eft_fast
