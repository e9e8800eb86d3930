"""Calls the raster launcher as the operator does, with outputs and workspace full of NaN."""

from __future__ import annotations

import torch
from torch import Tensor

from eft_fast.ops.raster import Raster
from tests.cuda_emulator.emulator import CudaEmulator
from tests.cuda_emulator.mesh_call import divide_up, unset


def draw(
    gpu: CudaEmulator,
    vertices: Tensor,
    faces: Tensor,
    attributes: Tensor,
    *,
    height: int,
    width: int,
    samples: int,
    perspective: bool,
) -> Raster:
    """Draw [B, V, 3] float32 vertices with [F, 3] int32 faces."""
    pictures, count, channels = attributes.shape
    parts = (8 * count, 4 * count, 8 * len(faces), 8 * divide_up(len(faces), 32))
    size = sum(divide_up(pictures * part, 16) * 16 for part in parts)
    out = Raster(
        unset(vertices, pictures, height, width, channels),
        unset(vertices, pictures, height, width),
        unset(vertices, pictures, height, width),
    )
    gpu(
        "eft_rasterize_f32",
        *(pictures, count, len(faces), channels, height, width, samples, int(perspective)),
        vertices,
        faces,
        attributes,
        torch.full((size,), 0xFF, dtype=torch.uint8),
        *out,
        None,
    )
    return out
