"""The operators of ``slot_layers`` in plain torch: what the kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from eft_fast.ops.slot_types import (
    AdamOptions,
    ConvEnd,
    Geometry,
    SlotClock,
    SlotState,
    SlotWeights,
)


def conv_forward(
    x: Tensor,
    weights: SlotWeights,
    geometry: Geometry,
    clock: SlotClock,
    end: ConvEnd,
    residual: Tensor | None,
) -> Tensor:
    """See ``slot_layers.conv_forward``."""
    weight = _own(weights.weight, weights.delta, clock, x)
    if _is_pointwise(weight, geometry):
        columns = _strided(x, geometry)
        out = torch.bmm(weight.flatten(2), columns.flatten(2))
        out = out.reshape(len(x), -1, *columns.shape[2:])
    else:
        where = geometry.stride, geometry.padding, geometry.dilation
        groups = len(x) * geometry.groups
        out = F.conv2d(_in_one(x), weight.flatten(0, 1), None, *where, groups)
        out = out.reshape(len(x), -1, *out.shape[2:])
    if weights.bias is not None:
        out = out + _own(weights.bias, weights.bias_delta, clock, x)[:, :, None, None]
    if end.scale is not None:
        out = out * _columns(end.scale)
    if end.shift is not None:
        out = out + _columns(end.shift)
    if residual is not None:
        out = out + residual
    if end.activation == "relu":
        return F.relu(out)
    return F.relu6(out) if end.activation == "relu6" else out


def conv_backward(
    g: Tensor,
    weights: SlotWeights,
    geometry: Geometry,
    clock: SlotClock,
    size: tuple[int, int],
    y: Tensor | None,
    end: ConvEnd,
) -> Tensor:
    """See ``slot_layers.conv_backward``."""
    weight = _own(weights.weight, weights.delta, clock, g)
    g, slots = masked(g, y, end), len(g)
    channels = weight.shape[2] * geometry.groups
    if _is_pointwise(weight, geometry):
        below = torch.bmm(weight.flatten(2).transpose(1, 2), g.flatten(2))
        below = below.reshape(slots, channels, *g.shape[2:])
        if geometry.stride == (1, 1):
            return below
        out = g.new_zeros(slots, channels, *size)
        _strided(out, geometry).copy_(below)
        return out
    where = geometry.stride, geometry.padding, geometry.dilation, slots * geometry.groups
    shape = [1, slots * channels, *size]
    all_below: Tensor = conv2d_input(shape, weight.flatten(0, 1), _in_one(g), *where)
    return all_below.reshape(slots, channels, *size)


def conv_update(
    g: Tensor,
    x: Tensor,
    state: SlotState,
    adam: AdamOptions,
    geometry: Geometry,
    clock: SlotClock,
    y: Tensor | None,
    end: ConvEnd,
) -> None:
    """See ``slot_layers.conv_update``."""
    g = conv_gradient(masked(g, y, end), x, state, geometry)
    adam_update(g, state, adam, clock)


def conv_gradient(g: Tensor, x: Tensor, state: SlotState, geometry: Geometry) -> Tensor:
    """Gradient of the weights, ``[S, D, C / groups, kh, kw]``."""
    shape = state.delta.shape
    if _is_pointwise(state.delta, geometry):
        columns = _strided(x, geometry).flatten(2).transpose(1, 2)
        return torch.bmm(g.flatten(2), columns).reshape(shape)
    where = geometry.stride, geometry.padding, geometry.dilation, len(g) * geometry.groups
    gradient: Tensor = conv2d_weight(
        _in_one(x), (shape[0] * shape[1], *shape[2:]), _in_one(g), *where
    )
    return gradient.reshape(shape)


def bias_update(
    g: Tensor,
    state: SlotState,
    adam: AdamOptions,
    clock: SlotClock,
    y: Tensor | None,
    end: ConvEnd,
) -> None:
    """See ``slot_layers.bias_update``."""
    adam_update(masked(g, y, end, trailing=1).sum((1, 3)), state, adam, clock)


def adam_update(g: Tensor, state: SlotState, adam: AdamOptions, clock: SlotClock) -> None:
    """See ``slot_layers.adam_update``; the order of operations is that of ``torch.optim.Adam``."""
    slots, steps = len(g), len(adam.constants)
    shape = (slots,) + (1,) * (g.ndim - 1)
    going = (clock.active & (clock.time >= 0) & (clock.time < steps)).reshape(shape)
    is_new = (clock.time == 0).reshape(shape)
    rate, root = adam.constants[clock.time.long().clamp(0, steps - 1)].to(g).unbind(1)
    delta, first, second = (
        torch.where(is_new, 0.0, part.to(g.dtype))
        for part in (state.delta, state.first, state.second)
    )
    first.lerp_(g, 1 - adam.betas[0])
    second.mul_(adam.betas[1]).addcmul_(g, g, value=1 - adam.betas[1])
    denominator = (second.sqrt() / root.reshape(shape)).add_(adam.eps)
    delta.sub_((first / denominator).mul_(rate.reshape(shape)))
    for target, value in zip(
        (state.delta, state.first, state.second), (delta, first, second), strict=True
    ):
        target.copy_(torch.where(going, value.to(target.dtype), target))


def linear_forward(x: Tensor, weights: SlotWeights, clock: SlotClock) -> Tensor:
    """See ``slot_layers.linear_forward``."""
    out = torch.bmm(x, _own(weights.weight, weights.delta, clock, x).transpose(1, 2))
    if weights.bias is None:
        return out
    return out + _own(weights.bias, weights.bias_delta, clock, x)[:, None]


def linear_backward(g: Tensor, weights: SlotWeights, clock: SlotClock) -> Tensor:
    """See ``slot_layers.linear_backward``."""
    return torch.bmm(g, _own(weights.weight, weights.delta, clock, g))


def linear_update(
    g: Tensor, x: Tensor, state: SlotState, adam: AdamOptions, clock: SlotClock
) -> None:
    """See ``slot_layers.linear_update``."""
    adam_update(torch.bmm(g.transpose(1, 2), x), state, adam, clock)


def _own(start: Tensor, delta: Tensor | None, clock: SlotClock, like: Tensor) -> Tensor:
    """The weights of each slot; a new person's are the start, whatever lies in the difference."""
    if delta is None:
        return start.expand(len(like), *start.shape)
    is_new = (clock.time == 0).reshape(-1, *(1,) * start.ndim)
    return start + torch.where(is_new, 0.0, delta.to(start.dtype))


def masked(g: Tensor, y: Tensor | None, end: ConvEnd, *, trailing: int = 2) -> Tensor:
    """See ``slot_layers.masked``."""
    if end.activation != "none":
        assert y is not None
        flat = (y <= 0) | (y >= 6) if end.activation == "relu6" else y <= 0
        g = torch.where(flat, 0.0, g)
    return g if end.scale is None else g * end.scale.reshape(-1, *(1,) * trailing)


def _columns(values: Tensor) -> Tensor:
    return values[:, None, None]


def _is_pointwise(weight: Tensor, geometry: Geometry) -> bool:
    return tuple(weight.shape[3:]) == (1, 1) and geometry.groups == 1 and not any(geometry.padding)


def _strided(x: Tensor, geometry: Geometry) -> Tensor:
    return x[:, :, :: geometry.stride[0], :: geometry.stride[1]]


def _in_one(x: Tensor) -> Tensor:
    """All slots as channels of one image."""
    return x.reshape(1, -1, *x.shape[2:])
