// slot_conv_wgrad_adam: the gradient of every slot's own weights, and Adam with it while it is in
// registers; no gradient is stored.
//
// A product of [out channels] x [pixels] with the patches, summed over the pixels. Maps of more
// than kPartPixels are summed in parts of that many, whose sums meet in Adam's kernel in order.
#include "slot_conv.h"
#include "slot_product.h"

namespace eft_fast {
namespace {

// Rows are output channels, the sum runs over pixels.
template <typename T>
struct GradientRows {
  using Layout = Rows;
  const Conv& conv;
  const Incoming<T>& incoming;
  int64_t slot;
  int first;

  __device__ void load(int chunk, T (&values)[kPsLoads]) const {
    const int pixel = chunk * kPsDepth + Layout::k(0);
#pragma unroll
    for (int i = 0; i < kPsLoads; ++i) {
      const int channel = first + Layout::index(i);
      const bool is_there = channel < conv.cout && pixel < conv.pixels;
      const int64_t at = (slot * conv.cout + channel) * conv.pixels + pixel;
      values[i] = is_there ? incoming.at(at, channel) : T(0);
    }
  }
};

// Rows are weights of one output channel: input channel and tap; a thread keeps eight.
template <typename T>
struct PatchRows {
  using Layout = Rows;
  const Conv& conv;
  const T* x;
  int ci[kPsLoads], ky[kPsLoads], kx[kPsLoads];
  bool is_weight[kPsLoads];

  __device__ PatchRows(const Conv& conv, const T* x, int first) : conv(conv), x(x) {
#pragma unroll
    for (int i = 0; i < kPsLoads; ++i) {
      const int k = first + Layout::index(i);
      is_weight[i] = k < conv.depth;
      ci[i] = conv.by_area.divide(k);
      const int tap = k - ci[i] * conv.area;
      ky[i] = conv.by_kw.divide(tap);
      kx[i] = tap - ky[i] * conv.kw;
    }
  }

  __device__ void load(int chunk, T (&values)[kPsLoads]) const {
    const int pixel = chunk * kPsDepth + Layout::k(0), row = conv.by_wout.divide(pixel);
    const int top = row * conv.sh - conv.ph, left = (pixel - row * conv.wout) * conv.sw - conv.pw;
#pragma unroll
    for (int i = 0; i < kPsLoads; ++i) {
      const bool is_there = is_weight[i] && pixel < conv.pixels;
      const int at = is_there ? conv.input_at(ci[i], top, left, ky[i], kx[i]) : -1;
      values[i] = at >= 0 ? x[at] : T(0);
    }
  }
};

template <typename T>
struct UpdateArgs {
  Incoming<T> incoming;
  const T* x;
  T* sums;  // [slots][parts][weights], or null: Adam at once
  Adam adam;
};

template <typename T, typename Product>
__global__ void __launch_bounds__(kPsThreads) slot_update_kernel(
    Conv conv, UpdateArgs<T> args, Clock clock, int column_tiles, int tiles, int parts) {
  EFT_SHARED(T, shared, (slot_shared_size<GradientRows<T>, PatchRows<T>>()));
  const int64_t slot = blockIdx.x / tiles;
  if (!takes_update(args.adam, clock, slot)) return;
  const int tile = blockIdx.x % tiles / parts, part = blockIdx.x % parts;
  const int first_row = tile / column_tiles * kPsTile, first_column = tile % column_tiles * kPsTile;
  GradientRows<T> gradients{conv, args.incoming, slot, first_row};
  PatchRows<T> patches(conv, args.x + slot * conv.in_size, first_column);
  constexpr int kPartChunks = static_cast<int>(kPartPixels / kPsDepth);
  const int begin = part * kPartChunks;
  const int end = min(begin + kPartChunks, (conv.pixels + kPsDepth - 1) / kPsDepth);
  const AdamStep<T> adam(args.adam, clock, slot);
  multiply_tile<Product>(gradients, patches, begin, end, shared, [&](int m, int n, T sum) {
    const int channel = first_row + m, weight = first_column + n;
    if (channel >= conv.cout || weight >= conv.depth) return;
    const int64_t at = static_cast<int64_t>(channel) * conv.depth + weight;
    if (args.sums) {
      args.sums[(slot * parts + part) * conv.weight_size + at] = sum;
    } else {
      adam.update(slot * conv.weight_size + at, sum);
    }
  });
}

template <typename T>
int conv_update(const ConvShape& shape,
                UpdateArgs<T> args,
                int64_t arithmetic,
                const Clock& clock,
                void* stream) {
  if (!is_countable(shape) || !clock.time) return cudaErrorInvalidValue;
  const Conv conv(shape);
  if (shape.slots * conv.weight_size == 0) return cudaSuccess;
  if (shape.groups > 1) {
    launch_grouped_update(shape, args.incoming, args.x, args.adam, clock, stream);
    return cudaGetLastError();
  }
  const int64_t column_tiles = divide_up(conv.depth, kPsTile), parts = parts_of(conv.pixels);
  const int64_t tiles = divide_up(conv.cout, kPsTile) * column_tiles * parts;
  if (parts == 1) args.sums = nullptr;
  if (parts > 1 && !args.sums) return cudaErrorInvalidValue;
  const bool is_known = with_product(T(0), arithmetic, [&](auto product) {
    EFT_LAUNCH((slot_update_kernel<T, decltype(product)>),
               grid_of(shape.slots * tiles),
               kPsThreads,
               0,
               stream,
               conv,
               args,
               clock,
               static_cast<int>(column_tiles),
               static_cast<int>(tiles),
               static_cast<int>(parts));
  });
  if (!is_known) return cudaErrorInvalidValue;
  if (parts > 1) {
    launch_adam<T>(shape.slots, parts, conv.weight_size, args.sums, args.adam, clock, stream);
  }
  return cudaGetLastError();
}

}  // namespace
}  // namespace eft_fast

#define EFT_SLOT_UPDATE_CALL(T)                                                        \
  eft_fast::conv_update<T>(                                                            \
      *reinterpret_cast<const eft_fast::ConvShape*>(conv_shape),                       \
      {{g, y, scale, static_cast<int>(activation)}, x, workspace, EFT_SLOT_PACK_ADAM}, \
      arithmetic,                                                                      \
      {time, active},                                                                  \
      stream)

EFT_SLOT_CONV_UPDATE(eft_slot_conv_update_f32, float) { return EFT_SLOT_UPDATE_CALL(float); }
EFT_SLOT_CONV_UPDATE(eft_slot_conv_update_f64, double) { return EFT_SLOT_UPDATE_CALL(double); }
