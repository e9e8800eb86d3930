"""The convolutions of mobile networks on the CPU, with the channels last.

Depthwise convolutions with the clamps to [0, 6] around them are native; 1 x 1 convolutions are
torch's matrix products. Whatever else looks at the network (a tracer, an exporter, a transform,
automatic casts, other types and devices) sees torch's convolutions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from eft_fast.ops import _load
from eft_fast.ops._operators import Operator, needs_gradient

#: Sides of the kernels, and strides, that the native depthwise convolution has.
KERNELS = (3, 5)
STRIDES = (1, 2)


class DepthwiseForm(NamedTuple):
    """What a depthwise convolution does beside the product.

    Attributes:
        stride: Of the output, in pixels.
        before: Rows of zeros above, and columns to the left.
        after: Rows of zeros below, and columns to the right.
        clamp_in: The input goes through ``relu6`` first.
        clamp_out: The output goes through ``relu6``.
    """

    stride: int = 1
    before: int = 0
    after: int = 0
    clamp_in: bool = False
    clamp_out: bool = False


def runs_natively(x: Tensor, weight: Tensor) -> bool:
    """Whether eager float32 arithmetic on the CPU is all that is asked for."""
    return (
        not torch.compiler.is_compiling()
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.device.type == "cpu"
        and weight.device.type == "cpu"
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
        and _load.is_built()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
    )


_PLAIN = (Tensor, nn.Parameter)


def depthwise_conv2d(
    x: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "C 1 k k"],
    bias: Float[Tensor, " C"] | None,
    form: DepthwiseForm,
) -> Float[Tensor, "B C h w"]:
    """Filter each channel by its own kernel, with ``relu6`` before and behind where asked for.

    On the CPU the result has the channels last, whatever ``x`` has. Gradients of gradients come
    from torch's convolution. The sums of a weight's gradient have one order, whatever the number of
    threads, and outputs of an image do not depend on its neighbours.

    Args:
        x: Maps; float32 on the CPU for the native way, anything that ``F.conv2d`` takes otherwise.
        weight: Kernels; the native way knows sides of 3 and 5, and strides of 1 and 2.
        bias: Added to the product, or None.
        form: Stride, padding and clamps.
    """
    if not (runs_natively(x, weight) and _has_kernel(x, weight, bias, form)):
        return _plain_depthwise(x, weight, bias, form)
    x = x.contiguous(memory_format=torch.channels_last)
    if needs_gradient(x, weight, bias):
        out: Tensor = _Depthwise.apply(x, weight, bias, form)  # type: ignore[no-untyped-call]
        return out
    y: Tensor = _DEPTHWISE(x.permute(0, 2, 3, 1), weight, bias, *form)
    return y.permute(0, 3, 1, 2)


def pointwise_conv2d(
    x: Float[Tensor, "B C H W"], weight: Float[Tensor, "D C 1 1"], bias: Float[Tensor, " D"] | None
) -> Float[Tensor, "B D H W"]:
    """``F.conv2d`` of 1 x 1 kernels; a matrix product where the channels are last on the CPU.

    Args:
        x: Maps.
        weight: The matrix.
        bias: Added to the product, or None.
    """
    if (
        runs_natively(x, weight)
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.shape[2:] == (1, 1)
    ):
        # Quicker than torch's convolution, above all backward: python -m benchmarks.mobile.
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias)


def _has_kernel(x: Tensor, weight: Tensor, bias: Tensor | None, form: DepthwiseForm) -> bool:
    if x.ndim != 4 or weight.ndim != 4 or x.numel() == 0:
        return False
    channels, inputs, height, width = weight.shape
    smallest = height - form.before - form.after
    return (
        (channels, inputs, width) == (x.shape[1], 1, height)
        and height in KERNELS
        and form.stride in STRIDES
        and 0 <= form.before < height
        and 0 <= form.after < height
        and min(x.shape[2:]) >= smallest
        and weight.is_contiguous()
        and (bias is None or (type(bias) in _PLAIN and bias.dtype is torch.float32))
        and (bias is None or bias.is_contiguous())
    )


def _plain_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, form: DepthwiseForm) -> Tensor:
    """The same by torch's operators."""
    if form.clamp_in:
        x = F.relu6(x)
    padding = form.before
    if form.before != form.after:
        x, padding = F.pad(x, (form.before, form.after) * 2), 0
    y = F.conv2d(x, weight, bias, form.stride, padding, groups=weight.shape[0])
    return F.relu6(y) if form.clamp_out else y


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, form: DepthwiseForm
    ) -> Tensor:
        y: Tensor = _DEPTHWISE(x.permute(0, 2, 3, 1), weight, bias, *form).permute(0, 3, 1, 2)
        ctx.form = form
        ctx.save_for_backward(x, weight, bias, y if form.clamp_out else None)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight, _, y), form = grads, ctx.saved_tensors, ctx.form
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return _gradients_with_graph(ctx, g)
        g_x, g_weight, g_bias = _DEPTHWISE_BACKWARD(
            g.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1),
            x.permute(0, 2, 3, 1),
            weight,
            None if y is None else y.permute(0, 2, 3, 1),
            *form[:4],
            wants_x,
            wants_weight or wants_bias,
        )
        return (
            g_x.permute(0, 3, 1, 2) if wants_x else None,
            g_weight if wants_weight else None,
            g_bias if wants_bias else None,
            None,
        )


def _gradients_with_graph(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again, from torch's operators."""
    x, weight, bias, _ = ctx.saved_tensors
    needed = ctx.needs_input_grad[:3]
    wanted = [each for each, is_needed in zip((x, weight, bias), needed, strict=True) if is_needed]
    out = _plain_depthwise(x, weight, bias, ctx.form)
    found = iter(torch.autograd.grad(out, wanted, g, create_graph=True))
    return (*(next(found) if is_needed else None for is_needed in needed), None)


def _depthwise_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, before: int, after: int, *_: bool
) -> Tensor:
    batch, height, width, channels = x.shape
    extra = before + after - weight.shape[2]
    shape = ((height + extra) // stride + 1, (width + extra) // stride + 1)
    return x.new_empty(batch, *shape, channels)


def _depthwise_backward_fake(
    g: Tensor, x: Tensor, weight: Tensor, y: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *_, needs_x, needs_weight = options
    return (
        x.new_empty(x.shape if needs_x else (0,)),
        x.new_empty(weight.shape if needs_weight else (0,)),
        x.new_empty(weight.shape[:1] if needs_weight else (0,)),
    )


_DEPTHWISE = Operator("depthwise", _depthwise_fake)
_DEPTHWISE_BACKWARD = Operator("depthwise_backward", _depthwise_backward_fake)
