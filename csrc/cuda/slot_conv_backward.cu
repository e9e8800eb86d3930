// slot_conv_dgrad: the gradient of a convolution's input, with every slot's own weights: a product
// of [in channels] x [taps x out channels] with the gradients that the taps reach.
//
// With a stride, input pixels fall into sh x sw phases, and the pixels of one phase see the same
// taps: each phase is a product of its own, over those taps alone. A stride of 1 has one phase.
//
// The three ways are those of the forward pass (slot_conv_forward.cu), by out channels.
#include "slot_conv.h"
#include "slot_operands.h"

namespace eft_fast {
namespace {

template <typename T>
struct BackwardArgs {
  Incoming<T> incoming;
  Weights<T> weights;
  const T* add;
  T* g_x;
};

// Along one axis, the pixels phase, phase + stride, ... and the taps first, first + step, ... that
// reach them. The window of tap `first` starts at output (phase + padding - first * dilation) /
// stride for the first of these pixels; each further tap lies `back` output pixels before it.
struct PhaseAxis {
  int phase, stride, pixels, first, step, taps, start, back;

  __device__ PhaseAxis(int phase, int stride, int size, int kernel, int padding, int dilation)
      : phase(phase), stride(stride), first(0), step(1) {
    pixels = (size - phase + stride - 1) / stride;
    while (first < kernel && (phase + padding - first * dilation) % stride != 0) ++first;
    while (step * dilation % stride != 0) ++step;
    taps = first < kernel ? (kernel - first - 1) / step + 1 : 0;
    start = (phase + padding - first * dilation) / stride;
    back = step * dilation / stride;
  }
};

struct Phase {
  PhaseAxis y, x;
  int pixels, taps, depth;
  Divider by_taps_x, by_pixels_x;

  __device__ Phase(const Conv& conv, int index)
      : y(index / conv.sw, conv.sh, conv.hin, conv.kh, conv.ph, conv.dh),
        x(index % conv.sw, conv.sw, conv.win, conv.kw, conv.pw, conv.dw),
        pixels(y.pixels * x.pixels),
        taps(y.taps * x.taps),
        depth(conv.cout * taps),
        by_taps_x(x.taps > 0 ? x.taps : 1),
        by_pixels_x(x.pixels > 0 ? x.pixels : 1) {}

  // Of all taps, the one that is (tap_y, tap_x) of the phase.
  __device__ int tap(const Conv& conv, int tap_y, int tap_x) const {
    return (y.first + tap_y * y.step) * conv.kw + x.first + tap_x * x.step;
  }
};

// The scale of batch norm, for the ways that read sixteen channels at a time: in shared memory, as
// every thread wants all of it.
constexpr int kMostScaled = 2048;

// ---- weights: rows are input channels
// ------------------------------------------------------------

// A thread has 4 x 4 of a chunk. Channels beyond the last repeat others.
template <typename S, bool kPairs>
struct WeightSquares : SquaresAcrossSum<kPairs> {
  using Shape = SquaresAcrossSum<kPairs>;
  const Conv& conv;
  const Phase& phase;
  OwnWeights<float, S> weights;
  int column, step, offset, channel = 0, tap_y = 0, tap_x = 0;
  Four<float> start[4];
  Four<S> delta[4] = {};

  __device__ WeightSquares(const Conv& conv,
                           const Phase& phase,
                           const OwnWeights<float, S>& weights,
                           int first)
      : conv(conv),
        phase(phase),
        weights(weights),
        column(min(first + Shape::index(), conv.cin - 4)),
        step(conv.area * conv.cin) {
    turn_to_tap();
  }

  __device__ void turn_to_tap() {
    offset = Shape::k() * step + phase.tap(conv, tap_y, tap_x) * conv.cin + column;
  }

  __device__ void load(int) {
#pragma unroll
    for (int j = 0; j < 4; ++j) start[j] = load_four(weights.start + offset + j * step);
    if (weights.delta) {
#pragma unroll
      for (int j = 0; j < 4; ++j) delta[j] = load_four(weights.delta + offset + j * step);
    }
    offset += kPsDepth * step;
    channel += kPsDepth;
    if (channel < conv.cout) return;
    channel = 0;
    if (++tap_x == phase.x.taps) tap_x = 0, ++tap_y;
    turn_to_tap();
  }

  template <typename Product>
  __device__ void store(float* tile) const {
    Shape::template store<Product>(
        tile, [&](int e, int j) { return start[j].at[e] + from_state(delta[j].at[e]); });
  }
};

template <typename T, int kRows>
struct WeightTerms : AcrossSum<T, kRows, true> {
  using Shape = AcrossSum<T, kRows, true>;
  const Conv& conv;
  const Phase& phase;
  SlotWeights<T> weights;
  int column;
  T values[Shape::kLoads];

  __device__ WeightTerms(const Conv& conv,
                         const Phase& phase,
                         const SlotWeights<T>& weights,
                         int first)
      : conv(conv), phase(phase), weights(weights), column(first + Shape::index()) {}

  __device__ void load(int chunk) {
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const int k = chunk * kPsDepth + Shape::k() + i;
      const int tap = conv.by_out.divide(k), channel = k - tap * conv.cout;
      const int tap_y = phase.by_taps_x.divide(tap), tap_x = tap - tap_y * phase.x.taps;
      const bool is_there = k < phase.depth && column < conv.cin;
      const int at = (channel * conv.area + phase.tap(conv, tap_y, tap_x)) * conv.cin + column;
      values[i] = is_there ? weights.at(at) : T(0);
    }
  }

  template <typename Product>
  __device__ void store(T* tile) const {
    Shape::template store<Product>(tile, [&](int i) { return values[i]; });
  }
};

// ---- gradients: columns are the input pixels of a phase -----------------------------------------

// Loads and masks of a thread's values are apart, so that loads stay in flight; an output of 1 is
// where no activation is flat.
__device__ inline float masked(float g, float y, float above) {
  return y <= 0.0f || y > above ? 0.0f : g;
}

// One tap, stride 1, pixels a multiple of four: the gradient as it lies.
struct GradientMatrix : PairsAcrossSum {
  const float *g, *y;
  const float* scale;
  int64_t plane;
  float above;
  int channel = k();
  Four<float> values[2], outs[2];

  __device__ GradientMatrix(const Conv& conv,
                            const Phase&,
                            const Incoming<float>& incoming,
                            const float* scale,
                            int64_t slot,
                            int first)
      : scale(scale), plane(conv.pixels), above(incoming.above()) {
    const int64_t at = slot * conv.out_size + k() * plane + min(first + index(), conv.pixels - 4);
    g = incoming.g + at;
    y = incoming.activation == kNoActivation ? nullptr : incoming.y + at;
#pragma unroll
    for (auto& out : outs) out = {1, 1, 1, 1};
  }

  __device__ void load(int) {
#pragma unroll
    for (int j = 0; j < 2; ++j) values[j] = load_four(g + j * plane);
    g += kPsDepth * plane;
    if (!y) return;
#pragma unroll
    for (int j = 0; j < 2; ++j) outs[j] = load_four(y + j * plane);
    y += kPsDepth * plane;
  }

  template <typename Product>
  __device__ void store(float* tile) {
    const float factor[2] = {scale[channel], scale[channel + 1]};
    channel += kPsDepth;
    PairsAcrossSum::store<Product>(tile, [&](int e, int j) {
      return factor[j] * masked(values[j].at[e], outs[j].at[e], above);
    });
  }
};

// A chunk is 16 channels of one tap; a thread keeps one pixel.
struct GradientTaps : AcrossSum<float, 64, false> {
  using Shape = AcrossSum<float, 64, false>;
  const Conv& conv;
  const Phase& phase;
  const float *g_slot, *y_slot, *scale;
  int row, column;  // output pixel of the first tap
  int channel = 0, stored = k(), tap_y = 0, tap_x = 0, offset;
  float above;
  bool is_pixel, is_inside;
  float values[kLoads], outs[kLoads];

  __device__ GradientTaps(const Conv& conv,
                          const Phase& phase,
                          const Incoming<float>& incoming,
                          const float* scale,
                          int64_t slot,
                          int first)
      : conv(conv), phase(phase), scale(scale), above(incoming.above()) {
    const int pixel = first + index(), line = phase.by_pixels_x.divide(pixel);
    is_pixel = pixel < phase.pixels;
    row = phase.y.start + line;
    column = phase.x.start + pixel - line * phase.x.pixels;
    g_slot = incoming.g + slot * conv.out_size;
    y_slot = incoming.activation == kNoActivation ? nullptr : incoming.y + slot * conv.out_size;
#pragma unroll
    for (auto& out : outs) out = 1;
    turn_to_tap();
  }

  __device__ void turn_to_tap() {
    const int oy = row - tap_y * phase.y.back, ox = column - tap_x * phase.x.back;
    is_inside = is_pixel && oy >= 0 && oy < conv.hout && ox >= 0 && ox < conv.wout;
    offset = is_inside ? k() * conv.pixels + oy * conv.wout + ox : 0;
  }

  __device__ void load(int) {
    const float* const from = g_slot + offset;
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      values[j] = is_inside ? from[j * static_cast<int64_t>(conv.pixels)] : 0.0f;
    }
    if (y_slot) {
      const float* const out = y_slot + offset;
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        outs[j] = is_inside ? out[j * static_cast<int64_t>(conv.pixels)] : 0.0f;
      }
    }
    offset += kPsDepth * conv.pixels;
    channel += kPsDepth;
    if (channel < conv.cout) return;
    channel = 0;
    if (++tap_x == phase.x.taps) tap_x = 0, ++tap_y;
    turn_to_tap();
  }

  template <typename Product>
  __device__ void store(float* tile) {
    Shape::store<Product>(
        tile, [&](int j) { return scale[stored + j] * masked(values[j], outs[j], above); });
    stored += kPsDepth;
    if (stored >= conv.cout) stored = k();
  }
};

template <typename T, int kColumns>
struct GradientTerms : AcrossSum<T, kColumns, false> {
  using Shape = AcrossSum<T, kColumns, false>;
  const Conv& conv;
  const Phase& phase;
  const Incoming<T>& incoming;
  int64_t slot;
  int y, x;  // output pixel of the first tap
  bool is_pixel;
  T values[Shape::kLoads];

  __device__ GradientTerms(const Conv& conv,
                           const Phase& phase,
                           const Incoming<T>& incoming,
                           const T*,
                           int64_t slot,
                           int first)
      : conv(conv), phase(phase), incoming(incoming), slot(slot) {
    const int pixel = first + Shape::index(), row = phase.by_pixels_x.divide(pixel);
    is_pixel = pixel < phase.pixels;
    y = phase.y.start + row;
    x = phase.x.start + pixel - row * phase.x.pixels;
  }

  __device__ void load(int chunk) {
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const int k = chunk * kPsDepth + Shape::k() + i;
      const int tap = conv.by_out.divide(k), channel = k - tap * conv.cout;
      const int tap_y = phase.by_taps_x.divide(tap), tap_x = tap - tap_y * phase.x.taps;
      const int oy = y - tap_y * phase.y.back, ox = x - tap_x * phase.x.back;
      const bool is_there =
          is_pixel && k < phase.depth && oy >= 0 && oy < conv.hout && ox >= 0 && ox < conv.wout;
      const int64_t at = (slot * conv.cout + channel) * conv.pixels + oy * conv.wout + ox;
      values[i] = is_there ? incoming.at(at, channel) : T(0);
    }
  }

  template <typename Product>
  __device__ void store(T* tile) const {
    Shape::template store<Product>(tile, [&](int i) { return values[i]; });
  }
};

// ---- the kernel
// ----------------------------------------------------------------------------------

// Which loaders a kernel has. S is the type of the state, Own the weights of a slot.
template <typename S>
struct AsMatrix {
  static constexpr int kBlocks = 3;
  static constexpr int kScaled = kMostScaled;
  using Own = OwnWeights<float, S>;
  template <typename Product>
  using Rows = WeightSquares<S, Product::kPairs>;
  template <typename Product>
  using Columns = GradientMatrix;
};

template <typename S>
struct TapByTap : AsMatrix<S> {
  template <typename Product>
  using Columns = GradientTaps;
};

template <typename T>
struct TermByTerm {
  static constexpr int kBlocks = 2;
  static constexpr int kScaled = 0;
  using Own = SlotWeights<T>;
  template <typename Product>
  using Rows = WeightTerms<T, Product::kRows>;
  template <typename Product>
  using Columns = GradientTerms<T, Product::kColumns>;
};

template <typename T, typename Product, typename Way>
__global__ void __launch_bounds__(kPsThreads, blocks_of<Product, Way>()) slot_backward_kernel(
    Conv conv, BackwardArgs<T> args, Clock clock, int column_tiles, int tiles) {
  constexpr int kSize = slot_shared_size<Product>();
  EFT_SHARED(T, shared, kSize + Way::kScaled);
  const int64_t slot = blockIdx.x / tiles;
  if (!clock.is_active(slot)) return;
  const int tile = blockIdx.x % tiles, phase_columns = column_tiles * conv.sh * conv.sw;
  const int first_row = tile / phase_columns * Product::kRows;
  const int first_column = tile % column_tiles * Product::kColumns;
  const Phase phase(conv, tile % phase_columns / column_tiles);
  if (first_column >= phase.pixels) return;
  if (Way::kScaled) {
    for (int i = threadIdx.x; i < conv.cout; i += kPsThreads) {
      shared[kSize + i] = args.incoming.scale ? args.incoming.scale[i] : T(1);
    }
    __syncthreads();
  }
  using Rows = typename Way::template Rows<Product>;
  using Columns = typename Way::template Columns<Product>;
  Rows weights(conv,
               phase,
               typename Way::Own(args.weights, slot, conv.weight_size, clock.is_new(slot)),
               first_row);
  Columns gradients(conv, phase, args.incoming, shared + kSize, slot, first_column);
  const int chunks = (phase.depth + kPsDepth - 1) / kPsDepth;
  multiply_tile<Product>(weights, gradients, 0, chunks, shared);
  finish_tile<Product, Rows, Columns>(shared, [&](int m, int n, T sum) {
    const int channel = first_row + m, pixel = first_column + n;
    if (channel >= conv.cin || pixel >= phase.pixels) return;
    const int row = phase.by_pixels_x.divide(pixel), column = pixel - row * phase.x.pixels;
    const int y = phase.y.phase + row * phase.y.stride, x = phase.x.phase + column * phase.x.stride;
    const int64_t at = ((slot * conv.cin + channel) * conv.hin + y) * conv.win + x;
    args.g_x[at] = args.add ? sum + args.add[at] : sum;
  });
}

template <typename Way, typename T, typename Product>
void launch_tiles(const ConvShape& shape,
                  const Conv& conv,
                  const BackwardArgs<T>& args,
                  const Clock& clock,
                  Product,
                  void* stream) {
  const int64_t most_pixels = divide_up(shape.hin, shape.sh) * divide_up(shape.win, shape.sw);
  const int64_t column_tiles = divide_up(most_pixels, Product::kColumns);
  const int64_t tiles = divide_up(shape.cin, Product::kRows) * column_tiles * shape.sh * shape.sw;
  EFT_LAUNCH((slot_backward_kernel<T, Product, Way>),
             grid_of(shape.slots * tiles),
             kPsThreads,
             0,
             stream,
             conv,
             args,
             clock,
             static_cast<int>(column_tiles),
             static_cast<int>(tiles));
}

template <typename T>
bool launch_way(const ConvShape& shape,
                const Conv& conv,
                const BackwardArgs<T>& args,
                int64_t arithmetic,
                const Clock& clock,
                void* stream) {
  const bool has_taps = conv.cout % kPsDepth == 0 && conv.cout <= kMostScaled && conv.cin % 4 == 0;
  const bool is_matrix = conv.is_pointwise() && conv.pixels % 4 == 0 &&
                         holds_fours(args.incoming.g, 4) && holds_fours(args.incoming.y, 4);
  return with_way<AsMatrix, TapByTap, TermByTerm>(
      args.weights, has_taps, is_matrix, arithmetic, [&](auto way, auto product) {
        launch_tiles<decltype(way)>(shape, conv, args, clock, product, stream);
      });
}

template <typename T>
int conv_backward(const ConvShape& shape,
                  const BackwardArgs<T>& args,
                  int64_t arithmetic,
                  const Clock& clock,
                  void* stream) {
  if (!is_countable(shape)) return cudaErrorInvalidValue;
  const Conv conv(shape);
  if (shape.slots * conv.in_size == 0) return cudaSuccess;
  if (shape.groups > 1) {
    launch_grouped_backward(shape, args.incoming, args.weights, args.add, args.g_x, clock, stream);
    return cudaGetLastError();
  }
  const bool is_known = launch_way(shape, conv, args, arithmetic, clock, stream);
  return is_known ? cudaGetLastError() : cudaErrorInvalidValue;
}

}  // namespace
}  // namespace eft_fast

#define EFT_SLOT_BACKWARD_CALL(T)                                                       \
  eft_fast::conv_backward<T>(*reinterpret_cast<const eft_fast::ConvShape*>(conv_shape), \
                             {{g, y, scale, static_cast<int>(activation)},              \
                              {start, delta, state == eft_fast::kBf16State},            \
                              add,                                                      \
                              g_x},                                                     \
                             arithmetic,                                                \
                             {time, active},                                            \
                             stream)

EFT_SLOT_CONV_BACKWARD(eft_slot_conv_backward_f32, float) { return EFT_SLOT_BACKWARD_CALL(float); }
EFT_SLOT_CONV_BACKWARD(eft_slot_conv_backward_f64, double) {
  return EFT_SLOT_BACKWARD_CALL(double);
}
