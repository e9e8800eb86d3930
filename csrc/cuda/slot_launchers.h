// The launchers of the per-slot kernels: layers in which every slot has weights of its own.
//
// Rules are those of launchers.h. Activations are [slots][channels][height][width]. Weights lie tap
// by tap, start [out][kh][kw][in / groups] and delta [slots][out][kh][kw][in / groups]. A tensor
// named T* is float in _f32 and double in _f64; state (delta and both moments) is the same, or
// bfloat16 with state = kBf16.
#pragma once

#include <cstdint>

#include "launchers.h"

namespace eft_fast {

// How products are summed in float32; _f64 takes kFloat32 only. kTf32 rounds operands to 10 bits.
enum SlotArithmetic : int64_t { kSlotFloat32 = 0, kSlotThreeTf32 = 1, kSlotTf32 = 2 };
enum StateType : int64_t { kSameState = 0, kBf16State = 1 };
enum Activation : int64_t { kNoActivation = 0, kRelu = 1, kRelu6 = 2 };

// Lies on the host, as a row of int64. h, w: height and width; k kernel, s stride, p padding, d
// dilation.
struct ConvShape {
  int64_t slots, groups, cin, hin, win, cout, hout, wout, kh, kw, sh, sw, ph, pw, dh, dw;
};

// Tiles may reach beyond an end by this much when they count.
constexpr int64_t kDividerSlack = 128;

// The weight gradient of large maps is summed in parts; elements of the workspace, 0 for none. The
// split depends on the map alone, so that a person's bits do not depend on the slots.
constexpr int64_t kPartPixels = 1024;
constexpr int64_t parts_of(int64_t pixels) {
  return divide_up(pixels > 0 ? pixels : 1, kPartPixels);
}
constexpr int64_t conv_update_workspace(const ConvShape& s) {
  const int64_t parts = s.groups == 1 ? parts_of(s.hout * s.wout) : 1;
  return parts == 1 ? 0 : s.slots * parts * s.cout * s.cin * s.kh * s.kw;
}

}  // namespace eft_fast

// Every launcher takes these last: time [slots] and active [slots], each null or on the device, and
// the stream. Slots that are not active are left alone; at time 0 the state that is there is
// ignored.
#define EFT_SLOT_CLOCK const int32_t *time, const uint8_t *active, void *stream

// What an update takes of Adam: state [slots][n] that is read and written, constants [steps][2].
#define EFT_SLOT_ADAM                                                                            \
  void *delta, void *first, void *second, int64_t state, const double *constants, int64_t steps, \
      double beta1, double beta2, double eps

// out = activation(scale (x * W + bias) + shift + residual), W = start + delta. Null leaves out.
#define EFT_SLOT_CONV_FORWARD(name, T) \
  int name(const int64_t* conv_shape,  \
           const T* x,                 \
           const T* start,             \
           const void* delta,          \
           const T* bias,              \
           const void* bias_delta,     \
           int64_t state,              \
           const T* scale,             \
           const T* shift,             \
           const T* residual,          \
           int64_t activation,         \
           int64_t arithmetic,         \
           T* out,                     \
           EFT_SLOT_CLOCK)

// g_x = gradient of x (+ add) from g = gradient of out; y = out, for the mask of the activation.
#define EFT_SLOT_CONV_BACKWARD(name, T) \
  int name(const int64_t* conv_shape,   \
           const T* g,                  \
           const T* y,                  \
           const T* scale,              \
           const T* start,              \
           const void* delta,           \
           int64_t state,               \
           const T* add,                \
           int64_t activation,          \
           int64_t arithmetic,          \
           T* g_x,                      \
           EFT_SLOT_CLOCK)

// Gradient of the weights, and Adam with it. workspace: conv_update_workspace, or null.
#define EFT_SLOT_CONV_UPDATE(name, T) \
  int name(const int64_t* conv_shape, \
           const T* g,                \
           const T* y,                \
           const T* scale,            \
           const T* x,                \
           int64_t activation,        \
           int64_t arithmetic,        \
           T* workspace,              \
           EFT_SLOT_ADAM,             \
           EFT_SLOT_CLOCK)

// Adam on a bias: g [slots][rows][channels][pixels] summed over rows and pixels.
#define EFT_SLOT_BIAS_UPDATE(name, T) \
  int name(int64_t slots,             \
           int64_t rows,              \
           int64_t channels,          \
           int64_t pixels,            \
           const T* g,                \
           const T* y,                \
           const T* scale,            \
           int64_t activation,        \
           EFT_SLOT_ADAM,             \
           EFT_SLOT_CLOCK)

// Adam with a gradient that is there: g [slots][parts][n], the parts added in order.
#define EFT_SLOT_ADAM_UPDATE(name, T) \
  int name(int64_t slots, int64_t parts, int64_t n, const T* g, EFT_SLOT_ADAM, EFT_SLOT_CLOCK)

// out [slots][rows][outs] = x [slots][rows][ins] W^T + bias; start [outs][ins].
#define EFT_SLOT_LINEAR_FORWARD(name, T) \
  int name(int64_t slots,                \
           int64_t rows,                 \
           int64_t ins,                  \
           int64_t outs,                 \
           const T* x,                   \
           const T* start,               \
           const void* delta,            \
           const T* bias,                \
           const void* bias_delta,       \
           int64_t state,                \
           T* out,                       \
           EFT_SLOT_CLOCK)

#define EFT_SLOT_LINEAR_BACKWARD(name, T) \
  int name(int64_t slots,                 \
           int64_t rows,                  \
           int64_t ins,                   \
           int64_t outs,                  \
           const T* g,                    \
           const T* start,                \
           const void* delta,             \
           int64_t state,                 \
           T* g_x,                        \
           EFT_SLOT_CLOCK)

// Gradient of the weights summed over the rows, and Adam with it.
#define EFT_SLOT_LINEAR_UPDATE(name, T) \
  int name(int64_t slots,               \
           int64_t rows,                \
           int64_t ins,                 \
           int64_t outs,                \
           const T* g,                  \
           const T* x,                  \
           EFT_SLOT_ADAM,               \
           EFT_SLOT_CLOCK)

extern "C" {
EFT_SLOT_CONV_FORWARD(eft_slot_conv_forward_f32, float);
EFT_SLOT_CONV_FORWARD(eft_slot_conv_forward_f64, double);
EFT_SLOT_CONV_BACKWARD(eft_slot_conv_backward_f32, float);
EFT_SLOT_CONV_BACKWARD(eft_slot_conv_backward_f64, double);
EFT_SLOT_CONV_UPDATE(eft_slot_conv_update_f32, float);
EFT_SLOT_CONV_UPDATE(eft_slot_conv_update_f64, double);
EFT_SLOT_BIAS_UPDATE(eft_slot_bias_update_f32, float);
EFT_SLOT_BIAS_UPDATE(eft_slot_bias_update_f64, double);
EFT_SLOT_ADAM_UPDATE(eft_slot_adam_update_f32, float);
EFT_SLOT_ADAM_UPDATE(eft_slot_adam_update_f64, double);
EFT_SLOT_LINEAR_FORWARD(eft_slot_linear_forward_f32, float);
EFT_SLOT_LINEAR_FORWARD(eft_slot_linear_forward_f64, double);
EFT_SLOT_LINEAR_BACKWARD(eft_slot_linear_backward_f32, float);
EFT_SLOT_LINEAR_BACKWARD(eft_slot_linear_backward_f64, double);
EFT_SLOT_LINEAR_UPDATE(eft_slot_linear_update_f32, float);
EFT_SLOT_LINEAR_UPDATE(eft_slot_linear_update_f64, double);
}
