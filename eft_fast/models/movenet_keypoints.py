"""Keypoints of people whose boxes are known, from a photo, by MoveNet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eft_fast.imaging import Crop, crop_image
from eft_fast.imaging.crop import check_rgb
from eft_fast.models.movenet import MoveNet
from eft_fast.ops.ambient import plain_torch

#: Thunder as published, as ``tools/convert_movenet.py`` wrote it.
MOVENET_PATH: Final = Path(__file__).parent.parent / "assets" / "movenet_thunder.npz"
#: Side of the crop over the longer side of the person's box. On 24 people of open COCO train photos
#: 1.0, 1.05, 1.1 and 1.15 find .81, .80, .81 and .82 of the keypoints (PCK@0.1): no difference.
CROP_FACTOR: Final = 1.1
_BATCH: Final = 16


def load_movenet() -> MoveNet:
    """MoveNet Thunder as it was published, which the package ships; a new one at each call."""
    with plain_torch(), np.load(MOVENET_PATH, allow_pickle=False) as archive:
        return MoveNet.from_arrays({name: archive[name] for name in archive.files}).eval()


@lru_cache(maxsize=2)
def shared_movenet(device: torch.device) -> MoveNet:
    """``load_movenet`` on a device, the same one at each call; not to be changed."""
    return load_movenet().to(device)


@torch.no_grad()
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
    check_rgb(image, "movenet_keypoints")
    rows = np.asarray(boxes, np.float64)
    if rows.ndim not in (1, 2) or rows.shape[-1] != 4:
        raise ValueError(
            f"movenet_keypoints: boxes must be x, y, w, h, [4] or [N, 4], got {list(rows.shape)}"
        )
    size = network.input_size
    crops = [Crop.from_box(box, size, margin=crop_factor) for box in rows.reshape(-1, 4)]
    found = np.zeros((len(crops), 17, 3))
    for start in range(0, len(crops), _BATCH):
        part = crops[start : start + _BATCH]
        pixels = torch.from_numpy(np.stack([crop_image(image, crop) for crop in part]))
        points = network(to_rgb(pixels, network)).cpu().double().numpy()
        # The network counts from the crop's edge, imaging from the centre of the first pixel.
        points[..., :2] -= 0.5
        found[start : start + len(part)] = [
            crop.to_image(xy) for crop, xy in zip(part, points, strict=True)
        ]
    return found.reshape(*rows.shape[:-1], 17, 3)


def to_rgb(pixels: UInt8[Tensor, "B S S 3"], network: MoveNet) -> Float[Tensor, "B 3 S S"]:
    """Crop pixels to what the network reads, on its device and in its type."""
    like = network.stem.weight
    return pixels.to(like.device).permute(0, 3, 1, 2).to(like.dtype) / 255
