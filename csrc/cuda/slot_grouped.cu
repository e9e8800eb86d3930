// Grouped convolutions with every slot's own weights; depthwise ones above all, whose products are
// too narrow for tiles. Plain multiply-adds: these layers wait for memory, not for arithmetic.
#include "slot_conv.h"

namespace eft_fast {
namespace {

constexpr int kThreads = 128;
constexpr int kChunkPixels = 1024;  // of one block
constexpr unsigned kAll = 0xFFFFFFFFu;

// A block makes some pixels of one output channel, with its filter in shared memory.
template <typename T>
__global__ void __launch_bounds__(kThreads) grouped_forward_kernel(Conv conv,
                                                                   const T* x,
                                                                   Weights<T> weights,
                                                                   Weights<T> bias_weights,
                                                                   ConvEnd<T> end,
                                                                   T* out,
                                                                   Clock clock,
                                                                   int pixel_chunks) {
  EFT_DYNAMIC_SHARED(T, filter);
  const int64_t channel_index = blockIdx.x / pixel_chunks, slot = channel_index / conv.cout;
  if (!clock.is_active(slot)) return;
  const bool is_new = clock.is_new(slot);
  const int channel = channel_index % conv.cout;
  const SlotWeights<T> own(weights, slot, conv.weight_size, is_new);
  for (int i = threadIdx.x; i < conv.depth; i += kThreads) {
    filter[i] = own.at(static_cast<int64_t>(channel) * conv.depth + i);
  }
  __syncthreads();
  const SlotWeights<T> bias(bias_weights, slot, conv.cout, is_new);
  const int first_in = channel / (conv.cout / conv.groups) * conv.in_group;
  const T* image = x + slot * conv.in_size;
  const int first = blockIdx.x % pixel_chunks * kChunkPixels;
  const int last = min(first + kChunkPixels, conv.pixels);
  for (int pixel = first + threadIdx.x; pixel < last; pixel += kThreads) {
    const int row = conv.by_wout.divide(pixel);
    const int top = row * conv.sh - conv.ph, left = (pixel - row * conv.wout) * conv.sw - conv.pw;
    T sum = T(0);
    for (int ci = 0; ci < conv.in_group; ++ci) {
      for (int ky = 0; ky < conv.kh; ++ky) {
        for (int kx = 0; kx < conv.kw; ++kx) {
          const int at = conv.input_at(first_in + ci, top, left, ky, kx);
          if (at >= 0) sum += filter[(ky * conv.kw + kx) * conv.in_group + ci] * image[at];
        }
      }
    }
    const int64_t at = channel_index * conv.pixels + pixel;
    out[at] = end.finish(sum, bias, channel, at);
  }
}

// A block makes some pixels of one input channel, with the taps of its group's filters on it.
template <typename T>
__global__ void __launch_bounds__(kThreads) grouped_backward_kernel(Conv conv,
                                                                    Incoming<T> incoming,
                                                                    Weights<T> weights,
                                                                    const T* add,
                                                                    T* g_x,
                                                                    Clock clock,
                                                                    int pixel_chunks) {
  EFT_DYNAMIC_SHARED(T, filter);  // [outputs of the group][kh kw]
  const int64_t channel_index = blockIdx.x / pixel_chunks, slot = channel_index / conv.cin;
  if (!clock.is_active(slot)) return;
  const int channel = channel_index % conv.cin, group = channel / conv.in_group;
  const int out_group = conv.cout / conv.groups, first_out = group * out_group;
  const SlotWeights<T> own(weights, slot, conv.weight_size, clock.is_new(slot));
  for (int i = threadIdx.x; i < out_group * conv.area; i += kThreads) {
    const int co = i / conv.area, tap = i % conv.area;
    const int64_t row = static_cast<int64_t>(first_out + co) * conv.area;
    filter[i] = own.at((row + tap) * conv.in_group + channel % conv.in_group);
  }
  __syncthreads();
  const int first = blockIdx.x % pixel_chunks * kChunkPixels;
  const int last = min(first + kChunkPixels, conv.hin * conv.win);
  for (int pixel = first + threadIdx.x; pixel < last; pixel += kThreads) {
    const int y = pixel / conv.win + conv.ph, x = pixel % conv.win + conv.pw;
    T sum = T(0);
    for (int ky = 0; ky < conv.kh; ++ky) {
      const int over = y - ky * conv.dh, oy = over / conv.sh;
      if (over < 0 || over % conv.sh != 0 || oy >= conv.hout) continue;
      for (int kx = 0; kx < conv.kw; ++kx) {
        const int beside = x - kx * conv.dw, ox = beside / conv.sw;
        if (beside < 0 || beside % conv.sw != 0 || ox >= conv.wout) continue;
        for (int co = 0; co < out_group; ++co) {
          const int64_t row = slot * conv.cout + first_out + co;
          const T g = incoming.at(row * conv.pixels + oy * conv.wout + ox, first_out + co);
          sum += filter[(co * conv.kh + ky) * conv.kw + kx] * g;
        }
      }
    }
    const int64_t at = channel_index * (conv.hin * conv.win) + pixel;
    g_x[at] = add ? sum + add[at] : sum;
  }
}

// A block has the taps of one output channel on one input channel of its group. A warp sums one tap
// at a time over all pixels; its first lane makes the update.
template <typename T, typename S>
__global__ void __launch_bounds__(kThreads)
    grouped_update_kernel(Conv conv, Incoming<T> incoming, const T* x, Adam args, Clock clock) {
  const int64_t plane = blockIdx.x, row = plane / conv.in_group, slot = row / conv.cout;
  if (!takes_update(args, clock, slot)) return;
  const int channel = row % conv.cout, lane = threadIdx.x % 32;
  const int group = channel / (conv.cout / conv.groups);
  const int ci = group * conv.in_group + plane % conv.in_group;
  const T* image = x + slot * conv.in_size;
  const AdamStep<T, S> adam(args, clock, slot);
  for (int tap = threadIdx.x / 32; tap < conv.area; tap += kThreads / 32) {
    const int ky = tap / conv.kw, kx = tap % conv.kw;
    T sum = T(0);
    for (int pixel = lane; pixel < conv.pixels; pixel += 32) {
      const int oy = conv.by_wout.divide(pixel);
      const int top = oy * conv.sh - conv.ph, left = (pixel - oy * conv.wout) * conv.sw - conv.pw;
      const int at = conv.input_at(ci, top, left, ky, kx);
      if (at >= 0) sum += incoming.at(row * conv.pixels + pixel, channel) * image[at];
    }
    for (int reach = 16; reach > 0; reach /= 2) sum += __shfl_xor_sync(kAll, sum, reach);
    if (lane == 0) {
      adam.update((row * conv.area + tap) * conv.in_group + plane % conv.in_group, sum);
    }
  }
}

}  // namespace

template <typename T>
void launch_grouped_forward(const ConvShape& shape,
                            const T* x,
                            const Weights<T>& weights,
                            const Weights<T>& bias,
                            const ConvEnd<T>& end,
                            T* out,
                            const Clock& clock,
                            void* stream) {
  const Conv conv(shape);
  const int64_t chunks = divide_up(conv.pixels, kChunkPixels);
  const int bytes = conv.depth * static_cast<int>(sizeof(T));
  allow_shared(grouped_forward_kernel<T>, bytes);
  EFT_LAUNCH((grouped_forward_kernel<T>),
             grid_of(shape.slots * shape.cout * chunks),
             kThreads,
             bytes,
             stream,
             conv,
             x,
             weights,
             bias,
             end,
             out,
             clock,
             static_cast<int>(chunks));
}

template <typename T>
void launch_grouped_backward(const ConvShape& shape,
                             const Incoming<T>& incoming,
                             const Weights<T>& weights,
                             const T* add,
                             T* g_x,
                             const Clock& clock,
                             void* stream) {
  const Conv conv(shape);
  const int64_t chunks = divide_up(shape.hin * shape.win, kChunkPixels);
  const int bytes = conv.cout / conv.groups * conv.area * static_cast<int>(sizeof(T));
  allow_shared(grouped_backward_kernel<T>, bytes);
  EFT_LAUNCH((grouped_backward_kernel<T>),
             grid_of(shape.slots * shape.cin * chunks),
             kThreads,
             bytes,
             stream,
             conv,
             incoming,
             weights,
             add,
             g_x,
             clock,
             static_cast<int>(chunks));
}

template <typename T>
void launch_grouped_update(const ConvShape& shape,
                           const Incoming<T>& incoming,
                           const T* x,
                           const Adam& adam,
                           const Clock& clock,
                           void* stream) {
  const Conv conv(shape);
  with_state<T>(adam.is_bf16, [&](auto state) {
    EFT_LAUNCH((grouped_update_kernel<T, decltype(state)>),
               grid_of(shape.slots * shape.cout * conv.in_group),
               kThreads,
               0,
               stream,
               conv,
               incoming,
               x,
               adam,
               clock);
  });
}

#define EFT_SLOT_GROUPED(T)                                                                        \
  template void launch_grouped_forward(const ConvShape&,                                           \
                                       const T*,                                                   \
                                       const Weights<T>&,                                          \
                                       const Weights<T>&,                                          \
                                       const ConvEnd<T>&,                                          \
                                       T*,                                                         \
                                       const Clock&,                                               \
                                       void*);                                                     \
  template void launch_grouped_backward(                                                           \
      const ConvShape&, const Incoming<T>&, const Weights<T>&, const T*, T*, const Clock&, void*); \
  template void launch_grouped_update(                                                             \
      const ConvShape&, const Incoming<T>&, const T*, const Adam&, const Clock&, void*);

EFT_SLOT_GROUPED(float)
EFT_SLOT_GROUPED(double)

}  // namespace eft_fast
