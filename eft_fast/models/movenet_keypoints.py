"""Keypoints of people whose boxes are known, from a photo, by MoveNet."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from eft_fast.models.movenet import MoveNet
from eft_fast.ops.ambient import plain_torch
from eft_fast.person_keypoints import CROP_FACTOR, keypoints_in_boxes

_ASSETS: Final = Path(__file__).parent.parent / "assets"
#: The published networks, as ``tools/convert_movenet.py`` wrote them.
MOVENET_PATHS: Final[Mapping[str, Path]] = {
    variant: _ASSETS / f"movenet_{variant}.npz" for variant in ("thunder", "lightning")
}
#: Crops at once on a processor, whose cache holds the maps of one, and on other devices.
CROPS_AT_ONCE: Final = (1, 16)


def load_movenet(variant: str = "thunder") -> MoveNet:
    """MoveNet as it was published, which the package ships; a new one at each call.

    Args:
        variant: ``"thunder"`` or ``"lightning"``.
    """
    with plain_torch(), np.load(MOVENET_PATHS[variant], allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
        return MoveNet.from_arrays(arrays, variant).eval()


@lru_cache(maxsize=2)
def shared_movenet(device: torch.device) -> MoveNet:
    """``load_movenet`` on a device, the same one at each call; not to be changed."""
    return load_movenet().to(device)


def movenet_keypoints(
    network: MoveNet,
    image: UInt8[np.ndarray, "H W 3"],
    boxes: npt.ArrayLike,
    *,
    crop_factor: float = CROP_FACTOR,
) -> Float[np.ndarray, "*N 17 3"]:
    """Find the keypoints of the person in each box.

    The network looks at a square around the middle of the box. Of several people in it, it takes
    one near the middle. People do not depend on who else is looked for.

    Args:
        network: As ``load_movenet`` returns it.
        image: RGB photo, as ``imaging.load_image`` returns it.
        boxes: x, y, width, height in photo pixels: one box [4], or several [N, 4].
        crop_factor: Side of the square over the longer side of the box.

    Returns:
        x and y in photo pixels, also outside of the photo, and the score in [0, 1], in the order of
        the joint set ``coco17``; ``models.keypoint_noise`` has what scores are worth.

    Raises:
        TypeError: If the image is not an 8-bit array.
        ValueError: If the image is not RGB, or a box not a box.

    Example:
        >>> movenet_keypoints(load_movenet(), load_image("photo.jpg"), [40, 30, 120, 310]).shape
        (17, 3)
    """
    return keypoints_in_boxes(
        image,
        boxes,
        lambda crops: run_movenet(network, crops),
        size=network.input_size,
        crop_factor=crop_factor,
        batch=CROPS_AT_ONCE[network.stem.weight.device.type != "cpu"],
        who="movenet_keypoints",
    )


@torch.no_grad()
def run_movenet(
    network: MoveNet, crops: UInt8[np.ndarray, "B S S 3"]
) -> Float32[np.ndarray, "B 17 3"]:
    """The answer to RGB crops, on the network's device."""
    points = network(to_rgb(torch.from_numpy(crops), network))
    answer: Float32[np.ndarray, "B 17 3"] = points.cpu().numpy()
    return answer


def to_rgb(pixels: UInt8[Tensor, "B S S 3"], network: MoveNet) -> Float[Tensor, "B 3 S S"]:
    """Crop pixels to what the network reads, on its device and in its type."""
    like = network.stem.weight
    return pixels.to(like.device).permute(0, 3, 1, 2).to(like.dtype) / 255
