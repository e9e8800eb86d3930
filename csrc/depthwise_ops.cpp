// Registration of the depthwise convolution, for maps with the channels last on the CPU. Elsewhere
// torch's convolution runs instead.
#include <tuple>

#include "device.h"

namespace eft_fast {
namespace {

void check_floats(const char* op, const char* name, const Tensor& t) {
  if (t.scalar_type() != ScalarType::Float || t.is_cuda() || !t.is_contiguous())
    refuse(std::string(op) + ": " + name + " must be contiguous float32 on the CPU");
}

cpu::DepthwiseMaps check_maps(const char* op,
                              const Tensor& x,
                              const Tensor& weight,
                              int64_t stride,
                              int64_t before,
                              int64_t after,
                              bool clamp_in) {
  check_shape(op, "x", x, {-1, -1, -1, -1});
  check_floats(op, "x", x);
  check_shape(op, "weight", weight, {x.size(3), 1, -1, -1});
  check_floats(op, "weight", weight);
  const int64_t kernel = weight.size(2);
  if ((kernel != 3 && kernel != 5) || weight.size(3) != kernel)
    refuse(std::string(op) + ": weight must be [C, 1, 3, 3] or [C, 1, 5, 5], got " +
           shape_text(weight));
  if (stride < 1 || stride > 2 || before < 0 || before >= kernel || after < 0 || after >= kernel)
    refuse(std::string(op) + ": stride must be 1 or 2 and padding less than the kernel, got " +
           std::to_string(stride) + ", " + std::to_string(before) + ", " + std::to_string(after));
  const int64_t rows = x.size(1) + before + after, columns = x.size(2) + before + after;
  if (rows < kernel || columns < kernel)
    refuse(std::string(op) + ": x must not be smaller than the kernel, got " + shape_text(x));
  return {Cpu::pool,
          x.size(0),
          x.size(3),
          x.size(1),
          x.size(2),
          (rows - kernel) / stride + 1,
          (columns - kernel) / stride + 1,
          static_cast<int>(kernel),
          static_cast<int>(stride),
          before,
          clamp_in,
          read<float>(x),
          read<float>(weight)};
}

Tensor depthwise(const Tensor& x,
                 const Tensor& weight,
                 const OptionalTensor& bias,
                 int64_t stride,
                 int64_t before,
                 int64_t after,
                 bool clamp_in,
                 bool clamp_out) {
  const char* op = "depthwise";
  const cpu::DepthwiseMaps s = check_maps(op, x, weight, stride, before, after, clamp_in);
  if (bias.has_value()) {
    check_shape(op, "bias", *bias, {s.channels});
    check_floats(op, "bias", *bias);
  }
  const Tensor y = empty_as(x, {s.images, s.out_height, s.out_width, s.channels});
  if (y.numel()) Cpu(op, x).run(cpu::Depthwise{s, clamp_out, read<float>(bias), write<float>(y)});
  return y;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_backward(const Tensor& g,
                                                      const Tensor& x,
                                                      const Tensor& weight,
                                                      const OptionalTensor& y,
                                                      int64_t stride,
                                                      int64_t before,
                                                      int64_t after,
                                                      bool clamp_in,
                                                      bool needs_x,
                                                      bool needs_weight) {
  const char* op = "depthwise_backward";
  const cpu::DepthwiseMaps s = check_maps(op, x, weight, stride, before, after, clamp_in);
  check_shape(op, "g", g, {s.images, s.out_height, s.out_width, s.channels});
  check_floats(op, "g", g);
  if (y.has_value()) {
    check_shape(op, "y", *y, {s.images, s.out_height, s.out_width, s.channels});
    check_floats(op, "y", *y);
  }
  const Tensor g_x =
      needs_x ? empty_as(x, {s.images, s.height, s.width, s.channels}) : empty_as(x, {0});
  const Tensor g_weight =
      needs_weight ? empty_as(x, {s.channels, 1, s.kernel, s.kernel}) : empty_as(x, {0});
  const Tensor g_bias = needs_weight ? empty_as(x, {s.channels}) : empty_as(x, {0});
  if (s.channels && (needs_x || needs_weight))
    Cpu(op, x).run(cpu::DepthwiseBackward{s,
                                          read<float>(y),
                                          read<float>(g),
                                          needs_x ? write<float>(g_x) : nullptr,
                                          needs_weight ? write<float>(g_weight) : nullptr,
                                          needs_weight ? write<float>(g_bias) : nullptr});
  return {g_x, g_weight, g_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(eft_fast, m) {
  // x [B,H,W,C], weight [C,1,k,k], bias [C]; k 3 or 5, stride 1 or 2; `before` rows and columns of
  // zeros above and to the left, `after` below and to the right; clamps to [0, 6] of x and of the
  // result. -> y [B,h,w,C].
  m.def(
      "depthwise(Tensor x, Tensor weight, Tensor? bias, int stride, int before, int after, "
      "bool clamp_in, bool clamp_out) -> Tensor");
  // g: gradient of y; y: given where the result was clamped. -> gradients of x, weight and bias;
  // [0] where not needed. No autograd formula: ops/mobile.py has it.
  m.def(
      "depthwise_backward(Tensor g, Tensor x, Tensor weight, Tensor? y, int stride, int before, "
      "int after, bool clamp_in, bool needs_x, bool needs_weight) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) {
  m.impl("depthwise", TORCH_BOX(&depthwise));
  m.impl("depthwise_backward", TORCH_BOX(&depthwise_backward));
}

}  // namespace eft_fast
