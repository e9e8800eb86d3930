// Depthwise convolution of maps with the channels last, with clamps to [0, 6] before and behind it.
#include "depthwise.h"

namespace eft_fast {
namespace EFT_ISA {
namespace {

// kPixels outputs of one row, one part of the channels: the sum over rows y0..y1 of the kernel.
template <int K, int S>
EFT_INLINE void add_taps(const Ring& in,
                         int64_t first_row,
                         int y0,
                         int y1,
                         int64_t column,
                         const float* weight,
                         FVec* sum) {
  for (int ky = y0; ky < y1; ++ky) {
    const float* pixel = in.row(first_row + ky) + column * kBlock;
#pragma GCC unroll 5
    for (int kx = 0; kx < K; ++kx) {
      const FVec w = FVec::load(weight + (ky * K + kx) * kBlock);
#pragma GCC unroll 8
      for (int t = 0; t < kPixels; ++t) sum[t] += w * FVec::load(pixel + (t * S + kx) * kBlock);
    }
  }
}

template <int K, int S>
struct Forward {
  const cpu::Depthwise& a;
  float* weight;  // [K*K,16]
  float* bias;    // [16]
  Ring in;

  explicit Forward(const cpu::Depthwise& args) : a(args) {
    // Behind the last pixel: what the kernel reaches, and what the last kPixels outputs read.
    const int64_t groups = (a.out_width + kPixels - 1) / kPixels;
    const int64_t reach = (groups * kPixels - 1) * S + K, row = a.pad + a.width;
    const int64_t columns = reach > row ? reach : row;
    const int64_t fixed = (K * K + 1) * kBlock;
    const size_t bytes = (fixed + Ring::size(K, columns)) * sizeof(float);
    weight = static_cast<float*>(cpu::scratch(1, bytes));
    bias = weight + K * K * kBlock;
    in = Ring{weight + fixed, K, a.pad, columns};
    in.clear();
  }

  void load_block(Block block) {
    load_weights(a.weight, K * K, block, weight);
    for (int c = 0; c < kBlock; ++c)
      bias[c] = a.bias && c < block.count ? a.bias[block.first + c] : 0;
  }

  void load_row(const float* image, int64_t y, Block block) {
    const float* from = image + y * a.width * a.channels + block.first;
    block.count == kBlock ? load_input_row(a, in, from, y, kBlock)
                          : load_input_row(a, in, from, y, block.count);
  }

  void write_row(float* out, int64_t oy, Block block) {
    const int64_t first_row = oy * S - a.pad;
    const int y0 = first_row < 0 ? static_cast<int>(-first_row) : 0;
    const int y1 = first_row + K > a.height ? static_cast<int>(a.height - first_row) : K;
    for (int64_t ox = 0; ox < a.out_width; ox += kPixels) {
      const int64_t left = a.out_width - ox;
      const int count = left < kPixels ? static_cast<int>(left) : kPixels;
      for (int v = 0; v < kParts; ++v) {
        const int shift = v * kLanes<float>;
        FVec sum[kPixels];
        for (int t = 0; t < kPixels; ++t) sum[t] = FVec::load(bias + shift);
        Ring part = in;
        part.memory += shift;
        add_taps<K, S>(part, first_row, y0, y1, ox * S, weight + shift, sum);
        for (int t = 0; t < count; ++t)
          __builtin_prefetch(out + (a.out_width + ox + t) * a.channels + block.first, 1);
        for (int t = 0; t < count; ++t)
          store_part(a.clamp_out ? clamp6(sum[t]) : sum[t],
                     out + (ox + t) * a.channels + block.first,
                     v,
                     block.count);
      }
    }
  }

  void run_image(int64_t image, Block block) {
    const float* x = a.x + image * a.height * a.width * a.channels;
    float* y = a.y + image * a.out_height * a.out_width * a.channels;
    int64_t loaded = 0;
    for (int64_t oy = 0; oy < a.out_height; ++oy) {
      const int64_t reach = oy * S - a.pad + K;
      for (; loaded < reach && loaded < a.height; ++loaded) load_row(x, loaded, block);
      write_row(y + oy * a.out_width * a.channels, oy, block);
    }
  }
};

// Items are blocks of an image, the images of a block in a row.
template <int K, int S>
struct RunForward {
  static void call(const cpu::Depthwise& args) {
    const int64_t blocks = (args.channels + kBlock - 1) / kBlock;
    const int64_t work = args.out_height * args.out_width * K * K;
    args.pool.run(
        blocks * args.images,
        1 + 200000 / work,
        [](void* context, int64_t begin, int64_t end) {
          const cpu::Depthwise& a = *static_cast<const cpu::Depthwise*>(context);
          Forward<K, S> forward(a);
          for (int64_t item = begin; item < end; ++item) {
            const Block block(item / a.images, a.channels);
            if (item == begin || item % a.images == 0) forward.load_block(block);
            forward.run_image(item % a.images, block);
          }
        },
        const_cast<cpu::Depthwise*>(&args));
  }
};

}  // namespace

void depthwise(const cpu::Depthwise& args) { by_form<RunForward>(args); }

}  // namespace EFT_ISA
}  // namespace eft_fast
