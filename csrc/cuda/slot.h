// What the per-slot kernels share: the shape of a convolution, weights that are a common start plus
// a slot's own difference, activations on the way in, and Adam at the end of a weight gradient.
#pragma once

#include <cstring>

#include "launch.h"
#include "slot_launchers.h"

namespace eft_fast {

// ---- numbers -----------------------------------------------------------------------------------

// Division by a number known at launch, as a multiplication; right while (n + divisor) * divisor <
// 2^32.
struct Divider {
  uint32_t divisor, factor;
  EFT_HD explicit Divider(int64_t by = 1)
      : divisor(static_cast<uint32_t>(by)),
        factor(by > 1 ? static_cast<uint32_t>((uint64_t{1} << 32) / static_cast<uint64_t>(by)) + 1
                      : 0) {}
  EFT_HD int divide(int n) const {
    const uint64_t product = static_cast<uint64_t>(static_cast<uint32_t>(n)) * factor;
    return divisor > 1 ? static_cast<int>(product >> 32) : n;
  }
};

__device__ inline float from_bf16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// To the nearest, ties to even; NaN stays NaN.
__device__ inline uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return 0x7FC0;
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

// State is of the type of the activations, or bfloat16.
template <typename T>
__device__ inline T load_state(const void* state, int64_t i, bool is_bf16) {
  if (is_bf16) return from_bf16(static_cast<const uint16_t*>(state)[i]);
  return static_cast<const T*>(state)[i];
}

template <typename T>
__device__ inline void store_state(void* state, int64_t i, T value, bool is_bf16) {
  if (is_bf16) {
    static_cast<uint16_t*>(state)[i] = to_bf16(static_cast<float>(value));
  } else {
    static_cast<T*>(state)[i] = value;
  }
}

// ---- slots -------------------------------------------------------------------------------------

// Which slots take part, and how many updates each has behind it; null: all take part, none is new.
struct Clock {
  const int32_t* time;
  const uint8_t* active;

  __device__ bool is_active(int64_t slot) const { return !active || active[slot]; }
  // A new person's slot: whatever lies in its state is of somebody else.
  __device__ bool is_new(int64_t slot) const { return time && time[slot] == 0; }
};

// start [n] and delta [slots][n]; null delta: the weights are the start.
template <typename T>
struct Weights {
  const T* start;
  const void* delta;
  bool is_bf16;
};

// The weights of one slot.
template <typename T>
struct SlotWeights {
  Weights<T> weights;
  int64_t first;
  bool has_delta;

  __device__ SlotWeights(const Weights<T>& weights, int64_t slot, int64_t size, bool is_new)
      : weights(weights), first(slot * size), has_delta(weights.delta && !is_new) {}

  __device__ T at(int64_t i) const {
    const T start = weights.start[i];
    return has_delta ? start + load_state<T>(weights.delta, first + i, weights.is_bf16) : start;
  }
};

// ---- Adam --------------------------------------------------------------------------------------

// constants [steps][2]: rate = lr / (1 - beta1^t) and root = sqrt(1 - beta2^t) of update t = 1...
// A slot that has made all `steps` updates makes no more.
struct Adam {
  void *delta, *first, *second;
  const double* constants;
  int64_t steps;
  double beta1, beta2, eps;
  bool is_bf16;
};

#define EFT_SLOT_PACK_ADAM \
  {delta, first, second, constants, steps, beta1, beta2, eps, state == eft_fast::kBf16State}

// Adam of one slot, in torch's order of operations.
template <typename T>
struct AdamStep {
  Adam adam;
  T rate, root, beta2, gain1, gain2, eps;
  bool is_new;

  __device__ AdamStep(const Adam& adam, const Clock& clock, int64_t slot)
      : adam(adam),
        beta2(static_cast<T>(adam.beta2)),
        gain1(static_cast<T>(1 - adam.beta1)),
        gain2(static_cast<T>(1 - adam.beta2)),
        eps(static_cast<T>(adam.eps)),
        is_new(clock.is_new(slot)) {
    const int64_t time = clock.time[slot];
    rate = static_cast<T>(adam.constants[2 * time]);
    root = static_cast<T>(adam.constants[2 * time + 1]);
  }

  __device__ void update(int64_t i, T gradient) const {
    const bool half = adam.is_bf16;
    T first = is_new ? T(0) : load_state<T>(adam.first, i, half);
    T second = is_new ? T(0) : load_state<T>(adam.second, i, half);
    const T delta = is_new ? T(0) : load_state<T>(adam.delta, i, half);
    first += gain1 * (gradient - first);
    second = beta2 * second + gain2 * (gradient * gradient);
    const T denominator = math::square_root(second) / root + eps;
    store_state<T>(adam.first, i, first, half);
    store_state<T>(adam.second, i, second, half);
    store_state<T>(adam.delta, i, delta - rate * (first / denominator), half);
  }
};

__device__ inline bool takes_update(const Adam& adam, const Clock& clock, int64_t slot) {
  return clock.is_active(slot) && clock.time[slot] >= 0 && clock.time[slot] < adam.steps;
}

// ---- activations -------------------------------------------------------------------------------

template <typename T>
__device__ inline T activate(T x, int activation) {
  if (activation == kNoActivation) return x;
  x = x < T(0) ? T(0) : x;  // keeps NaN
  return activation == kRelu6 && x > T(6) ? T(6) : x;
}

// The gradient that arrives at a convolution: masked where the activation behind it was flat, then
// scaled as the frozen batch norm between them scales. y, scale or both may be null.
template <typename T>
struct Incoming {
  const T *g, *y, *scale;
  int activation;

  __device__ T at(int64_t i, int channel) const {
    T value = g[i];
    if (activation != kNoActivation) {
      const T out = y[i];
      if (out <= T(0) || (activation == kRelu6 && out >= T(6))) value = T(0);
    }
    return scale ? value * scale[channel] : value;
  }
};

// ---- convolutions ------------------------------------------------------------------------------

// ConvShape in the integers that kernels count with. A tensor of one slot has fewer than 2^31
// elements.
struct Conv {
  int groups, cin, hin, win, cout, hout, wout, kh, kw, sh, sw, ph, pw, dh, dw;
  int area;      // kh kw
  int pixels;    // hout wout
  int in_group;  // input channels of a group
  int depth;     // in_group kh kw: length of a product
  int64_t in_size, out_size, weight_size;
  Divider by_area, by_kw, by_wout;

  explicit Conv(const ConvShape& s)
      : groups(s.groups),
        cin(s.cin),
        hin(s.hin),
        win(s.win),
        cout(s.cout),
        hout(s.hout),
        wout(s.wout),
        kh(s.kh),
        kw(s.kw),
        sh(s.sh),
        sw(s.sw),
        ph(s.ph),
        pw(s.pw),
        dh(s.dh),
        dw(s.dw),
        area(kh * kw),
        pixels(hout * wout),
        in_group(cin / groups),
        depth(in_group * area),
        in_size(s.cin * s.hin * s.win),
        out_size(s.cout * s.hout * s.wout),
        weight_size(s.cout * in_group * s.kh * s.kw),
        by_area(area),
        by_kw(kw),
        by_wout(wout) {}

  // Which element of a slot's input tap (ky, kx) of input channel ci reads for the output pixel
  // whose window starts at (top, left); -1 outside of the image.
  __device__ int input_at(int ci, int top, int left, int ky, int kx) const {
    const int y = top + ky * dh, x = left + kx * dw;
    const bool is_inside = y >= 0 && y < hin && x >= 0 && x < win;
    return is_inside ? (ci * hin + y) * win + x : -1;
  }
};

// Whether the kernels can count in 32 bits, and divide by multiplication.
inline bool is_countable(const ConvShape& s) {
  const int64_t limit = int64_t{1} << 31, area = s.kh * s.kw, depth = s.cin / s.groups * area;
  const auto divides = [](int64_t n, int64_t by) {
    return (n + kDividerSlack + by) * by < int64_t{1} << 32;
  };
  return s.cin * s.hin * s.win < limit && s.cout * s.hout * s.wout < limit &&
         s.cout * depth < limit && divides(depth, area) && divides(s.cout * area, area) &&
         divides(s.hout * s.wout, s.wout) && divides(s.hin * s.win, s.win);
}

}  // namespace eft_fast
