"""What the networks of ``MoveNetRegressor`` say of rendered people, stored beside the shards.

They take nearly all the time and stay as they are while the head learns, so they run once per
picture, or once per mirrored picture: which of them, the number of the picture says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from eft_fast.files import save_npz
from eft_fast.models.movenet_regressor import BaseAnswer, Evidence, MoveNetRegressor
from eft_fast.synth.dataset import resize_crops
from eft_fast.training.cache import normalise_images

_BATCH = 8
#: Keys of the base's answer in a file.
_BASE = "base_"
#: Key of a file: whether each picture was mirrored.
_MIRRORED = "is_mirrored"


class CachedEvidence(NamedTuple):
    """Evidence of rendered people.

    Attributes:
        points: As of ``Evidence``, and so on.
        is_mirrored: Whether it is of the mirrored picture.
    """

    points: Float[Tensor, "N 17 3"]
    about: Float[Tensor, "N 17 2"]
    spread: Float[Tensor, "N 17"]
    base: BaseAnswer | None
    is_mirrored: Bool[Tensor, " N"]

    def take(self, rows: Int[Tensor, " B"]) -> Evidence:
        """The evidence of some people."""
        base = None if self.base is None else BaseAnswer(*(part[rows] for part in self.base))
        return Evidence(self.points[rows], self.about[rows], self.spread[rows], base)


def cache_path(shard: Path, variant: str) -> Path:
    """Where the evidence of a shard is stored, of a trunk of that variant."""
    return shard.with_name(f"{shard.stem}.{variant}.npz")


def is_mirrored(shard: Path, count: int, odds: float) -> Bool[np.ndarray, " N"]:
    """Which pictures of a shard are seen mirrored: by the name of the file alone."""
    number = int(shard.stem.rsplit("-", 1)[1])
    chosen: np.ndarray = np.random.default_rng([number, count]).random(count) < odds
    return chosen


@torch.no_grad()
def cache_evidence(
    network: MoveNetRegressor, shards: Sequence[Path], *, mirror: float = 0.0
) -> None:
    """Run trunk and base over shards, once: what is stored already stays.

    The files name the variant of the trunk and not the weights: use one folder per base.

    Args:
        network: The network; its head does not matter.
        shards: Rendered pictures.
        mirror: Share of the pictures that is seen mirrored.
    """
    variant = network.trunk.variant
    for shard in tqdm(shards, desc="trunk", unit="shard"):
        if cache_path(shard, variant).is_file():
            continue
        with np.load(shard, allow_pickle=False) as archive:
            images = archive["image"]
        flip = is_mirrored(shard, len(images), mirror)
        parts = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            part = np.where(flip[start : start + _BATCH, None, None, None], part[:, :, ::-1], part)
            # Mirrored as they were rendered, then brought to the network's size.
            part = resize_crops(part, network.input_size)
            parts.append(network.features(normalise_images(part, network)))
        arrays = {
            name: torch.cat([getattr(part, name) for part in parts]).numpy()
            for name in Evidence._fields[:3]
        }
        answers = [part.base for part in parts if part.base is not None]
        if answers:
            arrays |= {
                _BASE + name: torch.cat([getattr(answer, name) for answer in answers]).numpy()
                for name in BaseAnswer._fields
            }
        save_npz(cache_path(shard, variant), arrays | {_MIRRORED: flip}, compressed=False)


def load_evidence(shards: Sequence[Path], variant: str) -> CachedEvidence:
    """Read what ``cache_evidence`` stored of a variant, in the order of the shards."""
    columns: dict[str, list[Tensor]] = {}
    for shard in shards:
        with np.load(cache_path(shard, variant), allow_pickle=False) as archive:
            for name in archive.files:
                columns.setdefault(name, []).append(torch.from_numpy(archive[name]))
    stacked = {name: torch.cat(parts) for name, parts in columns.items()}
    has_base = _BASE + BaseAnswer._fields[0] in stacked
    return CachedEvidence(
        points=stacked["points"],
        about=stacked["about"],
        spread=stacked["spread"],
        base=BaseAnswer(*(stacked[_BASE + name] for name in BaseAnswer._fields))
        if has_base
        else None,
        is_mirrored=stacked[_MIRRORED],
    )
