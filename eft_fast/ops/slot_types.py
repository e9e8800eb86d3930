"""What the per-slot layers take: geometry, clocks, weights, state and Adam's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

#: How float32 sums of products are made on a GPU, by name. ``float32``: multiply-adds. ``3xtf32``:
#: tensor cores on operands split in two, float32-grade. ``tf32``: operands rounded to 10 bits.
ARITHMETIC: Final = {"float32": 0, "3xtf32": 1, "tf32": 2}


def by_taps(weights: Tensor) -> Tensor:
    """Weights of a convolution [.., D, C, kh, kw] as the kernels read them.

    The same numbers in the same shape, but the input channels lie side by side in memory: a piece
    of a sum over taps and channels then has one tap.
    """
    if weights.ndim < 4:
        return weights.contiguous()
    return weights.movedim(-3, -1).contiguous().movedim(-1, -3)


def empty_state(start: Tensor, slots: int, dtype: torch.dtype | None) -> Tensor:
    """Memory for a difference or a moment of ``slots`` people, laid as the start weights are."""
    if start.is_contiguous():
        return start.new_empty(slots, *start.shape, dtype=dtype)
    return start.new_empty(slots, *start.movedim(-3, -1).shape, dtype=dtype).movedim(-1, -3)


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
