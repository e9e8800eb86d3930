"""The people of one photo before one pinhole: what a view in space needs of them.

A fit is made alone: without a given pinhole each person has an own assumed one, so that two people
of a photo stand in two spaces. Here they come into one: each keeps the place in the picture and the
size in pixels of the root, and the depth is what the photo's one focal length makes of that size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from eft_fast.geometry.cameras import crop_intrinsics, weak_to_pinhole
from eft_fast.result import FitResult

#: Focal lengths and centres that differ by less than this share are one camera.
_ALIKE = 1e-3


@dataclass(frozen=True, eq=False)
class PhotoCamera:
    """The pinhole of a photo, pixels.

    Attributes:
        matrix: Intrinsics.
        width: Of the photo.
        height: Of the photo.
        is_assumed: The people had none in common: the photo's diagonal is taken for the focal
            length, and their distances from each other in depth are a guess.
    """

    matrix: Float[np.ndarray, "3 3"]
    width: int
    height: int
    is_assumed: bool


def find_camera(result: FitResult, size: tuple[int, int] | None) -> PhotoCamera:
    """The one pinhole for the people of a photo.

    Args:
        result: The people of the photo.
        size: Width and height of the photo; None: as large as what is known to lie in it.
    """
    width, height = _reach(result) if size is None else size
    assert result.intrinsics is not None
    given = result.intrinsics.double().numpy()
    spread = np.abs(given - given[:1]).max() if len(given) else math.inf
    if np.isfinite(given).all() and spread <= _ALIKE * given[0, 0, 0]:
        return PhotoCamera(given[0], width, height, False)
    focal = math.hypot(width, height)
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    return PhotoCamera(matrix, width, height, True)


def place_people(
    result: FitResult, camera: PhotoCamera, which: str = "final"
) -> Float[np.ndarray, "N 3"]:
    """Where each body's origin stands before the pinhole, metres, camera axes.

    Args:
        result: The people of the photo.
        camera: From ``find_camera``.
        which: ``final``, or ``init`` for the regressor alone.
    """
    matrix = torch.from_numpy(camera.matrix).expand(len(result), 3, 3)
    crop = crop_intrinsics(matrix, result.bbox_center.double(), result.bbox_scale.double())
    cam = result.pred_cam if which == "final" else result.init.pred_cam
    placed: np.ndarray = weak_to_pinhole(cam.double(), crop).numpy()
    return placed


def _reach(result: FitResult) -> tuple[int, int]:
    """As large as a photo must be at least to hold the crops and the keypoints."""
    half = 100 * result.bbox_scale[:, None]
    points = [result.bbox_center + half, result.keypoints[..., :2][result.keypoints[..., 2] > 0]]
    every = torch.cat(points)
    every = every[torch.isfinite(every).all(1)]
    if not len(every):
        return 256, 256
    width, height = every.amax(0).clamp(16, 20_000).ceil().int().tolist()
    return int(width), int(height)
