// slot_linear: fully connected layers with every slot's own weights. A slot brings few rows (one
// per use of the layer), so the time is that of reading the weights once; products are plain float.
#include "slot.h"

namespace eft_fast {
namespace {

constexpr int kWarps = 8;
constexpr int kRows = 4;  // rows that share one reading of the weights
constexpr unsigned kAll = 0xFFFFFFFFu;

struct Linear {
  int64_t slots, rows, ins, outs;
};

// kWide neighbours, moved at once.
template <typename T, int kWide>
struct Several {
  T at[kWide];

  static __device__ Several load(const T* from) {
    Several out;
    if constexpr (kWide == 4) {
      const Four<T> four = load_four(from);
#pragma unroll
      for (int e = 0; e < 4; ++e) out.at[e] = four.at[e];
    } else {
      out.at[0] = *from;
    }
    return out;
  }
};

template <typename T, typename S, int kWide>
__device__ inline Several<T, kWide> load_weights(const OwnWeights<T, S>& own, int64_t i) {
  Several<T, kWide> weights = Several<T, kWide>::load(own.start + i);
  if (own.delta) {
    const auto delta = Several<S, kWide>::load(own.delta + i);
#pragma unroll
    for (int e = 0; e < kWide; ++e) weights.at[e] += from_state(delta.at[e]);
  }
  return weights;
}

// A warp makes one output of up to four rows; lanes stride over the inputs.
template <typename T, typename S, int kWide>
__global__ void __launch_bounds__(kWarps * 32) linear_forward_kernel(Linear shape,
                                                                     const T* x,
                                                                     Weights<T> weights,
                                                                     Weights<T> bias_weights,
                                                                     T* out,
                                                                     Clock clock,
                                                                     int blocks) {
  const int64_t slot = blockIdx.x / blocks;
  if (!clock.is_active(slot)) return;
  const int lane = threadIdx.x % 32;
  const int64_t output = static_cast<int64_t>(blockIdx.x % blocks) * kWarps + threadIdx.x / 32;
  if (output >= shape.outs) return;
  const bool is_new = clock.is_new(slot);
  const OwnWeights<T, S> own(weights, slot, shape.outs * shape.ins, is_new);
  const SlotWeights<T> bias(bias_weights, slot, shape.outs, is_new);
  for (int64_t first = 0; first < shape.rows; first += kRows) {
    const int count = static_cast<int>(min(shape.rows - first, int64_t{kRows}));
    const T* row = x + (slot * shape.rows + first) * shape.ins;
    T sums[kRows] = {};
    for (int64_t k = lane * kWide; k < shape.ins; k += 32 * kWide) {
      const auto weight = load_weights<T, S, kWide>(own, output * shape.ins + k);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= count) continue;
        const auto in = Several<T, kWide>::load(row + r * shape.ins + k);
#pragma unroll
        for (int e = 0; e < kWide; ++e) sums[r] += weight.at[e] * in.at[e];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int reach = 16; reach > 0; reach /= 2) {
        sums[r] += __shfl_xor_sync(kAll, sums[r], reach);
      }
      if (lane == r && r < count) {
        const T value = bias.start ? sums[r] + bias.at(output) : sums[r];
        out[(slot * shape.rows + first + r) * shape.outs + output] = value;
      }
    }
  }
}

// A block makes 32 x kWide inputs of up to four rows; warp w sums outputs w, w + 8, ...
template <typename T, typename S, int kWide>
__global__ void __launch_bounds__(kWarps * 32) linear_backward_kernel(
    Linear shape, const T* g, Weights<T> weights, T* g_x, Clock clock, int blocks) {
  constexpr int kInputs = 32 * kWide;
  EFT_SHARED(T, partial, kWarps * kRows * kInputs);
  const int64_t slot = blockIdx.x / blocks;
  if (!clock.is_active(slot)) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t input = static_cast<int64_t>(blockIdx.x % blocks) * kInputs + lane * kWide;
  const bool is_input = input < shape.ins;
  const OwnWeights<T, S> own(weights, slot, shape.outs * shape.ins, clock.is_new(slot));
  for (int64_t first = 0; first < shape.rows; first += kRows) {
    const int count = static_cast<int>(min(shape.rows - first, int64_t{kRows}));
    const T* row = g + (slot * shape.rows + first) * shape.outs;
    T sums[kRows][kWide] = {};
    for (int64_t output = warp; is_input && output < shape.outs; output += kWarps) {
      const auto weight = load_weights<T, S, kWide>(own, output * shape.ins + input);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= count) continue;
        const T factor = row[r * shape.outs + output];
#pragma unroll
        for (int e = 0; e < kWide; ++e) sums[r][e] += weight.at[e] * factor;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int e = 0; e < kWide; ++e) {
        partial[(warp * kRows + r) * kInputs + e * 32 + lane] = sums[r][e];
      }
    }
    __syncthreads();
    if (warp < count && is_input) {
#pragma unroll
      for (int e = 0; e < kWide; ++e) {
        T sum = T(0);
        for (int w = 0; w < kWarps; ++w) {
          sum += partial[(w * kRows + warp) * kInputs + e * 32 + lane];
        }
        g_x[(slot * shape.rows + first + warp) * shape.ins + input + e] = sum;
      }
    }
    __syncthreads();  // the next rows reuse the sums
  }
}

// A block makes one row of weights at a time: the gradient is a sum of few products.
template <typename T, typename S, int kWide>
__global__ void __launch_bounds__(kWarps * 32)
    linear_update_kernel(Linear shape, const T* g, const T* x, Adam args, Clock clock) {
  const int64_t slot = blockIdx.x / shape.outs, output = blockIdx.x % shape.outs;
  if (!takes_update(args, clock, slot)) return;
  const AdamStep<T, S> adam(args, clock, slot);
  const int64_t first = (slot * shape.outs + output) * shape.ins;
  for (int64_t k = threadIdx.x * kWide; k < shape.ins; k += kWarps * 32 * kWide) {
    Four<T> sum = {};
    for (int64_t r = 0; r < shape.rows; ++r) {
      const int64_t row = slot * shape.rows + r;
      const T factor = g[row * shape.outs + output];
      const auto in = Several<T, kWide>::load(x + row * shape.ins + k);
#pragma unroll
      for (int e = 0; e < kWide; ++e) sum.at[e] += factor * in.at[e];
    }
    if constexpr (kWide == 4) {
      adam.update_four(first + k, sum);
    } else {
      adam.update(first + k, sum.at[0]);
    }
  }
}

// Whether rows of `ins` numbers can be read in fours.
template <typename T>
bool has_fours(const Linear& shape, const T* rows) {
  return shape.ins % 4 == 0 && holds_fours(rows, sizeof(T));
}

template <typename T>
bool has_fours(const Linear& shape, const Weights<T>& weights) {
  return has_fours(shape, weights.start) &&
         holds_fours(weights.delta, weights.is_bf16 ? 2 : sizeof(T));
}

template <typename T>
int linear_forward(const Linear& shape,
                   const T* x,
                   const Weights<T>& weights,
                   const Weights<T>& bias,
                   T* out,
                   const Clock& clock,
                   void* stream) {
  if (shape.slots * shape.rows * shape.outs == 0) return cudaSuccess;
  const int64_t blocks = divide_up(shape.outs, kWarps);
  const bool is_known = with_state<T>(weights.is_bf16, [&](auto state) {
    using S = decltype(state);
    const auto kernel = has_fours(shape, weights) && has_fours(shape, x)
                            ? &linear_forward_kernel<T, S, 4>
                            : &linear_forward_kernel<T, S, 1>;
    EFT_LAUNCH(kernel,
               grid_of(shape.slots * blocks),
               kWarps * 32,
               0,
               stream,
               shape,
               x,
               weights,
               bias,
               out,
               clock,
               static_cast<int>(blocks));
  });
  return is_known ? cudaGetLastError() : cudaErrorInvalidValue;
}

template <typename T>
int linear_backward(const Linear& shape,
                    const T* g,
                    const Weights<T>& weights,
                    T* g_x,
                    const Clock& clock,
                    void* stream) {
  if (shape.slots * shape.rows * shape.ins == 0) return cudaSuccess;
  const bool in_fours = has_fours(shape, weights);
  const int64_t blocks = divide_up(shape.ins, in_fours ? 128 : 32);
  const bool is_known = with_state<T>(weights.is_bf16, [&](auto state) {
    using S = decltype(state);
    const auto kernel =
        in_fours ? &linear_backward_kernel<T, S, 4> : &linear_backward_kernel<T, S, 1>;
    EFT_LAUNCH(kernel,
               grid_of(shape.slots * blocks),
               kWarps * 32,
               0,
               stream,
               shape,
               g,
               weights,
               g_x,
               clock,
               static_cast<int>(blocks));
  });
  return is_known ? cudaGetLastError() : cudaErrorInvalidValue;
}

template <typename T>
int linear_update(const Linear& shape,
                  const T* g,
                  const T* x,
                  const Adam& adam,
                  const Clock& clock,
                  void* stream) {
  if (!clock.time) return cudaErrorInvalidValue;
  if (shape.slots * shape.outs * shape.ins == 0) return cudaSuccess;
  const bool in_fours = has_fours(shape, x) && holds_fours<T>(adam, shape.ins);
  const bool is_known = with_state<T>(adam.is_bf16, [&](auto state) {
    using S = decltype(state);
    const auto kernel = in_fours ? &linear_update_kernel<T, S, 4> : &linear_update_kernel<T, S, 1>;
    EFT_LAUNCH(kernel,
               grid_of(shape.slots * shape.outs),
               kWarps * 32,
               0,
               stream,
               shape,
               g,
               x,
               adam,
               clock);
  });
  return is_known ? cudaGetLastError() : cudaErrorInvalidValue;
}

}  // namespace
}  // namespace eft_fast

#define EFT_SLOT_LINEAR_FORWARD_CALL(T)                                          \
  eft_fast::linear_forward<T>({slots, rows, ins, outs},                          \
                              x,                                                 \
                              {start, delta, state == eft_fast::kBf16State},     \
                              {bias, bias_delta, state == eft_fast::kBf16State}, \
                              out,                                               \
                              {time, active},                                    \
                              stream)
#define EFT_SLOT_LINEAR_BACKWARD_CALL(T)                                      \
  eft_fast::linear_backward<T>({slots, rows, ins, outs},                      \
                               g,                                             \
                               {start, delta, state == eft_fast::kBf16State}, \
                               g_x,                                           \
                               {time, active},                                \
                               stream)
#define EFT_SLOT_LINEAR_UPDATE_CALL(T) \
  eft_fast::linear_update<T>(          \
      {slots, rows, ins, outs}, g, x, EFT_SLOT_PACK_ADAM, {time, active}, stream)

EFT_SLOT_LINEAR_FORWARD(eft_slot_linear_forward_f32, float) {
  return EFT_SLOT_LINEAR_FORWARD_CALL(float);
}
EFT_SLOT_LINEAR_FORWARD(eft_slot_linear_forward_f64, double) {
  return EFT_SLOT_LINEAR_FORWARD_CALL(double);
}
EFT_SLOT_LINEAR_BACKWARD(eft_slot_linear_backward_f32, float) {
  return EFT_SLOT_LINEAR_BACKWARD_CALL(float);
}
EFT_SLOT_LINEAR_BACKWARD(eft_slot_linear_backward_f64, double) {
  return EFT_SLOT_LINEAR_BACKWARD_CALL(double);
}
EFT_SLOT_LINEAR_UPDATE(eft_slot_linear_update_f32, float) {
  return EFT_SLOT_LINEAR_UPDATE_CALL(float);
}
EFT_SLOT_LINEAR_UPDATE(eft_slot_linear_update_f64, double) {
  return EFT_SLOT_LINEAR_UPDATE_CALL(double);
}
