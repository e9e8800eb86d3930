// The per-slot layers as operators: schemas, checks, and the way to their CUDA kernels. On the CPU
// ops/slot_layers.py computes them in plain torch.
//
// Letters: S slots, C and D channels in and out, R rows, N steps. Activations are [S,C,H,W] and
// [S,R,C]; weights [D,C/groups,kh,kw], which lie tap by tap (ops.slot_layers.by_taps), and [D,C]; a
// difference or a moment has the weights' shape behind [S] and lies as they do, in their type or
// bfloat16. geometry: stride, padding and dilation (two numbers each)
// and groups. activation: 0 none, 1 ReLU, 2 ReLU6. arithmetic: 0 float32, 1 3xTF32, 2 TF32. time
// [S] int32 and active [S] bool say which slots take part; constants [N,2] float64 are Adam's.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "cuda/slot_launchers.h"

#define EFT_ADAM                                                                           \
  "Tensor(a!) delta, Tensor(b!) first, Tensor(c!) second, Tensor constants, float beta1, " \
  "float beta2, float eps, Tensor time, Tensor? active"
#define EFT_CLOCK "Tensor? time, Tensor? active"

STABLE_TORCH_LIBRARY_FRAGMENT(eft_fast, m) {
  // activation(scale (x * W + bias) + shift + residual), W = weight + delta.
  m.def(
      "slot_conv_forward(Tensor x, Tensor weight, Tensor? delta, Tensor? bias, Tensor? bias_delta, "
      "Tensor? scale, Tensor? shift, Tensor? residual, " EFT_CLOCK
      ", int[] geometry, int activation, int arithmetic) -> Tensor");
  // Gradient of x [S,C,height,width] from g, that of the output y; add is added.
  m.def(
      "slot_conv_backward(Tensor g, Tensor? y, Tensor? scale, Tensor weight, Tensor? delta, "
      "Tensor? add, " EFT_CLOCK
      ", int height, int width, int[] geometry, int activation, "
      "int arithmetic) -> Tensor");
  // Gradient of the weights, and Adam with it, in place.
  m.def("slot_conv_update(Tensor g, Tensor? y, Tensor? scale, Tensor x, " EFT_ADAM
        ", int[] geometry, int activation, int arithmetic) -> ()");
  // The same of a bias; g [S,R,C,pixels] is summed over rows and pixels.
  m.def("slot_bias_update(Tensor g, Tensor? y, Tensor? scale, " EFT_ADAM ", int activation) -> ()");
  // Adam with the gradient g [S,...].
  m.def("slot_adam_update(Tensor g, " EFT_ADAM ") -> ()");
  m.def(
      "slot_linear_forward(Tensor x, Tensor weight, Tensor? delta, Tensor? bias, "
      "Tensor? bias_delta, " EFT_CLOCK ") -> Tensor");
  m.def("slot_linear_backward(Tensor g, Tensor weight, Tensor? delta, " EFT_CLOCK ") -> Tensor");
  m.def("slot_linear_update(Tensor g, Tensor x, " EFT_ADAM ") -> ()");
}

#ifdef EFT_FAST_WITH_CUDA

#include "slot_checks.h"

namespace eft_fast {
namespace {

Tensor slot_conv_forward(const Tensor& x,
                         const Tensor& weight,
                         const OptionalTensor& delta,
                         const OptionalTensor& bias,
                         const OptionalTensor& bias_delta,
                         const OptionalTensor& scale,
                         const OptionalTensor& shift,
                         const OptionalTensor& residual,
                         const OptionalTensor& time,
                         const OptionalTensor& active,
                         std::vector<int64_t> geometry,
                         int64_t activation,
                         int64_t arithmetic) {
  const SlotCheck check("slot_conv_forward", x);
  const ConvShape shape = check.conv_shape(x, weight, geometry);
  check.choices(activation, arithmetic);
  check.deltas(weight, delta, shape.slots, bias, bias_delta, shape.cout);
  check.channels("scale", scale, shape.cout);
  check.channels("shift", shift, shape.cout);
  if (scale.has_value() != shift.has_value()) check.refuse("scale and shift must come together");
  check.clock(time, active, shape.slots);
  const Cuda device(check.op, x);
  const Tensor in = dense(x);
  const OptionalTensor added = check.like_output("residual", residual, shape);
  const Tensor out = empty_as(x, {shape.slots, shape.cout, shape.hout, shape.wout});
  for_type(x, [&](auto zero) {
    using S = decltype(zero);
    device.check(SlotLaunchers<S>::conv_forward(&shape.slots,
                                                read<S>(in),
                                                read<S>(weight),
                                                read<void>(delta),
                                                read<S>(bias),
                                                read<void>(bias_delta),
                                                state_of(delta, bias_delta),
                                                read<S>(scale),
                                                read<S>(shift),
                                                read<S>(added),
                                                activation,
                                                arithmetic,
                                                write<S>(out),
                                                read<int32_t>(time),
                                                read<uint8_t>(active),
                                                device.stream()));
  });
  return out;
}

Tensor slot_conv_backward(const Tensor& g,
                          const OptionalTensor& y,
                          const OptionalTensor& scale,
                          const Tensor& weight,
                          const OptionalTensor& delta,
                          const OptionalTensor& add,
                          const OptionalTensor& time,
                          const OptionalTensor& active,
                          int64_t height,
                          int64_t width,
                          std::vector<int64_t> geometry,
                          int64_t activation,
                          int64_t arithmetic) {
  const SlotCheck check("slot_conv_backward", g);
  check_shape(check.op, "g", g, {-1, -1, -1, -1});
  const ConvShape shape = check.conv_shape(g.size(0), height, width, weight, geometry);
  check.choices(activation, arithmetic);
  check.incoming(g, y, scale, activation, shape);
  check.deltas(weight, delta, shape.slots, {}, {}, shape.cout);
  check.clock(time, active, shape.slots);
  const Cuda device(check.op, g);
  const Tensor gradient = dense(g);
  const OptionalTensor out = check.like_output("y", y, shape);
  const OptionalTensor added = check.like_input("add", add, shape);
  const Tensor g_x = empty_as(g, {shape.slots, shape.cin, shape.hin, shape.win});
  for_type(g, [&](auto zero) {
    using S = decltype(zero);
    device.check(SlotLaunchers<S>::conv_backward(&shape.slots,
                                                 read<S>(gradient),
                                                 read<S>(out),
                                                 read<S>(scale),
                                                 read<S>(weight),
                                                 read<void>(delta),
                                                 state_of(delta, {}),
                                                 read<S>(added),
                                                 activation,
                                                 arithmetic,
                                                 write<S>(g_x),
                                                 read<int32_t>(time),
                                                 read<uint8_t>(active),
                                                 device.stream()));
  });
  return g_x;
}

void slot_conv_update(const Tensor& g,
                      const OptionalTensor& y,
                      const OptionalTensor& scale,
                      const Tensor& x,
                      EFT_ADAM_PARAMETERS,
                      std::vector<int64_t> geometry,
                      int64_t activation,
                      int64_t arithmetic) {
  const SlotCheck check("slot_conv_update", x);
  const ConvShape shape = check.conv_shape(x, delta, geometry, 1);
  check.choices(activation, arithmetic);
  check.incoming(g, y, scale, activation, shape);
  const AdamState adam = check.adam(EFT_ADAM_ARGUMENTS, true);
  const Cuda device(check.op, x);
  const Tensor gradient = dense(g), in = dense(x);
  const OptionalTensor out = check.like_output("y", y, shape);
  const int64_t needed = conv_update_workspace(shape);
  const Tensor workspace = empty_as(x, {needed});
  for_type(x, [&](auto zero) {
    using S = decltype(zero);
    device.check(adam.call(SlotLaunchers<S>::conv_update,
                           device.stream(),
                           &shape.slots,
                           read<S>(gradient),
                           read<S>(out),
                           read<S>(scale),
                           read<S>(in),
                           activation,
                           arithmetic,
                           needed ? write<S>(workspace) : nullptr));
  });
}

void slot_bias_update(const Tensor& g,
                      const OptionalTensor& y,
                      const OptionalTensor& scale,
                      EFT_ADAM_PARAMETERS,
                      int64_t activation) {
  const SlotCheck check("slot_bias_update", g);
  check_shape(check.op, "g", g, {-1, -1, -1, -1});
  check_shape(check.op, "delta", delta, {g.size(0), g.size(2)});
  check.choices(activation, kSlotFloat32);
  check.channels("scale", scale, g.size(2));
  const AdamState adam = check.adam(EFT_ADAM_ARGUMENTS);
  const Cuda device(check.op, g);
  const Tensor gradient = dense(g);
  const OptionalTensor out = check.like("y", y, {g.size(0), g.size(1), g.size(2), g.size(3)});
  check.has_output(y, activation);
  for_type(g, [&](auto zero) {
    using S = decltype(zero);
    device.check(adam.call(SlotLaunchers<S>::bias_update,
                           device.stream(),
                           g.size(0),
                           g.size(1),
                           g.size(2),
                           g.size(3),
                           read<S>(gradient),
                           read<S>(out),
                           read<S>(scale),
                           activation));
  });
}

void slot_adam_update(const Tensor& g, EFT_ADAM_PARAMETERS) {
  const SlotCheck check("slot_adam_update", g);
  check.same_shape("delta", delta, g);
  const AdamState adam = check.adam(EFT_ADAM_ARGUMENTS);
  const Cuda device(check.op, g);
  const Tensor gradient = dense(g);
  const int64_t slots = g.size(0), numbers = slots ? g.numel() / slots : 0;
  for_type(g, [&](auto zero) {
    using S = decltype(zero);
    device.check(adam.call(SlotLaunchers<S>::adam_update,
                           device.stream(),
                           slots,
                           int64_t{1},
                           numbers,
                           read<S>(gradient)));
  });
}

Tensor slot_linear_forward(const Tensor& x,
                           const Tensor& weight,
                           const OptionalTensor& delta,
                           const OptionalTensor& bias,
                           const OptionalTensor& bias_delta,
                           const OptionalTensor& time,
                           const OptionalTensor& active) {
  const SlotCheck check("slot_linear_forward", x);
  check_shape(check.op, "x", x, {-1, -1, -1});
  check_shape(check.op, "weight", weight, {-1, x.size(2)});
  const int64_t slots = x.size(0), outs = weight.size(0);
  check.deltas(weight, delta, slots, bias, bias_delta, outs);
  check.clock(time, active, slots);
  const Cuda device(check.op, x);
  const Tensor in = dense(x), out = empty_as(x, {slots, x.size(1), outs});
  for_type(x, [&](auto zero) {
    using S = decltype(zero);
    device.check(SlotLaunchers<S>::linear_forward(slots,
                                                  x.size(1),
                                                  x.size(2),
                                                  outs,
                                                  read<S>(in),
                                                  read<S>(weight),
                                                  read<void>(delta),
                                                  read<S>(bias),
                                                  read<void>(bias_delta),
                                                  state_of(delta, bias_delta),
                                                  write<S>(out),
                                                  read<int32_t>(time),
                                                  read<uint8_t>(active),
                                                  device.stream()));
  });
  return out;
}

Tensor slot_linear_backward(const Tensor& g,
                            const Tensor& weight,
                            const OptionalTensor& delta,
                            const OptionalTensor& time,
                            const OptionalTensor& active) {
  const SlotCheck check("slot_linear_backward", g);
  check_shape(check.op, "g", g, {-1, -1, -1});
  check_shape(check.op, "weight", weight, {g.size(2), -1});
  const int64_t slots = g.size(0), ins = weight.size(1);
  check.deltas(weight, delta, slots, {}, {}, g.size(2));
  check.clock(time, active, slots);
  const Cuda device(check.op, g);
  const Tensor gradient = dense(g), g_x = empty_as(g, {slots, g.size(1), ins});
  for_type(g, [&](auto zero) {
    using S = decltype(zero);
    device.check(SlotLaunchers<S>::linear_backward(slots,
                                                   g.size(1),
                                                   ins,
                                                   g.size(2),
                                                   read<S>(gradient),
                                                   read<S>(weight),
                                                   read<void>(delta),
                                                   state_of(delta, {}),
                                                   write<S>(g_x),
                                                   read<int32_t>(time),
                                                   read<uint8_t>(active),
                                                   device.stream()));
  });
  return g_x;
}

void slot_linear_update(const Tensor& g, const Tensor& x, EFT_ADAM_PARAMETERS) {
  const SlotCheck check("slot_linear_update", x);
  check_shape(check.op, "x", x, {-1, -1, -1});
  check_shape(check.op, "g", g, {x.size(0), x.size(1), -1});
  check.alike.floating("g", g);
  check_shape(check.op, "delta", delta, {x.size(0), g.size(2), x.size(2)});
  const AdamState adam = check.adam(EFT_ADAM_ARGUMENTS);
  const Cuda device(check.op, x);
  const Tensor gradient = dense(g), in = dense(x);
  for_type(x, [&](auto zero) {
    using S = decltype(zero);
    device.check(adam.call(SlotLaunchers<S>::linear_update,
                           device.stream(),
                           x.size(0),
                           x.size(1),
                           x.size(2),
                           g.size(2),
                           read<S>(gradient),
                           read<S>(in)));
  });
}

template <typename Device>
void implement(Library& m) {
#define EFT_IMPL(name) m.impl(#name, TORCH_BOX(&name))
  EFT_IMPL(slot_conv_forward);
  EFT_IMPL(slot_conv_backward);
  EFT_IMPL(slot_conv_update);
  EFT_IMPL(slot_bias_update);
  EFT_IMPL(slot_adam_update);
  EFT_IMPL(slot_linear_forward);
  EFT_IMPL(slot_linear_backward);
  EFT_IMPL(slot_linear_update);
#undef EFT_IMPL
}

}  // namespace

EFT_IMPLEMENT_CUDA

}  // namespace eft_fast

#endif  // EFT_FAST_WITH_CUDA
