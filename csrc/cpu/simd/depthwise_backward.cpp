// Gradients of the depthwise convolution: of its input, its weights and its bias, in one pass over
// the maps.
#include "depthwise.h"

namespace eft_fast {
namespace EFT_ISA {
namespace {

// Output pixels whose products with the input are summed side by side, in two sets of sums.
constexpr int kSteps = 4;

template <int K, int S>
struct Backward {
  const cpu::DepthwiseBackward& a;
  bool needs_rows;  // of the input
  float* weight;    // [K*K,16]
  float* g_weight;  // [K*K,16]
  Ring in, g;       // clamped input; gradient behind the clamp of the output
  FVec g_bias[kParts];

  explicit Backward(const cpu::DepthwiseBackward& args) : a(args) {
    needs_rows = a.g_weight || a.clamp_in;
    const int64_t steps = (a.out_width + kSteps - 1) / kSteps * kSteps;
    const int64_t reach = (steps - 1) * S + K, row = a.pad + a.width;
    const int64_t columns = reach > row ? reach : row;
    // The gradient of the input at x reads outputs (x + pad - k) / S, of kPixels * S inputs at
    // once.
    const int64_t last = (a.width + kPixels * S + a.pad) / S + 1;
    const int64_t g_columns = K + (last > steps ? last : steps);
    const int64_t fixed = 2 * K * K * kBlock;
    const int64_t floats = fixed + Ring::size(K, columns) + Ring::size(K, g_columns);
    weight = static_cast<float*>(cpu::scratch(1, floats * sizeof(float)));
    g_weight = weight + K * K * kBlock;
    in = Ring{weight + fixed, K, a.pad, columns};
    g = Ring{in.memory + Ring::size(K, columns), K, K, g_columns};
    in.clear();
    g.clear();
  }

  EFT_INLINE void load_gradient(const float* from, const float* y, int64_t oy, int count) {
    float* to = g.at(oy, 0);
    for (int64_t x = 0; x < a.out_width; ++x) {
      Pixel pixel = Pixel::load(from + x * a.channels, count);
      __builtin_prefetch(from + (a.out_width + x) * a.channels);
      if (y) {
        __builtin_prefetch(y + (a.out_width + x) * a.channels);
        const Pixel value = Pixel::load(y + x * a.channels, count);
        for (int v = 0; v < kParts; ++v) pixel.part[v] = pass6(value.part[v], pixel.part[v]);
      }
      for (int v = 0; v < kParts; ++v) g_bias[v] += pixel.part[v];
      pixel.store(to + x * kBlock);
    }
  }

  // Sums of one row are added to the totals at its end: shorter sums lose less.
  void add_weight_row(int64_t oy) {
    const int64_t first_row = oy * S - a.pad;
    for (int ky = 0; ky < K; ++ky) {
      const int64_t y = first_row + ky;
      if (y < 0 || y >= a.height) continue;
      for (int v = 0; v < kParts; ++v) {
        const int shift = v * kLanes<float>;
        const float* pixel = in.row(y) + shift;
        const float* slope = g.at(oy, 0) + shift;
        FVec sum[2][K];
        for (int kx = 0; kx < K; ++kx) sum[0][kx] = sum[1][kx] = FVec(0);
        for (int64_t ox = 0; ox < a.out_width; ox += kSteps) {
#pragma GCC unroll 4
          for (int t = 0; t < kSteps; ++t) {
            const FVec s = FVec::load(slope + t * kBlock);
#pragma GCC unroll 5
            for (int kx = 0; kx < K; ++kx)
              sum[t & 1][kx] += s * FVec::load(pixel + (t * S + kx) * kBlock);
          }
          pixel += kSteps * S * kBlock;
          slope += kSteps * kBlock;
        }
        for (int kx = 0; kx < K; ++kx) {
          float* total = g_weight + (ky * K + kx) * kBlock + shift;
          (FVec::load(total) + (sum[0][kx] + sum[1][kx])).store(total);
        }
      }
    }
  }

  // Every S-th pixel of an input row, from `phase` on: those that use columns KX, KX + S, ...
  template <int KX>
  void write_phase(float* out, int64_t y, int phase, Block block) {
    // Rows of the kernel whose output row exists.
    const int k0 = static_cast<int>((y + a.pad) % S);
    for (int64_t x = phase; x < a.width; x += kPixels * S) {
      const int64_t left = (a.width - x + S - 1) / S;
      const int count = left < kPixels ? static_cast<int>(left) : kPixels;
      for (int v = 0; v < kParts; ++v) {
        const int shift = v * kLanes<float>;
        FVec sum[kPixels];
        for (int t = 0; t < kPixels; ++t) sum[t] = FVec(0);
        for (int ky = k0; ky < K; ky += S) {
          const int64_t oy = (y + a.pad - ky) / S;
          if (y + a.pad < ky || oy >= a.out_height) continue;
          const float* slope = g.at(oy, (x + a.pad - KX) / S) + shift;
          const float* w = weight + ky * K * kBlock + shift;
#pragma GCC unroll 5
          for (int kx = KX; kx < K; kx += S) {
            const FVec tap = FVec::load(w + kx * kBlock);
#pragma GCC unroll 8
            for (int t = 0; t < kPixels; ++t)
              sum[t] += tap * FVec::load(slope + (t - (kx - KX) / S) * kBlock);
          }
        }
        for (int t = 0; t < count; ++t) {
          const int64_t at = x + t * S;
          __builtin_prefetch(out + (a.width + at) * a.channels + block.first, 1);
          if (a.clamp_in) sum[t] = pass6(FVec::load(in.at(y, at) + shift), sum[t]);
          store_part(sum[t], out + at * a.channels + block.first, v, block.count);
        }
      }
    }
  }

  void write_input_row(float* g_x, int64_t y, Block block) {
    float* out = g_x + y * a.width * a.channels;
    for (int phase = 0; phase < S; ++phase) {
      if ((phase + a.pad) % S == 0) {
        write_phase<0>(out, y, phase, block);
      } else {
        write_phase<S - 1>(out, y, phase, block);
      }
    }
  }

  void run_image(int64_t image, Block block) {
    const int64_t pixels = a.height * a.width, out_pixels = a.out_height * a.out_width;
    const float* x = a.x + image * pixels * a.channels + block.first;
    const float* y = a.y ? a.y + image * out_pixels * a.channels + block.first : nullptr;
    const float* g_y = a.g_y + image * out_pixels * a.channels + block.first;
    float* g_x = a.g_x ? a.g_x + image * pixels * a.channels : nullptr;
    const bool full = block.count == kBlock;
    int64_t loaded = 0, written = 0;
    for (int64_t oy = 0; oy < a.out_height; ++oy) {
      const int64_t skip = oy * a.out_width * a.channels, reach = oy * S - a.pad + K;
      const float* y_row = y ? y + skip : nullptr;
      full ? load_gradient(g_y + skip, y_row, oy, kBlock)
           : load_gradient(g_y + skip, y_row, oy, block.count);
      for (; needs_rows && loaded < reach && loaded < a.height; ++loaded) {
        const float* row = x + loaded * a.width * a.channels;
        full ? load_input_row(a, in, row, loaded, kBlock)
             : load_input_row(a, in, row, loaded, block.count);
      }
      if (a.g_weight) add_weight_row(oy);
      // Rows that no later output reads; the rings still hold them.
      for (; g_x && written < oy * S + S - a.pad && written < a.height; ++written)
        write_input_row(g_x, written, block);
    }
    // Rows that no output reads get zeros.
    for (; g_x && written < a.height; ++written) write_input_row(g_x, written, block);
  }

  void run_block(Block block) {
    load_weights(a.weight, K * K, block, weight);
    for (int i = 0; i < K * K * kBlock; ++i) g_weight[i] = 0;
    for (int v = 0; v < kParts; ++v) g_bias[v] = FVec(0);
    for (int64_t image = 0; image < a.images; ++image) run_image(image, block);
    if (!a.g_weight) return;
    float* out = a.g_weight + block.first * K * K;
    for (int c = 0; c < block.count; ++c)
      for (int t = 0; t < K * K; ++t) out[c * K * K + t] = g_weight[t * kBlock + c];
    for (int v = 0; v < kParts; ++v) store_part(g_bias[v], a.g_bias + block.first, v, block.count);
  }
};

// Items are blocks, so that a weight's sum over the images has one owner and one order.
template <int K, int S>
struct RunBackward {
  static void call(const cpu::DepthwiseBackward& args) {
    const int64_t work = args.images * args.out_height * args.out_width * K * K;
    args.pool.run((args.channels + kBlock - 1) / kBlock,
                  1 + 100000 / work,
                  [](void* context, int64_t begin, int64_t end) {
                    const auto& a = *static_cast<const cpu::DepthwiseBackward*>(context);
                    Backward<K, S> backward(a);
                    for (int64_t item = begin; item < end; ++item)
                      backward.run_block(Block(item, a.channels));
                  },
                  const_cast<cpu::DepthwiseBackward*>(&args));
  }
};

}  // namespace

void depthwise_backward(const cpu::DepthwiseBackward& args) { by_form<RunBackward>(args); }

}  // namespace EFT_ISA
}  // namespace eft_fast
