"""Layers in which every slot has weights of its own, and whose backward makes Adam's step too.

The operators behind ``eft.batched.adam_in_backward``: forward, gradient of the input, and the
weight gradient with the update in its epilogue. On a GPU they are the kernels of
``csrc/cuda/slot_*.cu``; elsewhere ``slot_reference`` computes the same in plain torch. None of them
records gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.ops import _load, _register_slots, slot_reference

#: How float32 sums of products are made on a GPU, by name. ``float32``: multiply-adds. ``3xtf32``:
#: tensor cores on operands split in two, float32-grade. ``tf32``: operands rounded to 10 bits.
ARITHMETIC: Final = {"float32": 0, "3xtf32": 1, "tf32": 2}
#: What may follow a convolution inside of its kernel.
ACTIVATIONS: Final = {"none": 0, "relu": 1, "relu6": 2}


class Geometry(NamedTuple):
    """Stride, padding and dilation (height, width) and groups of a convolution."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def row(self) -> list[int]:
        """As the operators take it."""
        return [*self.stride, *self.padding, *self.dilation, self.groups]


@dataclass(frozen=True, eq=False)
class SlotClock:
    """Which slots take part, and how many updates each has behind it; both live on the device.

    Attributes:
        time: Updates made. At 0 whatever lies in a slot's differences and moments is ignored, so
            that a new person needs no clearing.
        active: Slots that are not active are neither computed nor updated.
    """

    time: Int[Tensor, " S"]
    active: Bool[Tensor, " S"]

    def first(self, slots: int) -> SlotClock:
        """The clock of the first slots; shares memory."""
        return SlotClock(self.time[:slots], self.active[:slots])


@dataclass(frozen=True, eq=False)
class AdamOptions:
    """Adam, with the bias corrections of every step worked out beforehand.

    Attributes:
        constants: For update 1, 2, ...: lr / (1 - beta1^t) and sqrt(1 - beta2^t). A slot that has
            made all of them makes no more.
        betas: Decay rates.
        eps: Added outside of the root.
    """

    constants: Float[Tensor, "N 2"]
    betas: tuple[float, float]
    eps: float


def make_adam_options(
    lr: float, betas: tuple[float, float], eps: float, steps: int, device: torch.device
) -> AdamOptions:
    """Work out the bias corrections of ``steps`` updates in float64."""
    time = torch.arange(1, steps + 1, dtype=torch.float64)
    columns = [lr / (1 - betas[0] ** time), (1 - betas[1] ** time).sqrt()]
    return AdamOptions(torch.stack(columns, 1).contiguous().to(device), betas, eps)


@dataclass(frozen=True, eq=False)
class SlotState:
    """Difference from the start weights and both moments, each ``[S, *shape of the weights]``."""

    delta: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True, eq=False)
class ConvEnd:
    """What follows a convolution inside of its kernel: frozen batch norm and an activation.

    Attributes:
        scale: Factor of each output channel, or None.
        shift: Added behind it, together with the scale.
        activation: One of ``ACTIVATIONS``.
    """

    scale: Float[Tensor, " D"] | None = None
    shift: Float[Tensor, " D"] | None = None
    activation: str = "none"


_PLAIN: Final = ConvEnd()


@dataclass(frozen=True, eq=False)
class SlotWeights:
    """Shared start of a layer's weights and what each slot adds to it; None: nothing.

    Attributes:
        weight: Convolution [D, C / groups, kh, kw], linear [D, C].
        delta: [S, *shape of weight].
        bias: [D].
        bias_delta: [S, D].
    """

    weight: Tensor
    delta: Tensor | None = None
    bias: Tensor | None = None
    bias_delta: Tensor | None = None

    def all(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """In the order of the operators."""
        return self.weight, self.delta, self.bias, self.bias_delta


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

    Rows of slots that are not active hold anything.
    """
    if not has_kernels(x):
        return slot_reference.conv_forward(x, weights, geometry, clock, end, residual)
    out: Tensor = torch.ops.eft_fast.slot_conv_forward(
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
    g_x: Tensor = torch.ops.eft_fast.slot_conv_backward(
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
    torch.ops.eft_fast.slot_conv_update(
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
    torch.ops.eft_fast.slot_bias_update(
        g, y, end.scale, *_adam_row(state, adam, clock), ACTIVATIONS[end.activation]
    )


def adam_update(g: Tensor, state: SlotState, adam: AdamOptions, clock: SlotClock) -> None:
    """Make Adam's step with the gradient ``g``, in place."""
    if not has_kernels(g):
        slot_reference.adam_update(g, state, adam, clock)
        return
    torch.ops.eft_fast.slot_adam_update(g, *_adam_row(state, adam, clock))


def linear_forward(
    x: Float[Tensor, "S R C"], weights: SlotWeights, clock: SlotClock
) -> Float[Tensor, "S R D"]:
    """X W^T + bias with each slot's own weights, always in the type of ``x``."""
    if not has_kernels(x):
        return slot_reference.linear_forward(x, weights, clock)
    out: Tensor = torch.ops.eft_fast.slot_linear_forward(
        x, *weights.all(), clock.time, clock.active
    )
    return out


def linear_backward(
    g: Float[Tensor, "S R D"], weights: SlotWeights, clock: SlotClock
) -> Float[Tensor, "S R C"]:
    """Gradient of the input of ``linear_forward``."""
    if not has_kernels(g):
        return slot_reference.linear_backward(g, weights, clock)
    g_x: Tensor = torch.ops.eft_fast.slot_linear_backward(
        g, weights.weight, weights.delta, clock.time, clock.active
    )
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
    torch.ops.eft_fast.slot_linear_update(g, x, *_adam_row(state, adam, clock))


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
    _register_slots.register()
    return True


def has_kernels(like: Tensor) -> bool:
    """Whether the operators run on this device; in tests they do on the CPU too."""
    return _kernels_on(like.device.type)
