// Adam where the gradient is there or is a short sum: biases, parts of a weight gradient, and the
// layers that have no kernel of their own.
#include "slot_conv.h"

namespace eft_fast {
namespace {

constexpr int kThreads = 256;
constexpr unsigned kAll = 0xFFFFFFFFu;

// kWide neighbouring numbers per thread: 4 where everything can be moved in fours.
template <typename T, typename S, int kWide>
__global__ void __launch_bounds__(kThreads)
    adam_kernel(int64_t parts, int64_t n, int blocks, const T* g, Adam args, Clock clock) {
  const int64_t slot = blockIdx.x / blocks;
  if (!takes_update(args, clock, slot)) return;
  const int64_t thread = static_cast<int64_t>(blockIdx.x % blocks) * kThreads + threadIdx.x;
  const int64_t i = thread * kWide;
  if (i >= n) return;
  const T* const from = g + slot * parts * n + i;
  if constexpr (kWide == 4) {
    Four<T> sum = {};
    for (int64_t part = 0; part < parts; ++part) {
      const Four<T> more = load_four(from + part * n);
#pragma unroll
      for (int e = 0; e < 4; ++e) sum.at[e] += more.at[e];
    }
    AdamStep<T, S>(args, clock, slot).update_four(slot * n + i, sum);
  } else {
    T sum = T(0);
    for (int64_t part = 0; part < parts; ++part) sum += from[part * n];
    AdamStep<T, S>(args, clock, slot).update(slot * n + i, sum);
  }
}

// A warp sums one channel.
template <typename T, typename S>
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
  if (lane == 0) AdamStep<T, S>(args, clock, slot).update(index, sum);
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
  if (!launch_adam<T>(slots, parts, n, g, adam, clock, stream)) return cudaErrorInvalidValue;
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
  const bool is_known = with_state<T>(adam.is_bf16, [&](auto state) {
    EFT_LAUNCH((bias_kernel<T, decltype(state)>),
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
  });
  return is_known ? cudaGetLastError() : cudaErrorInvalidValue;
}

}  // namespace

template <typename T>
bool launch_adam(int64_t slots,
                 int64_t parts,
                 int64_t n,
                 const T* g,
                 const Adam& adam,
                 const Clock& clock,
                 void* stream) {
  const bool in_fours = holds_fours<T>(adam, n) && holds_fours(g, sizeof(T));
  const int64_t blocks = divide_up(n, in_fours ? 4 * kThreads : kThreads);
  return with_state<T>(adam.is_bf16, [&](auto state) {
    using S = decltype(state);
    const auto kernel = in_fours ? &adam_kernel<T, S, 4> : &adam_kernel<T, S, 1>;
    EFT_LAUNCH(kernel,
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
  });
}

template bool launch_adam(
    int64_t, int64_t, int64_t, const float*, const Adam&, const Clock&, void*);
template bool launch_adam(
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
