"""Layers of mobile networks called by way of the CPU's own operators, where nothing stands between.

A layer stays an ``nn.Conv2d``, so that weights, exports and private copies of it are what they
were; who replaces it by another module, or hooks into it, gets called as ever.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from eft_fast.ops.mobile import (
    DepthwiseForm,
    depthwise_conv2d,
    pointwise_conv2d,
    runs_natively,
)


def depthwise_layer(
    channels: int, kernel: int, stride: int = 1, *, pad_before: bool = True, bias: bool = True
) -> nn.Conv2d:
    """A convolution with one kernel per channel, padded all round by half the kernel.

    Args:
        channels: Of input and output.
        kernel: Side of the kernels.
        stride: Of the output.
        pad_before: False: the layer pads nothing; see ``after`` of ``depthwise_relu6``.
        bias: Whether it has biases.
    """
    padding = kernel // 2 if pad_before else 0
    return nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=bias)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; no activation at the end (MobileNetV2 block).

    Args:
        in_width: Channels of the input.
        out_width: Of the output.
        kernel: Side of the depthwise kernels.
        stride: Of the depthwise convolution.
        expansion: Channels inside over ``in_width``.
        skip: Add the input to the output.
        pad_before: False: pad one row below and one column to the right only, as TensorFlow's SAME
            does for kernels of side 3 at stride 2 and even sizes.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        kernel: int,
        stride: int,
        expansion: int,
        *,
        skip: bool,
        pad_before: bool = True,
    ) -> None:
        super().__init__()
        hidden = in_width * expansion
        self.expand = nn.Conv2d(in_width, hidden, 1)
        self.depthwise = depthwise_layer(hidden, kernel, stride, pad_before=pad_before)
        self.project = nn.Conv2d(hidden, out_width, 1)
        self.skip = skip
        self.pad_after = int(not pad_before)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Apply the block."""
        y = pointwise(self.expand, x)
        y = depthwise_relu6(self.depthwise, y, relu6_before=True, after=self.pad_after)
        y = pointwise(self.project, y)
        out: Tensor = x + y if self.skip else y
        return out


def to_channels_last(x: Float[Tensor, "B C H W"], layer: nn.Module) -> Float[Tensor, "B C H W"]:
    """The same maps in the order that suits the layer and those that follow."""
    if _is_plain(layer) and runs_natively(x, layer.weight):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def depthwise_relu6(
    layer: nn.Module, x: Float[Tensor, "B C H W"], *, relu6_before: bool = False, after: int = 0
) -> Float[Tensor, "B C h w"]:
    """``relu6(layer(x))`` of a depthwise convolution.

    Args:
        layer: The convolution, or what stands in for it.
        x: Maps.
        relu6_before: Apply ``relu6`` to ``x`` first.
        after: Rows of zeros below and columns to the right, beside the layer's own padding.
    """
    if _is_plain(layer) and _is_depthwise(layer) and runs_natively(x, layer.weight):
        before = int(layer.padding[0])
        form = DepthwiseForm(layer.stride[0], before, before + after, relu6_before, True)
        return depthwise_conv2d(x, layer.weight, layer.bias, form)
    if relu6_before:
        x = F.relu6(x)
    if after:
        x = F.pad(x, (0, after, 0, after))
    return F.relu6(layer(x))


def depthwise(layer: nn.Module, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """``layer(x)`` of a depthwise convolution, without clamps."""
    out: Tensor
    if _is_plain(layer) and _is_depthwise(layer) and runs_natively(x, layer.weight):
        padding = int(layer.padding[0])
        form = DepthwiseForm(layer.stride[0], padding, padding)
        out = depthwise_conv2d(x, layer.weight, layer.bias, form)
    else:
        out = layer(x)
    return out


def pointwise(layer: nn.Module, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
    """``layer(x)``; a 1 x 1 convolution takes the quickest way."""
    out: Tensor
    if _is_plain(layer) and _is_pointwise(layer):
        out = pointwise_conv2d(x, layer.weight, layer.bias)
    else:
        out = layer(x)
    return out


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a call of the layer is a call of its convolution."""
    return type(layer) is nn.Conv2d and not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )


def _is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether it has one kernel per channel and the same stride and padding on both axes."""
    return (
        layer.groups == layer.in_channels == layer.out_channels
        and layer.stride[0] == layer.stride[1]
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.padding[0] == layer.padding[1]
        and layer.dilation == (1, 1)
    )


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and layer.groups == 1
        and layer.stride == (1, 1)
        and layer.padding == (0, 0)
    )
