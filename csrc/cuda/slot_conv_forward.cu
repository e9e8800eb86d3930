// slot_conv_fwd: the convolution of every slot with its own weights, as a product of
// [out channels] x [taps x in channels] with the patches of the input, which are never stored.
//
// A block makes 128 channels of 64 pixels. The blocks of one slot come one after the other, so
// those in flight share its input and its weights; the start weights stay in the L2 cache for all
// slots.
//
// Three ways to read the patches: as a matrix (one tap, stride 1), tap by tap (a multiple of 16
// channels: a chunk has one tap), or term by term (everything else, and float64).
#include "slot_conv.h"
#include "slot_operands.h"

namespace eft_fast {
namespace {

template <typename T>
struct ForwardArgs {
  const T* x;
  Weights<T> weights, bias;
  ConvEnd<T> end;
  T* out;
};

// ---- weights: rows are output channels, a row beyond the last repeats it ------------------------

// Start and difference are added on the way to shared memory, so that loads stay in flight.
template <typename S>
struct WeightUnits : UnitsAlongSum<128, true> {
  OwnWeights<float, S> weights;
  int offset[kLoads];
  Four<float> start[kLoads];
  Four<S> delta[kLoads] = {};

  __device__ WeightUnits(const OwnWeights<float, S>& weights, int first, int rows, int depth)
      : weights(weights) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) offset[i] = min(first + index(i), rows - 1) * depth + k();
  }

  __device__ void load(int chunk) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      start[i] = load_four(weights.start + offset[i] + chunk * kPsDepth);
    }
    if (!weights.delta) return;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      delta[i] = load_four(weights.delta + offset[i] + chunk * kPsDepth);
    }
  }

  template <typename Product>
  __device__ void store(float* tile) const {
    UnitsAlongSum<128, true>::store<Product>(
        tile, [&](int i, int e) { return start[i].at[e] + from_state(delta[i].at[e]); });
  }
};

template <typename T, int kRows>
struct WeightTerms : AlongSum<T, kRows, true> {
  using Shape = AlongSum<T, kRows, true>;
  SlotWeights<T> weights;
  int first, rows, depth;
  T values[Shape::kLoads];

  __device__ WeightTerms(const SlotWeights<T>& weights, int first, int rows, int depth)
      : weights(weights), first(first), rows(rows), depth(depth) {}

  __device__ void load(int chunk) {
    const int k = chunk * kPsDepth + Shape::k();
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const int row = first + Shape::index(i);
      values[i] = row < rows && k < depth ? weights.at(row * depth + k) : T(0);
    }
  }

  template <typename Product>
  __device__ void store(T* tile) const {
    Shape::template store<Product>(tile, [&](int i) { return values[i]; });
  }
};

// ---- patches: columns are output pixels ---------------------------------------------------------

// One tap, stride 1, pixels a multiple of four: the input as it lies. Pixels beyond the last repeat
// others.
struct PatchMatrix : PairsAcrossSum {
  const float* x;
  int pixels;
  Four<float> values[2];

  __device__ PatchMatrix(const Conv& conv, const float* image, int first)
      : x(image + static_cast<int64_t>(k()) * conv.pixels + min(first + index(), conv.pixels - 4)),
        pixels(conv.pixels) {}

  __device__ void load(int) {
#pragma unroll
    for (int j = 0; j < 2; ++j) values[j] = load_four(x + j * static_cast<int64_t>(pixels));
    x += static_cast<int64_t>(kPsDepth) * pixels;
  }

  template <typename Product>
  __device__ void store(float* tile) const {
    PairsAcrossSum::store<Product>(tile, [&](int e, int j) { return values[j].at[e]; });
  }
};

// A chunk is 16 channels of one tap; a thread keeps one pixel.
struct PatchTaps : AcrossSum<float, 64, false> {
  const Conv& conv;
  const float* image;
  int top, left, plane, channel = 0, ky = 0, kx = 0;
  bool is_pixel, is_inside;
  const float* x;
  float values[kLoads];

  __device__ PatchTaps(const Conv& conv, const float* image, int first)
      : conv(conv), image(image), plane(conv.hin * conv.win) {
    const int pixel = first + index(), row = conv.by_wout.divide(pixel);
    is_pixel = pixel < conv.pixels;
    top = row * conv.sh - conv.ph;
    left = (pixel - row * conv.wout) * conv.sw - conv.pw;
    turn_to_tap();
  }

  __device__ void turn_to_tap() {
    const int at = conv.input_at(0, top, left, ky, kx);
    is_inside = is_pixel && at >= 0;
    x = image + (is_inside ? k() * plane + at : 0);
  }

  __device__ void load(int) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      values[j] = is_inside ? x[j * static_cast<int64_t>(plane)] : 0.0f;
    }
    x += static_cast<int64_t>(kPsDepth) * plane;
    channel += kPsDepth;
    if (channel < conv.cin) return;
    channel = 0;
    if (++kx == conv.kw) kx = 0, ++ky;
    turn_to_tap();
  }

  template <typename Product>
  __device__ void store(float* tile) const {
    AcrossSum<float, 64, false>::store<Product>(tile, [&](int i) { return values[i]; });
  }
};

template <typename T, int kColumns>
struct PatchTerms : AcrossSum<T, kColumns, false> {
  using Shape = AcrossSum<T, kColumns, false>;
  const Conv& conv;
  const T* x;
  int top, left;
  bool is_pixel;
  T values[Shape::kLoads];

  __device__ PatchTerms(const Conv& conv, const T* x, int first) : conv(conv), x(x) {
    const int pixel = first + Shape::index(), row = conv.by_wout.divide(pixel);
    is_pixel = pixel < conv.pixels;
    top = row * conv.sh - conv.ph;
    left = (pixel - row * conv.wout) * conv.sw - conv.pw;
  }

  __device__ void load(int chunk) {
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const int k = chunk * kPsDepth + Shape::k() + i;
      const int tap = conv.by_in.divide(k), ci = k - tap * conv.cin;
      const int ky = conv.by_kw.divide(tap), kx = tap - ky * conv.kw;
      const int at = is_pixel && k < conv.depth ? conv.input_at(ci, top, left, ky, kx) : -1;
      values[i] = at >= 0 ? x[at] : T(0);
    }
  }

  template <typename Product>
  __device__ void store(T* tile) const {
    Shape::template store<Product>(tile, [&](int i) { return values[i]; });
  }
};

// ---- the kernel ---------------------------------------------------------------------------------

// Which loaders a kernel has. S is the type of the state, Own the weights of a slot.
template <typename S>
struct AsMatrix {
  static constexpr int kBlocks = 3;
  using Own = OwnWeights<float, S>;
  template <typename Product>
  using Rows = WeightUnits<S>;
  template <typename Product>
  using Columns = PatchMatrix;
};

template <typename S>
struct TapByTap : AsMatrix<S> {
  template <typename Product>
  using Columns = PatchTaps;
};

template <typename T>
struct TermByTerm {
  static constexpr int kBlocks = 2;
  using Own = SlotWeights<T>;
  template <typename Product>
  using Rows = WeightTerms<T, Product::kRows>;
  template <typename Product>
  using Columns = PatchTerms<T, Product::kColumns>;
};

template <typename T, typename Product, typename Way>
__global__ void __launch_bounds__(kPsThreads, blocks_of<Product, Way>())
    slot_forward_kernel(Conv conv, ForwardArgs<T> args, Clock clock, int column_tiles, int tiles) {
  EFT_SHARED(T, shared, slot_shared_size<Product>());
  const int64_t slot = blockIdx.x / tiles;
  if (!clock.is_active(slot)) return;
  const bool is_new = clock.is_new(slot);
  const int tile = blockIdx.x % tiles;
  const int first_row = tile / column_tiles * Product::kRows;
  const int first_column = tile % column_tiles * Product::kColumns;
  using Rows = typename Way::template Rows<Product>;
  using Columns = typename Way::template Columns<Product>;
  Rows weights(typename Way::Own(args.weights, slot, conv.weight_size, is_new),
               first_row,
               conv.cout,
               conv.depth);
  Columns patches(conv, args.x + slot * conv.in_size, first_column);
  const int chunks = (conv.depth + kPsDepth - 1) / kPsDepth;
  multiply_tile<Product>(weights, patches, 0, chunks, shared);
  const SlotWeights<T> bias(args.bias, slot, conv.cout, is_new);
  finish_tile<Product, Rows, Columns>(shared, [&](int m, int n, T sum) {
    const int channel = first_row + m, pixel = first_column + n;
    if (channel >= conv.cout || pixel >= conv.pixels) return;
    const int64_t at = slot * conv.out_size + static_cast<int64_t>(channel) * conv.pixels + pixel;
    args.out[at] = args.end.finish(sum, bias, channel, at);
  });
}

template <typename Way, typename T, typename Product>
void launch_tiles(const ConvShape& shape,
                  const Conv& conv,
                  const ForwardArgs<T>& args,
                  const Clock& clock,
                  Product,
                  void* stream) {
  const int64_t column_tiles = divide_up(conv.pixels, Product::kColumns);
  const int64_t tiles = divide_up(conv.cout, Product::kRows) * column_tiles;
  EFT_LAUNCH((slot_forward_kernel<T, Product, Way>),
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
                const ForwardArgs<T>& args,
                int64_t arithmetic,
                const Clock& clock,
                void* stream) {
  const bool has_taps = conv.cin % kPsDepth == 0;
  const bool is_matrix = conv.is_pointwise() && conv.pixels % 4 == 0 && holds_fours(args.x, 4);
  return with_way<AsMatrix, TapByTap, TermByTerm>(
      args.weights, has_taps, is_matrix, arithmetic, [&](auto way, auto product) {
        launch_tiles<decltype(way)>(shape, conv, args, clock, product, stream);
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
  const bool is_known = launch_way(shape, conv, args, arithmetic, clock, stream);
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
