"""Layers in which every slot has weights of its own, and whose backward makes Adam's step too.

The operators behind ``eft.batched.adam_in_backward``: forward, gradient of the input, and the
weight gradient with the update in its epilogue. On a GPU they are the kernels of
``csrc/cuda/slot_*.cu``; elsewhere ``slot_reference`` computes the same in plain torch. None of them
records gradients.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.ops import _load, _operators, slot_reference
from eft_fast.ops._operators import Operator
from eft_fast.ops.slot_types import (
    ACTIVATIONS,
    ARITHMETIC,
    AdamOptions,
    ConvEnd,
    Geometry,
    SlotClock,
    SlotState,
    SlotWeights,
    by_taps,
    empty_state,
    make_adam_options,
)

__all__ = [
    "ACTIVATIONS",
    "ARITHMETIC",
    "AdamOptions",
    "ConvEnd",
    "Geometry",
    "SlotClock",
    "SlotState",
    "SlotWeights",
    "adam_update",
    "bias_update",
    "by_taps",
    "conv_backward",
    "conv_forward",
    "conv_gradient",
    "conv_update",
    "empty_state",
    "has_kernels",
    "linear_backward",
    "linear_forward",
    "linear_update",
    "make_adam_options",
    "masked",
]

_PLAIN: Final = ConvEnd()


def conv_forward(
    x: Float[Tensor, "S C H W"],
    weights: SlotWeights,
    geometry: Geometry,
    clock: SlotClock,
    *,
    end: ConvEnd = _PLAIN,
    residual: Float[Tensor, "S D h w"] | None = None,
    arithmetic: str = "float32",
) -> Float[Tensor, "S D h w"]:
    """activation(scale * (x * W + bias) + shift + residual), W = weight + delta.

    Weights and state of convolutions lie as ``by_taps`` lays them, for the kernels. Rows of slots
    that are not active hold anything.
    """
    if not has_kernels(x):
        return slot_reference.conv_forward(x, weights, geometry, clock, end, residual)
    out: Tensor = _CONV_FORWARD(
        *(x, *weights.all(), end.scale, end.shift, residual, clock.time, clock.active),
        *(geometry.row(), ACTIVATIONS[end.activation], ARITHMETIC[arithmetic]),
    )
    return out


def conv_backward(
    g: Float[Tensor, "S D h w"],
    weights: SlotWeights,
    geometry: Geometry,
    clock: SlotClock,
    size: tuple[int, int],
    *,
    y: Float[Tensor, "S D h w"] | None = None,
    end: ConvEnd = _PLAIN,
    arithmetic: str = "float32",
) -> Float[Tensor, "S C H W"]:
    """Gradient of the input of ``conv_forward``.

    Args:
        g: Gradient of the output.
        weights: Those of the forward pass.
        geometry: That of the forward pass.
        clock: Active slots.
        size: Height and width of the input.
        y: The output, where an activation followed.
        end: What followed.
        arithmetic: One of ``ARITHMETIC``.
    """
    if not has_kernels(g):
        return slot_reference.conv_backward(g, weights, geometry, clock, size, y, end)
    g_x: Tensor = _CONV_BACKWARD(
        *(g, y, end.scale, weights.weight, weights.delta, None, clock.time, clock.active),
        *(*size, geometry.row(), ACTIVATIONS[end.activation], ARITHMETIC[arithmetic]),
    )
    return g_x


def conv_update(
    g: Float[Tensor, "S D h w"],
    x: Float[Tensor, "S C H W"],
    state: SlotState,
    adam: AdamOptions,
    geometry: Geometry,
    clock: SlotClock,
    *,
    y: Float[Tensor, "S D h w"] | None = None,
    end: ConvEnd = _PLAIN,
    arithmetic: str = "float32",
) -> None:
    """Make the weight gradient of ``conv_forward`` and Adam's step with it, in place."""
    if not has_kernels(x):
        slot_reference.conv_update(g, x, state, adam, geometry, clock, y, end)
        return
    _CONV_UPDATE(
        *(g, y, end.scale, x, *_adam_row(state, adam, clock)),
        *(geometry.row(), ACTIVATIONS[end.activation], ARITHMETIC[arithmetic]),
    )


def conv_gradient(
    g: Float[Tensor, "S D h w"],
    x: Float[Tensor, "S C H W"],
    state: SlotState,
    geometry: Geometry,
    *,
    y: Float[Tensor, "S D h w"] | None = None,
    end: ConvEnd = _PLAIN,
) -> Tensor:
    """The weight gradient alone, in plain torch, for layers that are used several times."""
    return slot_reference.conv_gradient(masked(g, y, end), x, state, geometry)


def masked(g: Tensor, y: Tensor | None, end: ConvEnd, *, trailing: int = 2) -> Tensor:
    """What arrives at the sum of a layer, from the gradient behind its end.

    Args:
        g: Gradient of the output.
        y: The output, where an activation followed.
        end: What followed.
        trailing: Axes behind that of the channels.
    """
    return slot_reference.masked(g, y, end, trailing=trailing)


def bias_update(
    g: Float[Tensor, "S R D P"],
    state: SlotState,
    adam: AdamOptions,
    clock: SlotClock,
    *,
    y: Float[Tensor, "S R D P"] | None = None,
    end: ConvEnd = _PLAIN,
) -> None:
    """Sum a bias's gradient over rows and pixels and make Adam's step with it, in place."""
    if not has_kernels(g):
        slot_reference.bias_update(g, state, adam, clock, y, end)
        return
    _BIAS_UPDATE(g, y, end.scale, *_adam_row(state, adam, clock), ACTIVATIONS[end.activation])


def adam_update(g: Tensor, state: SlotState, adam: AdamOptions, clock: SlotClock) -> None:
    """Make Adam's step with the gradient ``g``, in place."""
    if not has_kernels(g):
        slot_reference.adam_update(g, state, adam, clock)
        return
    if not state.delta.is_contiguous():  # weights of a convolution, which lie tap by tap
        parts = (state.delta, state.first, state.second)
        state = SlotState(*(part.movedim(-3, -1) for part in parts))
        g = g.movedim(-3, -1)
    _ADAM_UPDATE(g, *_adam_row(state, adam, clock))


def linear_forward(
    x: Float[Tensor, "S R C"], weights: SlotWeights, clock: SlotClock
) -> Float[Tensor, "S R D"]:
    """X W^T + bias with each slot's own weights, always in the type of ``x``."""
    if not has_kernels(x):
        return slot_reference.linear_forward(x, weights, clock)
    out: Tensor = _LINEAR_FORWARD(x, *weights.all(), clock.time, clock.active)
    return out


def linear_backward(
    g: Float[Tensor, "S R D"], weights: SlotWeights, clock: SlotClock
) -> Float[Tensor, "S R C"]:
    """Gradient of the input of ``linear_forward``."""
    if not has_kernels(g):
        return slot_reference.linear_backward(g, weights, clock)
    g_x: Tensor = _LINEAR_BACKWARD(g, weights.weight, weights.delta, clock.time, clock.active)
    return g_x


def linear_update(
    g: Float[Tensor, "S R D"],
    x: Float[Tensor, "S R C"],
    state: SlotState,
    adam: AdamOptions,
    clock: SlotClock,
) -> None:
    """Sum the weight gradient over the rows and make Adam's step with it, in place."""
    if not has_kernels(g):
        slot_reference.linear_update(g, x, state, adam, clock)
        return
    _LINEAR_UPDATE(g, x, *_adam_row(state, adam, clock))


def _adam_row(state: SlotState, adam: AdamOptions, clock: SlotClock) -> tuple[Any, ...]:
    moments = (state.delta, state.first, state.second)
    return (*moments, adam.constants, *adam.betas, adam.eps, clock.time, clock.active)


@lru_cache(maxsize=4)
def _kernels_on(device_type: str) -> bool:
    key = {"cuda": "CUDA", "cpu": "CPU"}.get(device_type)
    if key is None or not _load.is_built():
        return False
    _load.load()
    if not torch._C._dispatch_has_kernel_for_dispatch_key("eft_fast::slot_conv_forward", key):
        return False
    _operators.load()
    return True


def has_kernels(like: Tensor) -> bool:
    """Whether the operators run on this device; in tests they do on the CPU too."""
    return _kernels_on(like.device.type)


def _conv_forward_fake(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    geometry = rest[-3]
    sizes = [
        (x.shape[2 + i] + 2 * geometry[2 + i] - geometry[4 + i] * (weight.shape[2 + i] - 1) - 1)
        // geometry[i]
        + 1
        for i in range(2)
    ]
    return x.new_empty(x.shape[0], weight.shape[0], *sizes)


def _conv_backward_fake(
    g: Tensor, y: Tensor | None, scale: Tensor | None, weight: Tensor, *rest: Any
) -> Tensor:
    height, width, geometry, _, _ = rest[-5:]
    return g.new_empty(g.shape[0], weight.shape[1] * geometry[6], height, width)


def _update_fake(*inputs: Any) -> None:
    """Nothing comes back: state is updated in place."""


def _linear_forward_fake(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(*x.shape[:2], weight.shape[0])


def _linear_backward_fake(g: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return g.new_empty(*g.shape[:2], weight.shape[1])


_CONV_FORWARD = Operator("slot_conv_forward", _conv_forward_fake)
_CONV_BACKWARD = Operator("slot_conv_backward", _conv_backward_fake)
_CONV_UPDATE = Operator("slot_conv_update", _update_fake)
_BIAS_UPDATE = Operator("slot_bias_update", _update_fake)
_ADAM_UPDATE = Operator("slot_adam_update", _update_fake)
_LINEAR_FORWARD = Operator("slot_linear_forward", _linear_forward_fake)
_LINEAR_BACKWARD = Operator("slot_linear_backward", _linear_backward_fake)
_LINEAR_UPDATE = Operator("slot_linear_update", _update_fake)
