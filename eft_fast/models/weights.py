"""Weights as numpy arrays, into a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn


def load_arrays(module: nn.Module, arrays: Mapping[str, np.ndarray[Any, Any]], *, who: str) -> None:
    """Copy numpy arrays into every parameter and buffer of ``module``, or raise ValueError."""
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
        tensor.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))


def list_some(names: Sequence[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    if not names:
        return "none"
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
