"""Weights as numpy arrays, into a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def load_arrays(module: nn.Module, arrays: Mapping[str, np.ndarray[Any, Any]], *, who: str) -> None:
    """Copy numpy arrays into every parameter and buffer of ``module``, or raise ValueError.

    See ``to_weights`` for what they must hold.
    """
    state = module.state_dict()
    missing = sorted(set(state) - set(arrays))
    unexpected = sorted(set(arrays) - set(state))
    if missing or unexpected:
        raise ValueError(
            f"{who}: weights do not belong to this network; "
            f"missing {list_some(missing)}, unexpected {list_some(unexpected)}"
        )
    for name, tensor in state.items():
        if arrays[name].shape != tuple(tensor.shape):
            raise ValueError(
                f"{who}: {name} must be {list(tensor.shape)}, got {list(arrays[name].shape)}"
            )
        value = arrays[name]
        if value.dtype.kind != "f":
            raise ValueError(f"{who}: {name} must be real numbers, got {value.dtype}")
        tensor.copy_(to_weights(torch.from_numpy(np.array(value)), name, who))


def to_weights(value: Tensor, name: str, who: str) -> Tensor:
    """A stored tensor in float32, after a look at whether a network can compute with it.

    Raises:
        ValueError: If it holds no real numbers of its own, or, in float32, one that is not finite,
            or a negative variance.
    """
    kinds = {
        "on the meta device": value.is_meta,
        "a quantised tensor": value.is_quantized,
        f"a tensor of layout {value.layout}": value.layout != torch.strided,
        f"numbers of type {value.dtype}": not value.is_floating_point(),
    }
    for kind, holds in kinds.items():
        if holds:
            raise ValueError(f"{who}: {name} must be a dense tensor of real numbers, got {kind}")
    weights = value.detach().to(torch.float32)
    if not bool(torch.isfinite(weights).all()):
        raise ValueError(f"{who}: {name} must be finite in float32, got NaN or infinity")
    if name.endswith("running_var") and bool((weights < 0).any()):
        raise ValueError(f"{who}: {name} must not be negative, got {float(weights.min()):.3g}")
    return weights


def list_some(names: Sequence[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    if not names:
        return "none"
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
