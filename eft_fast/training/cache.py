"""What the frozen part of the trunk says about rendered pairs, stored beside the shards.

The first stages work at high resolution, take most of the time and stay as they are, so they run
once per picture and once per mirrored picture; training goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from eft_fast.files import save_npz, whole_file
from eft_fast.imaging import to_input
from eft_fast.models.base import Regressor
from eft_fast.models.blazepose import BlazePoseOutput
from eft_fast.models.open_regressor import OpenRegressor, landmark_features


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


class CachedPair(NamedTuple):
    """Outputs of the trunk for pictures and for their mirror images."""

    plain: CachedFeatures
    mirrored: CachedFeatures


class Source(Protocol):
    """Where the pictures of a training run come from.

    Attributes:
        stages: Encoder stages that the inputs have been through: 0 for pictures.
    """

    stages: int

    def __len__(self) -> int:
        """People."""

    def take(self, rows: Int[Tensor, " B"], mirrored: Bool[Tensor, " B"]) -> Float[Tensor, "B ..."]:
        """Return the inputs of some people, each mirrored or not."""


class FrozenMaps:
    """Maps behind the frozen stages, read from disk as they are needed: a fast ``Source``.

    Args:
        paths: Files of ``cache_maps``.
        stages: Encoder stages that the maps have been through.
    """

    def __init__(self, paths: Sequence[Path], stages: int) -> None:
        self.stages = stages
        self._parts = [np.load(path, mmap_mode="r") for path in paths]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(
        self, rows: Int[Tensor, " B"], mirrored: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the maps in the channels-last layout, which small CPU convolutions prefer."""
        numbers, sides = rows.numpy(), mirrored.numpy().astype(int)
        parts = np.searchsorted(self._ends, numbers, side="right")
        maps = [
            self._parts[part][number - self._ends[part], side]  # counted from the end of its file
            for part, number, side in zip(parts, numbers, sides, strict=True)
        ]
        return torch.from_numpy(np.stack(maps)).float().permute(0, 3, 1, 2)


def normalise_images(
    images: UInt8[np.ndarray, "B S S 3"], regressor: Regressor | type[Regressor]
) -> Float[Tensor, "B 3 S S"]:
    """Turn crops into the input of a regressor, or of all regressors of a class."""
    return torch.from_numpy(to_input(images, regressor.img_mean, regressor.img_std))


def run_trunk(
    network: OpenRegressor, inputs: Tensor, stages: int, *, half: bool = False
) -> BlazePoseOutput:
    """Run the trunk on what a ``Source`` gives; the result is that of ``network.features``.

    Args:
        network: The network.
        inputs: Pictures, or maps behind some stages.
        stages: Encoder stages that the inputs have been through.
        half: Compute the encoder in bfloat16. The output layers stay in float32: a landmark at
            200 pixels would move by half a pixel.
    """
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=half):
        features = (
            network.run_to("feature", inputs)
            if stages == 0
            else network.trunk.run_to_features(stages, inputs)
        )
    return network.trunk.read_out(features.float())


def maps_path(shard: Path, stages: int) -> Path:
    """Return where the maps behind the first ``stages`` encoder stages of a shard are stored."""
    return shard.with_name(f"{shard.stem}.stage{stages}.npy")


def cache_path(shard: Path) -> Path:
    """Return where the trunk's outputs of a shard are stored."""
    return shard.with_name(f"{shard.stem}.trunk.npz")


@torch.no_grad()
def cache_maps(
    network: OpenRegressor, shards: Sequence[Path], stages: int, *, batch: int = 8
) -> FrozenMaps:
    """Run the first stages over shards, once: stored maps are read, missing ones are made.

    Maps are stored in float16 as [N, 2, H, W, C], the mirrored picture second. The files do not
    name the trunk's weights: use one folder per trunk.
    """
    paths = [maps_path(shard, stages) for shard in shards]
    # At high resolution convolutions with the channels last take half the time of the others.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for shard, path in zip(tqdm(shards, desc="frozen stages", unit="shard"), paths, strict=True):
        if path.is_file():
            continue
        with np.load(shard, allow_pickle=False) as archive:
            images = archive["image"]
        parts = []
        for start in range(0, len(images), batch):
            pictures = normalise_images(images[start : start + batch], network)
            both = torch.cat([pictures, pictures.flip(-1)])
            maps = network.trunk.run_to_stage(stages, both).permute(0, 2, 3, 1)
            parts.append(torch.stack(maps.chunk(2), 1).half().numpy())
        with whole_file(path) as file:
            np.save(file, np.concatenate(parts))
    return FrozenMaps(paths, stages)


@torch.no_grad()
def cache_features(
    network: OpenRegressor, shards: Sequence[Path], stages: int, *, batch: int = 16
) -> CachedPair:
    """Run the untrained trunk over shards, once; it starts from the maps of ``cache_maps``."""
    pairs: list[tuple[CachedFeatures, CachedFeatures]] = []
    for shard in tqdm(shards, desc="trunk", unit="shard"):
        path = cache_path(shard)
        if not path.is_file():
            maps = FrozenMaps([maps_path(shard, stages)], stages)
            arrays: dict[str, np.ndarray] = {}
            for name, side in (("plain", False), ("mirrored", True)):
                output = run_source(network, maps, mirrored=side, batch=batch)
                arrays |= {f"{name}_{k}": v.numpy() for k, v in output._asdict().items()}
            save_npz(path, arrays, compressed=False)
        with np.load(path, allow_pickle=False) as archive:
            pairs.append((_read(archive, "plain"), _read(archive, "mirrored")))
    plain, mirrored = (
        CachedFeatures(*(torch.cat(part) for part in zip(*side, strict=True)))
        for side in zip(*pairs, strict=True)
    )
    return CachedPair(plain, mirrored)


@torch.no_grad()
def run_source(
    network: OpenRegressor,
    source: Source,
    *,
    mirrored: bool = False,
    batch: int = 16,
    count: int | None = None,
) -> BlazePoseOutput:
    """Run the trunk over a source in order, all of it or the first ``count`` people."""
    device = next(network.parameters()).device
    total = len(source) if count is None else min(count, len(source))
    outputs = []
    for start in range(0, total, batch):
        rows = torch.arange(start, min(start + batch, total))
        inputs = source.take(rows, torch.full((len(rows),), mirrored)).to(device)
        outputs.append(run_trunk(network, inputs, source.stages))
    return BlazePoseOutput(*(torch.cat(part) for part in zip(*outputs, strict=True)))


def _read(archive: np.lib.npyio.NpzFile, side: str) -> CachedFeatures:
    output = BlazePoseOutput(
        *(torch.from_numpy(archive[f"{side}_{name}"]) for name in BlazePoseOutput._fields)
    )
    return CachedFeatures(landmark_features(output)[0], output.features, output.score)
