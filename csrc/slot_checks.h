// Checks of the per-slot operators' inputs, one sentence each, and their launchers by type.
//
// The rules are those of check.h: floating tensors share one type and one device; weights and state
// come contiguous from their layer and are refused otherwise, activations are made so.
#pragma once

#include <vector>

#include "cuda/slot_launchers.h"
#include "device.h"

namespace eft_fast {

template <typename S>
struct SlotLaunchers;

#define EFT_SLOT_LAUNCHERS(T, suffix)                                           \
  template <>                                                                   \
  struct SlotLaunchers<T> {                                                     \
    static constexpr auto conv_forward = &eft_slot_conv_forward_##suffix;       \
    static constexpr auto conv_backward = &eft_slot_conv_backward_##suffix;     \
    static constexpr auto conv_update = &eft_slot_conv_update_##suffix;         \
    static constexpr auto bias_update = &eft_slot_bias_update_##suffix;         \
    static constexpr auto adam_update = &eft_slot_adam_update_##suffix;         \
    static constexpr auto linear_forward = &eft_slot_linear_forward_##suffix;   \
    static constexpr auto linear_backward = &eft_slot_linear_backward_##suffix; \
    static constexpr auto linear_update = &eft_slot_linear_update_##suffix;     \
  };
EFT_SLOT_LAUNCHERS(float, f32)
EFT_SLOT_LAUNCHERS(double, f64)
#undef EFT_SLOT_LAUNCHERS

#define EFT_ADAM_PARAMETERS                                                                \
  const Tensor &delta, const Tensor &first, const Tensor &second, const Tensor &constants, \
      double beta1, double beta2, double eps, const Tensor &time, const OptionalTensor &active
#define EFT_ADAM_ARGUMENTS delta, first, second, constants, beta1, beta2, eps, time, active

inline bool is_bf16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

inline int64_t state_of(const OptionalTensor& delta, const OptionalTensor& bias_delta) {
  const bool is_half =
      (delta.has_value() && is_bf16(*delta)) || (bias_delta.has_value() && is_bf16(*bias_delta));
  return is_half ? kBf16State : kSameState;
}

// What an update's launcher takes behind its own arguments.
struct AdamState {
  const Tensor &delta, &first, &second, &constants;
  double beta1, beta2, eps;
  const Tensor& time;
  const OptionalTensor& active;

  template <typename Launch, typename... Own>
  int call(Launch launch, void* stream, Own... own) const {
    return launch(own...,
                  write<void>(delta),
                  write<void>(first),
                  write<void>(second),
                  is_bf16(delta) ? kBf16State : kSameState,
                  read<double>(constants),
                  constants.size(0),
                  beta1,
                  beta2,
                  eps,
                  read<int32_t>(time),
                  read<uint8_t>(active),
                  stream);
  }
};

struct SlotCheck {
  const char* op;
  const Alike alike;

  SlotCheck(const char* op, const Tensor& like) : op(op), alike(op, like, "the activations") {}

  [[noreturn]] void refuse(const std::string& words) const {
    eft_fast::refuse(std::string(op) + ": " + words);
  }

  void contiguous(const char* name, const Tensor& t) const {
    if (!t.is_contiguous()) refuse(std::string(name) + " must be contiguous");
  }

  // Weights of a convolution, or their state: as ops.slot_layers.by_taps lays them. Axes of one
  // entry may have any stride.
  void by_taps(const char* name, const Tensor& t) const {
    const int64_t axes = t.dim();
    int64_t step = 1;
    bool fits = axes >= 4;
    for (int64_t i = 0; fits && i < axes; ++i) {
      const int64_t d = i == 0 ? axes - 3 : i == 1 ? axes - 1 : i == 2 ? axes - 2 : axes - 1 - i;
      fits = t.size(d) <= 1 || t.strides()[d] == step;
      step *= t.size(d);
    }
    if (!fits && t.numel() > 0)
      refuse(std::string(name) + " must lie tap by tap; call ops.slot_layers.by_taps");
  }

  void laid(const char* name, const Tensor& t, bool is_conv) const {
    is_conv ? by_taps(name, t) : contiguous(name, t);
  }

  void same_shape(const char* name, const Tensor& t, const Tensor& like) const {
    bool fits = t.dim() == like.dim() && like.dim() > 0;
    for (int64_t d = 0; fits && d < t.dim(); ++d) fits = t.size(d) == like.size(d);
    if (!fits) {
      refuse(std::string(name) + " must be " + shape_text(like) + " with slots first, got " +
             shape_text(t));
    }
  }

  // State is of the type of the activations, or bfloat16 beside float32.
  void state(const char* name, const Tensor& t, bool is_conv = false) const {
    const bool fits_half = is_bf16(t) && alike.type == ScalarType::Float;
    if (!fits_half && t.scalar_type() != alike.type) {
      refuse(std::string(name) +
             " must have the type of the activations, or be bfloat16 beside float32");
    }
    alike.device(name, t);
    laid(name, t, is_conv);
  }

  void choices(int64_t activation, int64_t arithmetic) const {
    if (activation < kNoActivation || activation > kRelu6)
      refuse("activation must be 0 (none), 1 (ReLU) or 2 (ReLU6), got " +
             std::to_string(activation));
    if (arithmetic < kSlotFloat32 || arithmetic > kSlotTf32)
      refuse("arithmetic must be 0 (float32), 1 (3xTF32) or 2 (TF32), got " +
             std::to_string(arithmetic));
    if (arithmetic != kSlotFloat32 && alike.type != ScalarType::Float)
      refuse("arithmetic must be 0 in float64; tensor cores take float32");
  }

  void channels(const char* name, const OptionalTensor& t, int64_t count) const {
    if (!t.has_value()) return;
    check_shape(op, name, *t, {count});
    alike.floating(name, *t);
    contiguous(name, *t);
  }

  void clock(const OptionalTensor& time, const OptionalTensor& active, int64_t slots) const {
    if (time.has_value()) {
      check_shape(op, "time", *time, {slots});
      alike.index("time", *time);
      contiguous("time", *time);
    }
    if (active.has_value()) {
      check_shape(op, "active", *active, {slots});
      if (active->scalar_type() != ScalarType::Bool) refuse("active must be bool");
      alike.device("active", *active);
      contiguous("active", *active);
    }
  }

  ConvShape conv_shape(int64_t slots,
                       int64_t height,
                       int64_t width,
                       const Tensor& weight,
                       const std::vector<int64_t>& geometry,
                       int64_t skip = 0) const {
    if (geometry.size() != 7)
      refuse("geometry must be stride, padding and dilation, two numbers each, and groups");
    for (size_t i = 0; i < 7; ++i) {
      if (geometry[i] < (i == 2 || i == 3 ? 0 : 1))
        refuse("strides, dilations and groups must be positive, and padding not negative");
    }
    if (weight.dim() != 4 + skip) refuse("weights must have 4 axes, got " + shape_text(weight));
    ConvShape s{};
    s.slots = slots;
    s.groups = geometry[6];
    s.cout = weight.size(skip);
    s.cin = weight.size(skip + 1) * s.groups;
    s.hin = height;
    s.win = width;
    s.kh = weight.size(skip + 2);
    s.kw = weight.size(skip + 3);
    s.sh = geometry[0], s.sw = geometry[1];
    s.ph = geometry[2], s.pw = geometry[3];
    s.dh = geometry[4], s.dw = geometry[5];
    const int64_t over_h = height + 2 * s.ph - s.dh * (s.kh - 1) - 1;
    const int64_t over_w = width + 2 * s.pw - s.dw * (s.kw - 1) - 1;
    if (s.kh < 1 || s.kw < 1 || s.cin < 1 || s.cout % s.groups)
      refuse(
          "weights must be [out, in / groups, height, width] with out a multiple of groups, got " +
          shape_text(weight));
    if (over_h < 0 || over_w < 0) refuse("the filter is larger than the padded input");
    s.hout = over_h / s.sh + 1;
    s.wout = over_w / s.sw + 1;
    return s;
  }

  ConvShape conv_shape(const Tensor& x,
                       const Tensor& weight,
                       const std::vector<int64_t>& geometry,
                       int64_t skip = 0) const {
    check_shape(op, "x", x, {-1, -1, -1, -1});
    const ConvShape s = conv_shape(x.size(0), x.size(2), x.size(3), weight, geometry, skip);
    check_shape(op, "x", x, {-1, s.cin, -1, -1});
    if (skip && weight.size(0) != s.slots) refuse("delta must have as many slots as x");
    return s;
  }

  // Weights, differences and biases of a layer.
  void deltas(const Tensor& weight,
              const OptionalTensor& delta,
              int64_t slots,
              const OptionalTensor& bias,
              const OptionalTensor& bias_delta,
              int64_t outs) const {
    const bool is_conv = weight.dim() == 4;
    alike.floating("weight", weight);
    laid("weight", weight, is_conv);
    channels("bias", bias, outs);
    if (delta.has_value()) {
      state("delta", *delta, is_conv);
      if (delta->dim() != weight.dim() + 1 || delta->size(0) != slots ||
          delta->numel() != slots * weight.numel())
        refuse("delta must be [slots, ...] with the shape of the weights, got " +
               shape_text(*delta));
    }
    if (bias_delta.has_value()) {
      if (!bias.has_value()) refuse("bias_delta needs a bias");
      state("bias_delta", *bias_delta);
      check_shape(op, "bias_delta", *bias_delta, {slots, outs});
      if (delta.has_value() && is_bf16(*delta) != is_bf16(*bias_delta))
        refuse("delta and bias_delta must have one type");
    }
  }

  OptionalTensor like(const char* name,
                      const OptionalTensor& t,
                      std::initializer_list<int64_t> shape) const {
    if (!t.has_value()) return {};
    check_shape(op, name, *t, shape);
    alike.floating(name, *t);
    return dense(*t);
  }
  OptionalTensor like_output(const char* name, const OptionalTensor& t, const ConvShape& s) const {
    return like(name, t, {s.slots, s.cout, s.hout, s.wout});
  }
  OptionalTensor like_input(const char* name, const OptionalTensor& t, const ConvShape& s) const {
    return like(name, t, {s.slots, s.cin, s.hin, s.win});
  }

  void has_output(const OptionalTensor& y, int64_t activation) const {
    if (activation != kNoActivation && !y.has_value())
      refuse("y, the output, is needed behind an activation");
  }

  void incoming(const Tensor& g,
                const OptionalTensor& y,
                const OptionalTensor& scale,
                int64_t activation,
                const ConvShape& s) const {
    check_shape(op, "g", g, {s.slots, s.cout, s.hout, s.wout});
    alike.floating("g", g);
    channels("scale", scale, s.cout);
    has_output(y, activation);
  }

  AdamState adam(EFT_ADAM_PARAMETERS, bool is_conv = false) const {
    state("delta", delta, is_conv);
    for (const auto& [name, t] : {std::pair<const char*, const Tensor*>{"first", &first},
                                  std::pair<const char*, const Tensor*>{"second", &second}}) {
      same_shape(name, *t, delta);
      state(name, *t, is_conv);
      if (is_bf16(*t) != is_bf16(delta)) refuse("delta and moments must have one type");
    }
    check_shape(op, "constants", constants, {-1, 2});
    alike.device("constants", constants);
    contiguous("constants", constants);
    if (constants.scalar_type() != ScalarType::Double) refuse("constants must be float64");
    clock(time, active, delta.size(0));
    return {delta, first, second, constants, beta1, beta2, eps, time, active};
  }
};

}  // namespace eft_fast
