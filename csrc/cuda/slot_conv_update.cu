// slot_conv_wgrad_adam: the gradient of every slot's own weights, and Adam with it while it is in
// shared memory; no gradient is stored.
//
// A product of [out channels] x [pixels] with the patches, summed over the pixels. Maps of more
// than kPartPixels are summed in parts of that many, whose sums meet in Adam's kernel in order.
//
// Four ways: as matrices that lie in memory (one tap, stride 1, pixels a multiple of four); tap by
// tap (a multiple of 64 channels in: a tile has one tap) with gradients in fours or, for maps of
// odd sizes and a multiple of 128 channels out, pixel by pixel; and term by term (everything else,
// and float64).
#include "slot_conv.h"
#include "slot_operands.h"

namespace eft_fast {
namespace {

template <typename T>
struct UpdateArgs {
  Incoming<T> incoming;
  const T* x;
  T* sums;  // [slots][parts][weights], or null: Adam at once
  Adam adam;
  bool in_fours;  // state and sums can be moved so
};

// ---- gradients: rows are output channels, the sum runs over pixels ------------------------------
// The scale of batch norm is that of a row: it waits for the end.

__device__ inline float masked(float g, float y, float above) {
  return y <= 0.0f || y > above ? 0.0f : g;
}

struct GradientUnits : UnitsAlongSum<128, true> {
  using Shape = UnitsAlongSum<128, true>;
  const float *g, *y;
  int pixels, offset[kLoads];
  float above;
  Four<float> values[kLoads], outs[kLoads];

  __device__ GradientUnits(const Conv& conv,
                           const Incoming<float>& incoming,
                           int64_t slot,
                           int first)
      : g(incoming.g + slot * conv.out_size),
        y(incoming.activation == kNoActivation ? nullptr : incoming.y + slot * conv.out_size),
        pixels(conv.pixels),
        above(incoming.above()) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      offset[i] = min(first + index(i), conv.cout - 1) * conv.pixels + k();
      outs[i] = {1, 1, 1, 1};
    }
  }

  __device__ void load(int chunk) {
    const bool is_there = chunk * kPsDepth + k() < pixels;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      values[i] = is_there ? load_four(g + offset[i] + chunk * kPsDepth) : Four<float>{};
    }
    if (!y || !is_there) return;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) outs[i] = load_four(y + offset[i] + chunk * kPsDepth);
  }

  template <typename Product>
  __device__ void store(float* tile) const {
    Shape::store<Product>(
        tile, [&](int i, int e) { return masked(values[i].at[e], outs[i].at[e], above); });
  }
};

// kFull: every tile has all its rows.
template <typename T, int kRows, bool kFull>
struct GradientTerms : AlongSum<T, kRows, true> {
  using Shape = AlongSum<T, kRows, true>;
  const T *g, *y;
  int pixels, rows;  // rows from this thread's first one to the last
  T above, values[Shape::kLoads], outs[Shape::kLoads];

  __device__ GradientTerms(const Conv& conv, const Incoming<T>& incoming, int64_t slot, int first)
      : y(nullptr),
        pixels(conv.pixels),
        rows(conv.cout - first - Shape::index(0)),
        above(incoming.above()) {
    const int64_t row = slot * conv.cout + first + Shape::index(0);
    g = incoming.g + row * pixels + Shape::k();
    if (incoming.activation != kNoActivation) y = incoming.y + row * pixels + Shape::k();
#pragma unroll
    for (auto& out : outs) out = 1;
  }

  __device__ void fetch(const T* from, T (&target)[Shape::kLoads]) const {
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const int row = Shape::step(i);
      target[i] = kFull || row < rows ? from[row * static_cast<int64_t>(pixels)] : T(0);
    }
  }

  __device__ void load(int chunk) {
    const bool is_there = chunk * kPsDepth + Shape::k() < pixels;
    if (!is_there) {
#pragma unroll
      for (auto& value : values) value = 0;
      return;
    }
    fetch(g + chunk * kPsDepth, values);
    if (y) fetch(y + chunk * kPsDepth, outs);
  }

  template <typename Product>
  __device__ void store(T* tile) const {
    Shape::template store<Product>(
        tile, [&](int i) { return outs[i] <= T(0) || outs[i] > above ? T(0) : values[i]; });
  }
};

// ---- patches: rows are weights of one output channel, tap and input channel
// ----------------------

struct PatchUnits : UnitsAlongSum<64, false> {
  using Shape = UnitsAlongSum<64, false>;
  const float* x;
  int pixels, offset[kLoads];
  Four<float> values[kLoads];

  __device__ PatchUnits(const Conv& conv, const float* image, int first)
      : x(image), pixels(conv.pixels) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      offset[i] = min(first + index(i), conv.cin - 1) * conv.pixels + k();
    }
  }

  __device__ void load(int chunk) {
    const bool is_there = chunk * kPsDepth + k() < pixels;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      values[i] = is_there ? load_four(x + offset[i] + chunk * kPsDepth) : Four<float>{};
    }
  }

  template <typename Product>
  __device__ void store(float* tile) const {
    Shape::store<Product>(tile, [&](int i, int e) { return values[i].at[e]; });
  }
};

// All weights of the tile have one tap: a thread works out its pixel once for eight channels.
struct PatchTaps : AlongSum<float, 64, false> {
  using Shape = AlongSum<float, 64, false>;
  const Conv& conv;
  const float* image;  // of this thread's first channel
  int ky, kx, plane;
  float values[kLoads];

  __device__ PatchTaps(const Conv& conv, const float* image, int first)
      : conv(conv), plane(conv.hin * conv.win) {
    const int tap = conv.by_in.divide(first), channel = first - tap * conv.cin;
    ky = conv.by_kw.divide(tap);
    kx = tap - ky * conv.kw;
    this->image = image + static_cast<int64_t>(channel + index(0)) * plane;
  }

  __device__ void load(int chunk) {
    const int pixel = chunk * kPsDepth + k(), row = conv.by_wout.divide(pixel);
    const int top = row * conv.sh - conv.ph, left = (pixel - row * conv.wout) * conv.sw - conv.pw;
    const int at = pixel < conv.pixels ? conv.input_at(0, top, left, ky, kx) : -1;
    const bool is_inside = at >= 0;
    const float* const x = image + (is_inside ? at : 0);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      values[i] = is_inside ? x[8 * i * static_cast<int64_t>(plane)] : 0.0f;
    }
  }

  template <typename Product>
  __device__ void store(float* tile) const {
    Shape::store<Product>(tile, [&](int i) { return values[i]; });
  }
};

template <typename T, int kColumns>
struct PatchTerms : AlongSum<T, kColumns, false> {
  using Shape = AlongSum<T, kColumns, false>;
  const Conv& conv;
  const T* x;
  int ci[Shape::kLoads], ky[Shape::kLoads], kx[Shape::kLoads];
  bool is_weight[Shape::kLoads];
  T values[Shape::kLoads];

  __device__ PatchTerms(const Conv& conv, const T* x, int first) : conv(conv), x(x) {
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const int k = first + Shape::index(i), tap = conv.by_in.divide(k);
      is_weight[i] = k < conv.depth;
      ci[i] = k - tap * conv.cin;
      ky[i] = conv.by_kw.divide(tap);
      kx[i] = tap - ky[i] * conv.kw;
    }
  }

  __device__ void load(int chunk) {
    const int pixel = chunk * kPsDepth + Shape::k(), row = conv.by_wout.divide(pixel);
    const int top = row * conv.sh - conv.ph, left = (pixel - row * conv.wout) * conv.sw - conv.pw;
#pragma unroll
    for (int i = 0; i < Shape::kLoads; ++i) {
      const bool is_there = is_weight[i] && pixel < conv.pixels;
      const int at = is_there ? conv.input_at(ci[i], top, left, ky[i], kx[i]) : -1;
      values[i] = at >= 0 ? x[at] : T(0);
    }
  }

  template <typename Product>
  __device__ void store(T* tile) const {
    Shape::template store<Product>(tile, [&](int i) { return values[i]; });
  }
};

// ---- the kernel
// ----------------------------------------------------------------------------------

// Which loaders a kernel has.
struct AsMatrix {
  static constexpr int kBlocks = 3;
  template <typename Product>
  using Rows = GradientUnits;
  template <typename Product>
  using Columns = PatchUnits;
};

struct TapByTap {
  static constexpr int kBlocks = 3;
  template <typename Product>
  using Rows = GradientUnits;
  template <typename Product>
  using Columns = PatchTaps;
};

struct TapByPixel {
  static constexpr int kBlocks = 3;
  template <typename Product>
  using Rows = GradientTerms<float, Product::kRows, true>;
  template <typename Product>
  using Columns = PatchTaps;
};

struct TermByTerm {
  static constexpr int kBlocks = 2;
  template <typename Product>
  using Rows = GradientTerms<typename Product::Type, Product::kRows, false>;
  template <typename Product>
  using Columns = PatchTerms<typename Product::Type, Product::kColumns>;
};

// Adam, or a part's sums, from the tile that lies in shared memory.
template <typename Product, typename T, typename S>
__device__ inline void update_weights(const Conv& conv,
                                      const UpdateArgs<T>& args,
                                      const Clock& clock,
                                      int64_t slot,
                                      T* sums,
                                      int first_row,
                                      int first_column,
                                      const T* shared) {
  const AdamStep<T, S> adam(args.adam, clock, slot);
  const int64_t first = slot * conv.weight_size;
  const T* const scale = args.incoming.scale;
  finish_fours<Product>(shared, [&](int m, int n, Four<T> gradient) {
    const int channel = first_row + m, weight = first_column + n;
    if (channel >= conv.cout || weight >= conv.depth) return;
    const T factor = scale ? scale[channel] : T(1);
#pragma unroll
    for (int e = 0; e < 4; ++e) gradient.at[e] *= factor;
    const int64_t at = static_cast<int64_t>(channel) * conv.depth + weight;
    if (args.in_fours) {
      if (sums) {
        store_four(sums + at, gradient);
      } else {
        adam.update_four(first + at, gradient);
      }
      return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (weight + e >= conv.depth) break;
      if (sums) {
        sums[at + e] = gradient.at[e];
      } else {
        adam.update(first + at + e, gradient.at[e]);
      }
    }
  });
}

template <typename T, typename Product, typename Way>
__global__ void __launch_bounds__(kPsThreads, blocks_of<Product, Way>()) slot_update_kernel(
    Conv conv, UpdateArgs<T> args, Clock clock, int column_tiles, int tiles, int parts) {
  EFT_SHARED(T, shared, slot_shared_size<Product>());
  const int64_t slot = blockIdx.x / tiles;
  if (!takes_update(args.adam, clock, slot)) return;
  const int tile = blockIdx.x % tiles / parts, part = blockIdx.x % parts;
  const int first_row = tile / column_tiles * Product::kRows;
  const int first_column = tile % column_tiles * Product::kColumns;
  typename Way::template Rows<Product> gradients(conv, args.incoming, slot, first_row);
  typename Way::template Columns<Product> patches(conv, args.x + slot * conv.in_size, first_column);
  constexpr int kPartChunks = static_cast<int>(kPartPixels / kPsDepth);
  const int begin = part * kPartChunks;
  const int end = min(begin + kPartChunks, (conv.pixels + kPsDepth - 1) / kPsDepth);
  multiply_tile<Product>(gradients, patches, begin, end, shared);
  T* const sums = args.sums ? args.sums + (slot * parts + part) * conv.weight_size : nullptr;
  if constexpr (sizeof(T) == 4) {
    if (args.adam.is_bf16) {
      update_weights<Product, T, Bf16>(
          conv, args, clock, slot, sums, first_row, first_column, shared);
      return;
    }
  }
  update_weights<Product, T, T>(conv, args, clock, slot, sums, first_row, first_column, shared);
}

template <typename Way, typename T, typename Product>
void launch_tiles(const ConvShape& shape,
                  const Conv& conv,
                  const UpdateArgs<T>& args,
                  const Clock& clock,
                  Product,
                  void* stream) {
  const int64_t parts = parts_of(conv.pixels);
  const int64_t column_tiles = divide_up(conv.depth, Product::kColumns);
  const int64_t tiles = divide_up(conv.cout, Product::kRows) * column_tiles * parts;
  EFT_LAUNCH((slot_update_kernel<T, Product, Way>),
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
}

bool launch_way(const ConvShape& shape,
                const Conv& conv,
                const UpdateArgs<float>& args,
                int64_t arithmetic,
                const Clock& clock,
                void* stream) {
  const bool in_fours =
      conv.pixels % 4 == 0 && holds_fours(args.incoming.g, 4) && holds_fours(args.incoming.y, 4);
  return with_product(0.0f, arithmetic, [&](auto product) {
    using Product = decltype(product);
    if (conv.is_pointwise() && in_fours && holds_fours(args.x, 4)) {
      launch_tiles<AsMatrix>(shape, conv, args, clock, product, stream);
    } else if (in_fours && conv.cin % Product::kColumns == 0) {
      launch_tiles<TapByTap>(shape, conv, args, clock, product, stream);
    } else if (conv.cin % Product::kColumns == 0 && conv.cout % Product::kRows == 0) {
      launch_tiles<TapByPixel>(shape, conv, args, clock, product, stream);
    } else {
      launch_tiles<TermByTerm>(shape, conv, args, clock, product, stream);
    }
  });
}

bool launch_way(const ConvShape& shape,
                const Conv& conv,
                const UpdateArgs<double>& args,
                int64_t arithmetic,
                const Clock& clock,
                void* stream) {
  return with_product(0.0, arithmetic, [&](auto product) {
    launch_tiles<TermByTerm>(shape, conv, args, clock, product, stream);
  });
}

template <typename T>
int conv_update(const ConvShape& shape,
                UpdateArgs<T> args,
                int64_t arithmetic,
                const Clock& clock,
                void* stream) {
  if (!is_countable(shape) || !clock.time) return cudaErrorInvalidValue;
  if (args.adam.is_bf16 && sizeof(T) != 4) return cudaErrorInvalidValue;
  const Conv conv(shape);
  if (shape.slots * conv.weight_size == 0) return cudaSuccess;
  if (shape.groups > 1) {
    launch_grouped_update(shape, args.incoming, args.x, args.adam, clock, stream);
    return cudaGetLastError();
  }
  const int64_t parts = parts_of(conv.pixels);
  if (parts == 1) args.sums = nullptr;
  if (parts > 1 && !args.sums) return cudaErrorInvalidValue;
  args.in_fours = conv.depth % 4 == 0 && holds_fours<T>(args.adam, conv.weight_size) &&
                  holds_fours(args.sums, sizeof(T));
  if (!launch_way(shape, conv, args, arithmetic, clock, stream)) return cudaErrorInvalidValue;
  if (parts > 1) {
    launch_adam<T>(shape.slots, parts, conv.weight_size, args.sums, args.adam, clock, stream);
  }
  return cudaGetLastError();
}

}  // namespace
}  // namespace eft_fast

#define EFT_SLOT_UPDATE_CALL(T)                                                               \
  eft_fast::conv_update<T>(                                                                   \
      *reinterpret_cast<const eft_fast::ConvShape*>(conv_shape),                              \
      {{g, y, scale, static_cast<int>(activation)}, x, workspace, EFT_SLOT_PACK_ADAM, false}, \
      arithmetic,                                                                             \
      {time, active},                                                                         \
      stream)

EFT_SLOT_CONV_UPDATE(eft_slot_conv_update_f32, float) { return EFT_SLOT_UPDATE_CALL(float); }
EFT_SLOT_CONV_UPDATE(eft_slot_conv_update_f64, double) { return EFT_SLOT_UPDATE_CALL(double); }
