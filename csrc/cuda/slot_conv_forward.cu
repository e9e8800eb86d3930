// slot_conv_fwd: the convolution of every slot with its own weights, as a product of
// [out channels] x [in channels x taps] with the patches of the input, which are never stored.
//
// A block makes 64 channels of 64 pixels. The blocks of one slot come one after the other, so those
// in flight share its input and its weights; the start weights stay in the L2 cache for all slots.
#include "slot_conv.h"
#include "slot_product.h"

namespace eft_fast {
namespace {

template <typename T>
struct ForwardArgs {
  const T* x;
  Weights<T> weights, bias;
  ConvEnd<T> end;
  T* out;
};

// Rows are output channels.
template <typename T>
struct WeightRows {
  using Layout = Rows;
  SlotWeights<T> weights;
  int first, rows, depth;

  __device__ void load(int chunk, T (&values)[kPsLoads]) const {
    const int k = chunk * kPsDepth + Layout::k(0);
#pragma unroll
    for (int i = 0; i < kPsLoads; ++i) {
      const int row = first + Layout::index(i);
      values[i] =
          row < rows && k < depth ? weights.at(static_cast<int64_t>(row) * depth + k) : T(0);
    }
  }
};

// Columns are output pixels; a thread keeps one.
template <typename T>
struct PatchColumns {
  using Layout = Columns;
  const Conv& conv;
  const T* x;
  int top, left;
  bool is_pixel;

  __device__ PatchColumns(const Conv& conv, const T* x, int first) : conv(conv), x(x) {
    const int pixel = first + Layout::index(0), row = conv.by_wout.divide(pixel);
    is_pixel = pixel < conv.pixels;
    top = row * conv.sh - conv.ph;
    left = (pixel - row * conv.wout) * conv.sw - conv.pw;
  }

  __device__ void load(int chunk, T (&values)[kPsLoads]) const {
#pragma unroll
    for (int i = 0; i < kPsLoads; ++i) {
      const int k = chunk * kPsDepth + Layout::k(i);
      const int ci = conv.by_area.divide(k), tap = k - ci * conv.area;
      const int ky = conv.by_kw.divide(tap), kx = tap - ky * conv.kw;
      const int at = is_pixel && k < conv.depth ? conv.input_at(ci, top, left, ky, kx) : -1;
      values[i] = at >= 0 ? x[at] : T(0);
    }
  }
};

template <typename T, typename Product>
__global__ void __launch_bounds__(kPsThreads)
    slot_forward_kernel(Conv conv, ForwardArgs<T> args, Clock clock, int column_tiles, int tiles) {
  EFT_SHARED(T, shared, (slot_shared_size<WeightRows<T>, PatchColumns<T>>()));
  const int64_t slot = blockIdx.x / tiles;
  if (!clock.is_active(slot)) return;
  const bool is_new = clock.is_new(slot);
  const int tile = blockIdx.x % tiles;
  const int first_row = tile / column_tiles * kPsTile, first_column = tile % column_tiles * kPsTile;
  WeightRows<T> weights{SlotWeights<T>(args.weights, slot, conv.weight_size, is_new),
                        first_row,
                        conv.cout,
                        conv.depth};
  PatchColumns<T> patches(conv, args.x + slot * conv.in_size, first_column);
  const SlotWeights<T> bias(args.bias, slot, conv.cout, is_new);
  const int chunks = (conv.depth + kPsDepth - 1) / kPsDepth;
  multiply_tile<Product>(weights, patches, 0, chunks, shared, [&](int m, int n, T sum) {
    const int channel = first_row + m, pixel = first_column + n;
    if (channel >= conv.cout || pixel >= conv.pixels) return;
    const int64_t at = slot * conv.out_size + static_cast<int64_t>(channel) * conv.pixels + pixel;
    args.out[at] = args.end.finish(sum, bias, channel, at);
  });
}

template <typename T>
int conv_forward(const ConvShape& shape,
                 const ForwardArgs<T>& args,
                 int64_t arithmetic,
                 const Clock& clock,
                 void* stream) {
  if (!is_countable(shape)) return cudaErrorInvalidValue;
  const Conv conv(shape);
  if (shape.slots * conv.out_size == 0) return cudaSuccess;
  if (shape.groups > 1) {
    launch_grouped_forward(
        shape, args.x, args.weights, args.bias, args.end, args.out, clock, stream);
    return cudaGetLastError();
  }
  const int64_t column_tiles = divide_up(conv.pixels, kPsTile);
  const int64_t tiles = divide_up(conv.cout, kPsTile) * column_tiles;
  const bool is_known = with_product(T(0), arithmetic, [&](auto product) {
    EFT_LAUNCH((slot_forward_kernel<T, decltype(product)>),
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

#define EFT_SLOT_FORWARD_CALL(T)                                                       \
  eft_fast::conv_forward<T>(*reinterpret_cast<const eft_fast::ConvShape*>(conv_shape), \
                            {x,                                                        \
                             {start, delta, state == eft_fast::kBf16State},            \
                             {bias, bias_delta, state == eft_fast::kBf16State},        \
                             {scale, shift, residual, static_cast<int>(activation)},   \
                             out},                                                     \
                            arithmetic,                                                \
                            {time, active},                                            \
                            stream)

EFT_SLOT_CONV_FORWARD(eft_slot_conv_forward_f32, float) { return EFT_SLOT_FORWARD_CALL(float); }
EFT_SLOT_CONV_FORWARD(eft_slot_conv_forward_f64, double) { return EFT_SLOT_FORWARD_CALL(double); }
