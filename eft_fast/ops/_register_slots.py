"""Fake kernels of the per-slot operators, as in csrc/slot_ops.cpp; none has a gradient."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


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


@lru_cache(maxsize=1)
def register() -> None:
    """Register every fake kernel; the library is loaded."""
    for name, fake in (
        ("slot_conv_forward", _conv_forward_fake),
        ("slot_conv_backward", _conv_backward_fake),
        ("slot_conv_update", _update_fake),
        ("slot_bias_update", _update_fake),
        ("slot_adam_update", _update_fake),
        ("slot_linear_forward", _linear_forward_fake),
        ("slot_linear_backward", _linear_backward_fake),
        ("slot_linear_update", _update_fake),
    ):
        torch.library.register_fake(f"eft_fast::{name}", fake)
