"""Which weights are these: one hash of a network's weights, which results and files carry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import nn

#: Hex digits of ``weights_hash``.
HASH_DIGITS: Final = 16


def arrays_sha256(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """SHA-256 over names, shapes and float32 values of weights.

    Entries are taken in the order of their names: name, a zero byte, the shape as ``3,64,7,7``, a
    zero byte, and the values as little-endian float32 in C order.
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        shape = ",".join(str(length) for length in array.shape)
        digest.update(f"{name}\0{shape}\0".encode())
        digest.update(array.astype("<f4", order="C", copy=False).tobytes())
    return digest.hexdigest()


def weights_sha256(module: nn.Module) -> str:
    """``arrays_sha256`` of all parameters and stored buffers.

    Device and memory layout do not matter, and a module in float64 has the hash of its float32
    form.
    """
    state = module.state_dict()
    return arrays_sha256(
        {name: value.detach().to("cpu", torch.float32).numpy() for name, value in state.items()}
    )


def weights_hash(module: nn.Module) -> str:
    """The first 16 hex digits of ``weights_sha256``: what files and results are told apart by."""
    return weights_sha256(module)[:HASH_DIGITS]


def weights_stamp(module: nn.Module) -> tuple[tuple[int, int], ...] | None:
    """What changes when a weight is written or moved: address and version of each tensor.

    Returns:
        The stamp; None where torch keeps no versions (a module made in inference mode).
    """
    tensors = list(module.state_dict(keep_vars=True).values())
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
