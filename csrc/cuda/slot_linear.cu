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

// A warp makes one output of up to four rows; lanes stride over the inputs.
template <typename T>
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
  const SlotWeights<T> own(weights, slot, shape.outs * shape.ins, is_new);
  const SlotWeights<T> bias(bias_weights, slot, shape.outs, is_new);
  for (int64_t first = 0; first < shape.rows; first += kRows) {
    const int count = static_cast<int>(min(shape.rows - first, int64_t{kRows}));
    const T* row = x + (slot * shape.rows + first) * shape.ins;
    T sums[kRows] = {};
    for (int64_t k = lane; k < shape.ins; k += 32) {
      const T weight = own.at(output * shape.ins + k);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r < count) sums[r] += weight * row[r * shape.ins + k];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int reach = 16; reach > 0; reach /= 2) {
        sums[r] += __shfl_xor_sync(kAll, sums[r], reach);
      }
      if (lane == r && r < count) {
        const T value = bias_weights.start ? sums[r] + bias.at(output) : sums[r];
        out[(slot * shape.rows + first + r) * shape.outs + output] = value;
      }
    }
  }
}

// A block makes 32 inputs of up to four rows; warp w sums outputs w, w + 8, ...
template <typename T>
__global__ void __launch_bounds__(kWarps * 32) linear_backward_kernel(
    Linear shape, const T* g, Weights<T> weights, T* g_x, Clock clock, int blocks) {
  EFT_SHARED(T, partial, kWarps * kRows * 32);
  const int64_t slot = blockIdx.x / blocks;
  if (!clock.is_active(slot)) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t input = static_cast<int64_t>(blockIdx.x % blocks) * 32 + lane;
  const SlotWeights<T> own(weights, slot, shape.outs * shape.ins, clock.is_new(slot));
  for (int64_t first = 0; first < shape.rows; first += kRows) {
    const int count = static_cast<int>(min(shape.rows - first, int64_t{kRows}));
    const T* row = g + (slot * shape.rows + first) * shape.outs;
    T sums[kRows] = {};
    for (int64_t output = warp; output < shape.outs; output += kWarps) {
      const T weight = input < shape.ins ? own.at(output * shape.ins + input) : T(0);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r < count) sums[r] += weight * row[r * shape.outs + output];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) partial[(warp * kRows + r) * 32 + lane] = sums[r];
    __syncthreads();
    if (warp < count && input < shape.ins) {
      T sum = T(0);
      for (int w = 0; w < kWarps; ++w) sum += partial[(w * kRows + warp) * 32 + lane];
      g_x[(slot * shape.rows + first + warp) * shape.ins + input] = sum;
    }
    __syncthreads();  // the next rows reuse the sums
  }
}

// A block makes one row of weights at a time: the gradient is a sum of few products.
template <typename T>
__global__ void __launch_bounds__(kWarps * 32)
    linear_update_kernel(Linear shape, const T* g, const T* x, Adam args, Clock clock) {
  const int64_t slot = blockIdx.x / shape.outs, output = blockIdx.x % shape.outs;
  if (!takes_update(args, clock, slot)) return;
  const AdamStep<T> adam(args, clock, slot);
  for (int64_t k = threadIdx.x; k < shape.ins; k += kWarps * 32) {
    T sum = T(0);
    for (int64_t r = 0; r < shape.rows; ++r) {
      const int64_t row = slot * shape.rows + r;
      sum += g[row * shape.outs + output] * x[row * shape.ins + k];
    }
    adam.update((slot * shape.outs + output) * shape.ins + k, sum);
  }
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
  EFT_LAUNCH((linear_forward_kernel<T>),
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
  return cudaGetLastError();
}

template <typename T>
int linear_backward(const Linear& shape,
                    const T* g,
                    const Weights<T>& weights,
                    T* g_x,
                    const Clock& clock,
                    void* stream) {
  if (shape.slots * shape.rows * shape.ins == 0) return cudaSuccess;
  const int64_t blocks = divide_up(shape.ins, 32);
  EFT_LAUNCH((linear_backward_kernel<T>),
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
  return cudaGetLastError();
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
  EFT_LAUNCH((linear_update_kernel<T>),
             grid_of(shape.slots * shape.outs),
             kWarps * 32,
             0,
             stream,
             shape,
             g,
             x,
             adam,
             clock);
  return cudaGetLastError();
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
