// What the per-slot kernels share: the shape of a convolution, weights that are a common start plus
// a slot's own difference, activations on the way in, and Adam at the end of a weight gradient.
#pragma once

#include <cstring>
#include <type_traits>

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

// bfloat16, as differences and moments may be stored.
struct Bf16 {
  uint16_t bits;
};

template <typename T>
__device__ inline T from_state(T x) {
  return x;
}

__device__ inline float from_state(Bf16 half) {
  const uint32_t bits = static_cast<uint32_t>(half.bits) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

template <typename S>
__device__ inline S to_state(S x) {
  return x;
}

// To the nearest, ties to even; NaN stays NaN.
template <typename S>
__device__ inline std::enable_if_t<std::is_same_v<S, Bf16>, Bf16> to_state(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return {0x7FC0};
  return {static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16)};
}

// Whether fours can start here.
inline bool holds_fours(const void* memory, int64_t bytes_of_one) {
  const int64_t bytes = 4 * bytes_of_one < 16 ? 4 * bytes_of_one : 16;
  return reinterpret_cast<uintptr_t>(memory) % bytes == 0;
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

// start [n] and delta [slots][n], which is of the type of the activations or bfloat16; null delta:
// the weights are the start.
template <typename T>
struct Weights {
  const T* start;
  const void* delta;
  bool is_bf16;
};

// The weights of one slot, with state of type S.
template <typename T, typename S>
struct OwnWeights {
  const T* start;
  const S* delta;  // null where the slot adds nothing

  __device__ OwnWeights(const Weights<T>& weights, int64_t slot, int64_t size, bool is_new)
      : start(weights.start),
        delta(weights.delta && !is_new ? static_cast<const S*>(weights.delta) + slot * size
                                       : nullptr) {}

  __device__ T at(int64_t i) const { return delta ? start[i] + from_state(delta[i]) : start[i]; }
};

// The same where the type of the state is only known at run time: for biases, and for shapes that
// no fast path serves.
template <typename T>
struct SlotWeights {
  const T* start;
  const void* delta;
  int64_t first;
  bool is_bf16;

  __device__ SlotWeights(const Weights<T>& weights, int64_t slot, int64_t size, bool is_new)
      : start(weights.start),
        delta(is_new ? nullptr : weights.delta),
        first(slot * size),
        is_bf16(weights.is_bf16) {}

  __device__ T at(int64_t i) const {
    if (!delta) return start[i];
    if (is_bf16) return start[i] + from_state(static_cast<const Bf16*>(delta)[first + i]);
    return start[i] + static_cast<const T*>(delta)[first + i];
  }
};

// f(S{}) with the type of the state; false if there is no such kernel.
template <typename T, typename F>
bool with_state(bool is_bf16, F f) {
  if (!is_bf16) {
    f(T{});
  } else if constexpr (std::is_same_v<T, float>) {
    f(Bf16{});
  } else {
    return false;
  }
  return true;
}

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

// Adam of one slot, in torch's order of operations, on state of type S.
template <typename T, typename S>
struct AdamStep {
  S *delta, *first, *second;
  T rate, root, beta2, gain1, gain2, eps;
  bool is_new;

  __device__ AdamStep(const Adam& adam, const Clock& clock, int64_t slot)
      : delta(static_cast<S*>(adam.delta)),
        first(static_cast<S*>(adam.first)),
        second(static_cast<S*>(adam.second)),
        beta2(static_cast<T>(adam.beta2)),
        gain1(static_cast<T>(1 - adam.beta1)),
        gain2(static_cast<T>(1 - adam.beta2)),
        eps(static_cast<T>(adam.eps)),
        is_new(clock.is_new(slot)) {
    const int64_t time = clock.time[slot];
    rate = static_cast<T>(adam.constants[2 * time]);
    root = static_cast<T>(adam.constants[2 * time + 1]);
  }

  __device__ void step(T gradient, S& delta, S& first, S& second) const {
    T m = is_new ? T(0) : T(from_state(first));
    T v = is_new ? T(0) : T(from_state(second));
    const T moved = is_new ? T(0) : T(from_state(delta));
    m += gain1 * (gradient - m);
    v = beta2 * v + gain2 * (gradient * gradient);
    const T denominator = math::square_root(v) / root + eps;
    first = to_state<S>(m);
    second = to_state<S>(v);
    delta = to_state<S>(moved - rate * (m / denominator));
  }

  __device__ void update(int64_t i, T gradient) const {
    step(gradient, delta[i], first[i], second[i]);
  }

  __device__ void update_four(int64_t i, const Four<T>& gradient) const {
    Four<S> d = load_four(delta + i), m = load_four(first + i), v = load_four(second + i);
#pragma unroll
    for (int e = 0; e < 4; ++e) step(gradient.at[e], d.at[e], m.at[e], v.at[e]);
    store_four(delta + i, d);
    store_four(first + i, m);
    store_four(second + i, v);
  }
};

// Whether the state of every slot can be moved in fours.
template <typename T>
bool holds_fours(const Adam& adam, int64_t numbers_of_slot) {
  const int64_t bytes = adam.is_bf16 ? 2 : static_cast<int64_t>(sizeof(T));
  return numbers_of_slot % 4 == 0 && holds_fours(adam.delta, bytes) &&
         holds_fours(adam.first, bytes) && holds_fours(adam.second, bytes);
}

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

  // The activation is flat where the output is not positive, or beyond this.
  __device__ T above() const {
    if (activation != kRelu6) return T(INFINITY);
    return sizeof(T) == 4 ? T(5.9999995f) : T(5.999999999999999);  // the number before 6
  }

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
// elements. Weights lie tap by tap, [out][kh][kw][in]: a chunk of a sum over them has one tap.
struct Conv {
  int groups, cin, hin, win, cout, hout, wout, kh, kw, sh, sw, ph, pw, dh, dw;
  int area;      // kh kw
  int pixels;    // hout wout
  int in_group;  // input channels of a group
  int depth;     // in_group kh kw: length of a product
  int64_t in_size, out_size, weight_size;
  Divider by_in, by_out, by_kw, by_wout;

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
        by_in(in_group),
        by_out(cout),
        by_kw(kw),
        by_wout(wout) {}

  // One tap that reads each pixel once, in order: a product of matrices as they lie in memory.
  EFT_HD bool is_pointwise() const { return area == 1 && sh == 1 && sw == 1 && ph == 0 && pw == 0; }

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
         s.cout * depth < limit && divides(depth, s.cin / s.groups) &&
         divides(s.cout * area, s.cout) && divides(area, s.kw) &&
         divides(s.hout * s.wout, s.wout) && divides(s.hin * s.win, s.win);
}

}  // namespace eft_fast
