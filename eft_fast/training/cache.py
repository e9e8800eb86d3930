"""Outputs of the untrained trunk on rendered pairs, stored beside the shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from eft_fast.imaging import to_input
from eft_fast.models.blazepose import BlazePoseOutput
from eft_fast.models.open_regressor import OpenRegressor, landmark_features
from eft_fast.synth.dataset import save_arrays


class CachedFeatures(NamedTuple):
    """What the head reads, per person.

    Attributes:
        landmarks: Landmark features and frame: the first part of ``OpenRegressor.head_input``.
        trunk: The trunk's last map, the second part.
        score: Probability that a person is in the crop.
    """

    landmarks: Float[Tensor, "N F"]
    trunk: Float[Tensor, "N D"]
    score: Float[Tensor, " N"]


def normalise_images(images: UInt8[np.ndarray, "B S S 3"]) -> Float[Tensor, "B 3 S S"]:
    """Turn crops into the input of a regressor."""
    return torch.from_numpy(np.stack([to_input(image) for image in images]))


def cache_path(shard: Path) -> Path:
    """Return where the trunk's outputs of a shard are stored."""
    return shard.with_name(f"{shard.stem}.trunk.npz")


@torch.no_grad()
def cache_features(
    network: OpenRegressor, shards: Sequence[Path], *, batch: int = 8
) -> CachedFeatures:
    """Run the trunk over shards, once: stored outputs are read, missing ones are made.

    The stored files do not name the trunk's weights: use one folder per trunk.
    """
    parts = []
    for shard in tqdm(shards, desc="trunk", unit="shard"):
        path = cache_path(shard)
        if not path.is_file():
            with np.load(shard, allow_pickle=False) as archive:
                images = archive["image"]
            outputs = [
                network.features(normalise_images(images[start : start + batch]))
                for start in range(0, len(images), batch)
            ]
            stacked = BlazePoseOutput(*(torch.cat(part) for part in zip(*outputs, strict=True)))
            save_arrays(path, {k: v.numpy() for k, v in stacked._asdict().items()})
        with np.load(path, allow_pickle=False) as archive:
            output = BlazePoseOutput(
                *(torch.from_numpy(archive[name]) for name in BlazePoseOutput._fields)
            )
        parts.append(CachedFeatures(landmark_features(output)[0], output.features, output.score))
    return CachedFeatures(*(torch.cat(part) for part in zip(*parts, strict=True)))
