"""Calls the per-slot launchers as the operators do, with outputs and workspaces full of NaN.

Weights are given as torch has them, [.., D, C, kh, kw]; the launchers want them tap by tap.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from tests.cuda_emulator.emulator import CudaEmulator
from tests.cuda_emulator.mesh_call import suffix, unset

FLOAT32, THREE_TF32, TF32 = 0, 1, 2
NO_ACTIVATION, RELU, RELU6 = 0, 1, 2
PART_PIXELS = 1024


@dataclass
class Layer:
    """A convolution: channels, groups, kernel and so on, and the size of its input."""

    cin: int
    cout: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out_size(self) -> tuple[int, int]:
        sizes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        return height, width

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.cout, self.cin // self.groups, *self.kernel)

    def row(self, slots: int) -> np.ndarray:
        values = [slots, self.groups, self.cin, *self.size, self.cout, *self.out_size]
        values += [*self.kernel, *self.stride, *self.padding, *self.dilation]
        return np.array(values, dtype=np.int64)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """One slot, in plain torch."""
        return torch.nn.functional.conv2d(
            x[None], weight, None, self.stride, self.padding, self.dilation, self.groups
        )[0]


@dataclass
class State:
    """Delta and moments of one weight, and Adam's options."""

    delta: Tensor
    first: Tensor
    second: Tensor
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    steps: int = 20
    constants: Tensor = field(init=False)

    def __post_init__(self) -> None:
        t = torch.arange(1, self.steps + 1, dtype=torch.float64)
        rate = self.lr / (1 - self.betas[0] ** t)
        self.constants = torch.stack([rate, (1 - self.betas[1] ** t).sqrt()], 1).contiguous()

    def arguments(self) -> tuple[object, ...]:
        return (
            *(self.delta, self.first, self.second, is_bf16(self.delta), self.constants),
            *(self.steps, *self.betas, self.eps),
        )


@dataclass
class Clock:
    time: Tensor | None = None
    active: Tensor | None = None

    def arguments(self) -> tuple[object, ...]:
        return self.time, self.active, None


def by_taps(weights: Tensor | None) -> Tensor | None:
    """[.., D, C, kh, kw] as [.., D, kh, kw, C]."""
    return None if weights is None else weights.movedim(-3, -1).contiguous()


def is_bf16(state: Tensor | None) -> int:
    return int(state is not None and state.dtype == torch.bfloat16)


def conv_forward(
    gpu: CudaEmulator,
    layer: Layer,
    x: Tensor,
    start: Tensor,
    delta: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    bias_delta: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
    activation: int = NO_ACTIVATION,
    arithmetic: int = FLOAT32,
    clock: Clock | None = None,
) -> Tensor:
    out = unset(x, len(x), layer.cout, *layer.out_size)
    scale, shift = norm or (None, None)
    gpu(
        f"eft_slot_conv_forward_{suffix(x)}",
        *(layer.row(len(x)), x, by_taps(start), by_taps(delta), bias, bias_delta, is_bf16(delta)),
        *(scale, shift, residual, activation, arithmetic, out, *(clock or Clock()).arguments()),
    )
    return out


def conv_backward(
    gpu: CudaEmulator,
    layer: Layer,
    g: Tensor,
    start: Tensor,
    delta: Tensor | None = None,
    *,
    y: Tensor | None = None,
    scale: Tensor | None = None,
    add: Tensor | None = None,
    activation: int = NO_ACTIVATION,
    arithmetic: int = FLOAT32,
    clock: Clock | None = None,
) -> Tensor:
    g_x = unset(g, len(g), layer.cin, *layer.size)
    gpu(
        f"eft_slot_conv_backward_{suffix(g)}",
        *(layer.row(len(g)), g, y, scale, by_taps(start), by_taps(delta), is_bf16(delta), add),
        *(activation, arithmetic, g_x, *(clock or Clock()).arguments()),
    )
    return g_x


def conv_update(
    gpu: CudaEmulator,
    layer: Layer,
    g: Tensor,
    x: Tensor,
    state: State,
    clock: Clock,
    *,
    y: Tensor | None = None,
    scale: Tensor | None = None,
    activation: int = NO_ACTIVATION,
    arithmetic: int = FLOAT32,
) -> None:
    pixels = layer.out_size[0] * layer.out_size[1]
    parts = -(-pixels // PART_PIXELS) if layer.groups == 1 else 1
    workspace = unset(g, len(g), parts, *layer.weight_shape) if parts > 1 else None
    held = (state.delta, state.first, state.second)
    moved = replace(
        state, **dict(zip(("delta", "first", "second"), map(by_taps, held), strict=True))
    )
    gpu(
        f"eft_slot_conv_update_{suffix(g)}",
        *(layer.row(len(g)), g, y, scale, x, activation, arithmetic, workspace),
        *(*moved.arguments(), *clock.arguments()),
    )
    for target, value in zip(held, (moved.delta, moved.first, moved.second), strict=True):
        target.copy_(value.movedim(-1, -3))


def bias_update(
    gpu: CudaEmulator,
    g: Tensor,
    state: State,
    clock: Clock,
    *,
    y: Tensor | None = None,
    scale: Tensor | None = None,
    activation: int = NO_ACTIVATION,
) -> None:
    """g: [slots, rows, channels, pixels]."""
    gpu(
        f"eft_slot_bias_update_{suffix(g)}",
        *(*g.shape, g, y, scale, activation, *state.arguments(), *clock.arguments()),
    )


def adam_update(gpu: CudaEmulator, g: Tensor, state: State, clock: Clock) -> None:
    """g: [slots, parts, n]."""
    gpu(f"eft_slot_adam_update_{suffix(g)}", *g.shape, g, *state.arguments(), *clock.arguments())


def linear_forward(
    gpu: CudaEmulator,
    x: Tensor,
    start: Tensor,
    delta: Tensor | None = None,
    bias: Tensor | None = None,
    bias_delta: Tensor | None = None,
    clock: Clock | None = None,
) -> Tensor:
    out = unset(x, *x.shape[:2], len(start))
    gpu(
        f"eft_slot_linear_forward_{suffix(x)}",
        *(*x.shape, len(start), x, start, delta, bias, bias_delta, is_bf16(delta), out),
        *(clock or Clock()).arguments(),
    )
    return out


def linear_backward(
    gpu: CudaEmulator,
    g: Tensor,
    start: Tensor,
    delta: Tensor | None = None,
    clock: Clock | None = None,
) -> Tensor:
    g_x = unset(g, *g.shape[:2], start.shape[1])
    gpu(
        f"eft_slot_linear_backward_{suffix(g)}",
        *(*g.shape[:2], start.shape[1], len(start), g, start, delta, is_bf16(delta), g_x),
        *(clock or Clock()).arguments(),
    )
    return g_x


def linear_update(gpu: CudaEmulator, g: Tensor, x: Tensor, state: State, clock: Clock) -> None:
    gpu(
        f"eft_slot_linear_update_{suffix(g)}",
        *(*x.shape, g.shape[2], g, x, *state.arguments(), *clock.arguments()),
    )
