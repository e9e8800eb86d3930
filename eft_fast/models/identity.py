"""Which weights are these: one hash of a network's weights, and ids that carry it."""

from __future__ import annotations

import hashlib
from typing import Final

import torch
from torch import nn

#: Hex digits of ``weights_hash``.
HASH_DIGITS: Final = 16


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of all parameters and stored buffers.

    Entries are taken in the order of their names: name, a zero byte, the shape as ``3,64,7,7``, a
    zero byte, and the values as little-endian float32. The device and the memory layout do not
    matter; a module in float64 has the hash of its float32 form.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        shape = ",".join(str(length) for length in value.shape)
        digest.update(f"{name}\0{shape}\0".encode())
        numbers = value.detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(numbers.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def weights_hash(module: nn.Module) -> str:
    """The first 16 hex digits of ``weights_sha256``: what files and results are told apart by."""
    return weights_sha256(module)[:HASH_DIGITS]
