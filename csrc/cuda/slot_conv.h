// What the convolution kernels share: the end of a forward pass, and the grouped kernels, which the
// launchers of the dense ones call.
#pragma once

#include "slot.h"

namespace eft_fast {

// What follows the sum of a convolution: bias, frozen batch norm, residual, activation.
template <typename T>
struct ConvEnd {
  const T *scale, *shift, *residual;
  int activation;

  __device__ T finish(T sum, const SlotWeights<T>& bias, int channel, int64_t at) const {
    if (bias.start) sum += bias.at(channel);
    if (scale) sum = sum * scale[channel] + shift[channel];
    if (residual) sum += residual[at];
    return activate(sum, activation);
  }
};

// slot_grouped.cu: for groups > 1, depthwise above all.
template <typename T>
void launch_grouped_forward(const ConvShape& shape,
                            const T* x,
                            const Weights<T>& weights,
                            const Weights<T>& bias,
                            const ConvEnd<T>& end,
                            T* out,
                            const Clock& clock,
                            void* stream);

template <typename T>
void launch_grouped_backward(const ConvShape& shape,
                             const Incoming<T>& incoming,
                             const Weights<T>& weights,
                             const T* add,
                             T* g_x,
                             const Clock& clock,
                             void* stream);

template <typename T>
void launch_grouped_update(const ConvShape& shape,
                           const Incoming<T>& incoming,
                           const T* x,
                           const Adam& adam,
                           const Clock& clock,
                           void* stream);

// slot_adam.cu: g [slots][parts][n]; false if there is no kernel for the type of the state.
template <typename T>
bool launch_adam(int64_t slots,
                 int64_t parts,
                 int64_t n,
                 const T* g,
                 const Adam& adam,
                 const Clock& clock,
                 void* stream);

}  // namespace eft_fast
