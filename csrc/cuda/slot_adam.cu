// Adam where the gradient is there or is a short sum: biases, parts of a weight gradient, and the
// layers that have no kernel of their own.
#include "slot_conv.h"

namespace eft_fast {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kAll = 0xFFFFFFFFu;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    adam_kernel(int64_t parts, int64_t n, int blocks, const T* g, Adam args, Clock clock) {
  const int64_t slot = blockIdx.x / blocks;
  if (!takes_update(args, clock, slot)) return;
  const int64_t i = static_cast<int64_t>(blockIdx.x % blocks) * kThreads + threadIdx.x;
  if (i >= n) return;
  const AdamStep<T> adam(args, clock, slot);
  T sum = T(0);
  for (int64_t part = 0; part < parts; ++part) sum += g[(slot * parts + part) * n + i];
  adam.update(slot * n + i, sum);
}

// A warp sums one channel.
template <typename T>
__global__ void __launch_bounds__(kThreads) bias_kernel(int64_t slots,
                                                        int64_t rows,
                                                        int64_t channels,
                                                        int64_t pixels,
                                                        Incoming<T> incoming,
                                                        Adam args,
                                                        Clock clock) {
  const int lane = threadIdx.x % 32;
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  const int64_t slot = index / channels, channel = index % channels;
  if (slot >= slots || !takes_update(args, clock, slot)) return;
  T sum = T(0);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = ((slot * rows + row) * channels + channel) * pixels;
    for (int64_t pixel = lane; pixel < pixels; pixel += 32) {
      sum += incoming.at(first + pixel, static_cast<int>(channel));
    }
  }
  for (int reach = 16; reach > 0; reach /= 2) sum += __shfl_xor_sync(kAll, sum, reach);
  if (lane == 0) AdamStep<T>(args, clock, slot).update(index, sum);
}

template <typename T>
int adam_update(int64_t slots,
                int64_t parts,
                int64_t n,
                const T* g,
                const Adam& adam,
                const Clock& clock,
                void* stream) {
  if (!clock.time) return cudaErrorInvalidValue;
  if (slots * n == 0) return cudaSuccess;
  launch_adam<T>(slots, parts, n, g, adam, clock, stream);
  return cudaGetLastError();
}

template <typename T>
int bias_update(int64_t slots,
                int64_t rows,
                int64_t channels,
                int64_t pixels,
                const Incoming<T>& incoming,
                const Adam& adam,
                const Clock& clock,
                void* stream) {
  if (!clock.time) return cudaErrorInvalidValue;
  if (slots * channels == 0) return cudaSuccess;
  EFT_LAUNCH((bias_kernel<T>),
             grid_of(divide_up(slots * channels, kThreads / 32)),
             kThreads,
             0,
             stream,
             slots,
             rows,
             channels,
             pixels,
             incoming,
             adam,
             clock);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
void launch_adam(int64_t slots,
                 int64_t parts,
                 int64_t n,
                 const T* g,
                 const Adam& adam,
                 const Clock& clock,
                 void* stream) {
  const int64_t blocks = divide_up(n, kThreads);
  EFT_LAUNCH((adam_kernel<T>),
             grid_of(slots * blocks),
             kThreads,
             0,
             stream,
             parts,
             n,
             static_cast<int>(blocks),
             g,
             adam,
             clock);
}

template void launch_adam(
    int64_t, int64_t, int64_t, const float*, const Adam&, const Clock&, void*);
template void launch_adam(
    int64_t, int64_t, int64_t, const double*, const Adam&, const Clock&, void*);

}  // namespace eft_fast

#define EFT_SLOT_ADAM_CALL(T) \
  eft_fast::adam_update<T>(slots, parts, n, g, EFT_SLOT_PACK_ADAM, {time, active}, stream)
#define EFT_SLOT_BIAS_CALL(T)                                           \
  eft_fast::bias_update<T>(slots,                                       \
                           rows,                                        \
                           channels,                                    \
                           pixels,                                      \
                           {g, y, scale, static_cast<int>(activation)}, \
                           EFT_SLOT_PACK_ADAM,                          \
                           {time, active},                              \
                           stream)

EFT_SLOT_ADAM_UPDATE(eft_slot_adam_update_f32, float) { return EFT_SLOT_ADAM_CALL(float); }
EFT_SLOT_ADAM_UPDATE(eft_slot_adam_update_f64, double) { return EFT_SLOT_ADAM_CALL(double); }
EFT_SLOT_BIAS_UPDATE(eft_slot_bias_update_f32, float) { return EFT_SLOT_BIAS_CALL(float); }
EFT_SLOT_BIAS_UPDATE(eft_slot_bias_update_f64, double) { return EFT_SLOT_BIAS_CALL(double); }
