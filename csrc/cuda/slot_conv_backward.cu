// slot_conv_dgrad: the gradient of a convolution's input, with every slot's own weights.
//
// With a stride, input pixels fall into sh x sw phases, and the pixels of one phase see the same
// taps: each phase is a product of its own, over those taps alone. A stride of 1 has one phase.
#include "slot_conv.h"
#include "slot_product.h"

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
  Divider by_taps, by_taps_x, by_pixels_x;

  __device__ Phase(const Conv& conv, int index)
      : y(index / conv.sw, conv.sh, conv.hin, conv.kh, conv.ph, conv.dh),
        x(index % conv.sw, conv.sw, conv.win, conv.kw, conv.pw, conv.dw),
        pixels(y.pixels * x.pixels),
        taps(y.taps * x.taps),
        depth(conv.cout * taps),
        by_taps(taps > 0 ? taps : 1),
        by_taps_x(x.taps > 0 ? x.taps : 1),
        by_pixels_x(x.pixels > 0 ? x.pixels : 1) {}
};

// Where term k of a phase lies: output channel and tap.
struct Term {
  int channel, tap_y, tap_x;  // taps counted within the phase

  __device__ Term(const Phase& phase, int k) {
    channel = phase.by_taps.divide(k);
    const int tap = k - channel * phase.taps;
    tap_y = phase.by_taps_x.divide(tap);
    tap_x = tap - tap_y * phase.x.taps;
  }
};

// Indices are input channels; a thread keeps one.
template <typename T>
struct WeightColumns {
  using Layout = Columns;
  const Conv& conv;
  const Phase& phase;
  SlotWeights<T> weights;
  int channel;

  __device__ void load(int chunk, T (&values)[kPsLoads]) const {
#pragma unroll
    for (int i = 0; i < kPsLoads; ++i) {
      const int k = chunk * kPsDepth + Layout::k(i);
      const Term term(phase, k);
      const int ky = phase.y.first + term.tap_y * phase.y.step;
      const int kx = phase.x.first + term.tap_x * phase.x.step;
      const int64_t filter = static_cast<int64_t>(term.channel) * conv.cin + channel;
      const bool is_there = k < phase.depth && channel < conv.cin;
      values[i] = is_there ? weights.at((filter * conv.kh + ky) * conv.kw + kx) : T(0);
    }
  }
};

// Indices are the input pixels of a phase; a thread keeps one.
template <typename T>
struct GradientColumns {
  using Layout = Columns;
  const Conv& conv;
  const Phase& phase;
  const Incoming<T>& incoming;
  int64_t slot;
  int y, x;  // output pixel of the first tap
  bool is_pixel;

  __device__ GradientColumns(
      const Conv& conv, const Phase& phase, const Incoming<T>& incoming, int64_t slot, int first)
      : conv(conv), phase(phase), incoming(incoming), slot(slot) {
    const int pixel = first + Layout::index(0), row = phase.by_pixels_x.divide(pixel);
    is_pixel = pixel < phase.pixels;
    y = phase.y.start + row;
    x = phase.x.start + pixel - row * phase.x.pixels;
  }

  __device__ void load(int chunk, T (&values)[kPsLoads]) const {
#pragma unroll
    for (int i = 0; i < kPsLoads; ++i) {
      const int k = chunk * kPsDepth + Layout::k(i);
      const Term term(phase, k);
      const int oy = y - term.tap_y * phase.y.back, ox = x - term.tap_x * phase.x.back;
      const bool is_there =
          is_pixel && k < phase.depth && oy >= 0 && oy < conv.hout && ox >= 0 && ox < conv.wout;
      const int64_t at = (slot * conv.cout + term.channel) * conv.pixels + oy * conv.wout + ox;
      values[i] = is_there ? incoming.at(at, term.channel) : T(0);
    }
  }
};

template <typename T, typename Product>
__global__ void __launch_bounds__(kPsThreads) slot_backward_kernel(
    Conv conv, BackwardArgs<T> args, Clock clock, int column_tiles, int tiles) {
  EFT_SHARED(T, shared, (slot_shared_size<WeightColumns<T>, GradientColumns<T>>()));
  const int64_t slot = blockIdx.x / tiles;
  if (!clock.is_active(slot)) return;
  const int tile = blockIdx.x % tiles, phase_columns = column_tiles * conv.sh * conv.sw;
  const int first_row = tile / phase_columns * kPsTile;
  const int first_column = tile % column_tiles * kPsTile;
  const Phase phase(conv, tile % phase_columns / column_tiles);
  if (first_column >= phase.pixels) return;
  WeightColumns<T> weights{conv,
                           phase,
                           SlotWeights<T>(args.weights, slot, conv.weight_size, clock.is_new(slot)),
                           first_row + Columns::index(0)};
  GradientColumns<T> gradients(conv, phase, args.incoming, slot, first_column);
  const int chunks = (phase.depth + kPsDepth - 1) / kPsDepth;
  multiply_tile<Product>(weights, gradients, 0, chunks, shared, [&](int m, int n, T sum) {
    const int channel = first_row + m, pixel = first_column + n;
    if (channel >= conv.cin || pixel >= phase.pixels) return;
    const int row = phase.by_pixels_x.divide(pixel), column = pixel - row * phase.x.pixels;
    const int y = phase.y.phase + row * phase.y.stride, x = phase.x.phase + column * phase.x.stride;
    const int64_t at = ((slot * conv.cin + channel) * conv.hin + y) * conv.win + x;
    args.g_x[at] = args.add ? sum + args.add[at] : sum;
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
  const int64_t most_pixels = divide_up(shape.hin, shape.sh) * divide_up(shape.win, shape.sw);
  const int64_t column_tiles = divide_up(most_pixels, kPsTile);
  const int64_t tiles = divide_up(shape.cin, kPsTile) * column_tiles * shape.sh * shape.sw;
  const bool is_known = with_product(T(0), arithmetic, [&](auto product) {
    EFT_LAUNCH((slot_backward_kernel<T, decltype(product)>),
               grid_of(shape.slots * tiles),
               kPsThreads,
               0,
               stream,
               conv,
               args,
               clock,
               static_cast<int>(column_tiles),
               static_cast<int>(tiles));
  });
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
