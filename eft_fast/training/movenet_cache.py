"""What MoveNet says about rendered people, stored beside the shards.

The trunk takes nearly all the time and stays as it is while the head learns, so it runs once per
picture, or once per mirrored picture: which of them, the number of the picture says. Of its maps
the head's own view is stored (``MoveNetHead.look``), whose weights are set before, not trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from eft_fast.files import save_npz
from eft_fast.models.movenet_regressor import Evidence, MoveNetRegressor
from eft_fast.training.cache import normalise_images

#: Layers of ``MapReader`` that look at the maps; they are set, not trained.
VIEW: Final = ("neck", "fine_neck")
#: Pictures whose maps set the head's view.
_VIEW_PICTURES: Final = 256
_BATCH: Final = 8
#: Parts of ``Evidence`` that a head which reads keypoints only does not have.
_MAPS: Final = ("coarse", "fine")


class CachedEvidence(NamedTuple):
    """Evidence of rendered people; maps in float16.

    Attributes:
        points: As of ``Evidence``, and so on.
        is_mirrored: Whether it is of the mirrored picture.
    """

    points: Float[Tensor, "N 17 3"]
    about: Float[Tensor, "N 17 2"]
    spread: Float[Tensor, "N 17"]
    coarse: Float[Tensor, "N C h w"] | None
    fine: Float[Tensor, "N D H W"] | None
    is_mirrored: Bool[Tensor, " N"]

    def take(self, rows: Int[Tensor, " B"]) -> Evidence:
        """The evidence of some people, in float32."""
        points, about, spread = (part[rows] for part in self[:3])
        maps = [None if part is None else part[rows].float() for part in self[3:5]]
        return Evidence(points, about, spread, *maps)


@torch.no_grad()
def set_view(network: MoveNetRegressor, shard: Path) -> None:
    """Set the head's view of the maps: principal components of the coarse one, the scaled fine one.

    Components are divided by the fourth root of their variance: half way between keeping their
    sizes and making them equal. Mean variance is 1.

    Args:
        network: Its ``head.maps.neck`` and ``head.maps.fine_neck`` are changed; a head that reads
            keypoints only has none.
        shard: Rendered pictures.
    """
    if network.head.maps is None:
        return
    with np.load(shard, allow_pickle=False) as archive:
        images = archive["image"][:_VIEW_PICTURES]
    maps = [
        network.features(normalise_images(images[start : start + _BATCH], network))
        for start in range(0, len(images), _BATCH)
    ]
    for conv, parts in (
        (network.head.maps.neck, [each.top for each in maps]),
        (network.head.maps.fine_neck, [each.fine for each in maps]),
    ):
        rows = torch.cat(parts).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        kept = conv.out_channels
        values, vectors = values.flip(0)[:kept].clamp_min(1e-8), vectors.flip(1)[:, :kept]
        scale = values**-0.25
        scale /= (values * scale.square()).mean().sqrt()
        weight = (vectors * scale).T
        conv.weight.copy_(weight[..., None, None])
        assert conv.bias is not None, "made with biases"
        conv.bias.copy_(-(weight @ mean))


def cache_path(shard: Path) -> Path:
    """Where the evidence of a shard is stored."""
    return shard.with_name(f"{shard.stem}.movenet.npz")


def is_mirrored(shard: Path, count: int, odds: float) -> Bool[np.ndarray, " N"]:
    """Which pictures of a shard are seen mirrored: by the name of the file alone."""
    number = int(shard.stem.rsplit("-", 1)[1])
    chosen: np.ndarray = np.random.default_rng([number, count]).random(count) < odds
    return chosen


@torch.no_grad()
def cache_evidence(
    network: MoveNetRegressor, shards: Sequence[Path], *, mirror: float = 0.0
) -> None:
    """Run the trunk over shards, once: what is stored already stays.

    The files do not name the weights: use one folder per trunk and view.

    Args:
        network: With its view set (``set_view``).
        shards: Rendered pictures.
        mirror: Share of the pictures that is seen mirrored.
    """
    for shard in tqdm(shards, desc="trunk", unit="shard"):
        if cache_path(shard).is_file():
            continue
        with np.load(shard, allow_pickle=False) as archive:
            images = archive["image"]
        flip = is_mirrored(shard, len(images), mirror)
        parts = []
        for start in range(0, len(images), _BATCH):
            pictures = normalise_images(images[start : start + _BATCH], network)
            sides = torch.from_numpy(flip[start : start + _BATCH])[:, None, None, None]
            pictures = torch.where(sides, pictures.flip(-1), pictures)
            parts.append(network.head.look(network.features(pictures)))
        arrays: dict[str, np.ndarray] = {}
        for name in Evidence._fields:
            values = [value for part in parts if (value := getattr(part, name)) is not None]
            if values:
                whole = torch.cat(values)
                arrays[name] = (whole.half() if name in _MAPS else whole).numpy()
        save_npz(cache_path(shard), arrays | {"is_mirrored": flip}, compressed=False)


def load_evidence(shards: Sequence[Path]) -> CachedEvidence:
    """Read what ``cache_evidence`` stored, in the order of the shards."""
    columns: dict[str, list[Tensor]] = {name: [] for name in CachedEvidence._fields}
    for shard in shards:
        with np.load(cache_path(shard), allow_pickle=False) as archive:
            for name in archive.files:
                columns[name].append(torch.from_numpy(archive[name]))
    stacked = {name: torch.cat(parts) for name, parts in columns.items() if parts}
    return CachedEvidence(
        points=stacked["points"],
        about=stacked["about"],
        spread=stacked["spread"],
        coarse=stacked.get("coarse"),
        fine=stacked.get("fine"),
        is_mirrored=stacked["is_mirrored"],
    )
