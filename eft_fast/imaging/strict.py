"""Crops as the original EFT code makes them, integer steps included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eft_fast.imaging.crop import Crop, check_rgb

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy.typing import ArrayLike


def crop_image_strict(image: UInt8[np.ndarray, "H W 3"], crop: Crop) -> UInt8[np.ndarray, "S S 3"]:
    """Cut the crop as the original EFT code does: corners cut to integers, no antialiasing.

    The corners of the square are truncated towards zero, and the integer patch between them is
    resized bilinearly with pixel edges aligned.
    """
    check_rgb(image, "crop_image_strict")
    corners = np.trunc([crop.center - crop.side / 2.0, crop.center + crop.side / 2.0]).astype(int)
    span = corners[1] - corners[0]
    if span.min() < 1:
        raise ValueError(
            f"crop_image_strict: the integer corners {corners.tolist()} leave no pixel; use a "
            "larger box"
        )
    axes = []
    for axis in (0, 1):
        at = (np.arange(crop.size) + 0.5) * span[axis] / crop.size - 0.5
        at = np.clip(at, 0.0, span[axis] - 1.0)
        low = np.floor(at).astype(int)
        axes.append((low, np.minimum(low + 1, span[axis] - 1), at - low))
    (x_low, x_high, x_part), (y_low, y_high, y_part) = axes
    x_part, y_part = x_part[None, :, None], y_part[:, None, None]

    def take(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        y, x = rows[:, None] + corners[0, 1], columns[None, :] + corners[0, 0]
        is_inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
        pixels = image[np.clip(y, 0, image.shape[0] - 1), np.clip(x, 0, image.shape[1] - 1)]
        return np.where(is_inside[..., None], pixels, 0).astype(np.float64)

    upper = take(y_low, x_low) * (1 - x_part) + take(y_low, x_high) * x_part
    lower = take(y_high, x_low) * (1 - x_part) + take(y_high, x_high) * x_part
    return np.asarray(np.rint(upper * (1 - y_part) + lower * y_part), dtype=np.uint8)


def keypoints_to_crop_strict(keypoints: ArrayLike, crop: Crop) -> Float[np.ndarray, "*batch K C"]:
    """Photo pixels to [-1, 1] of the crop with the integer step of the original EFT code.

    ``x_crop = trunc(S / h * (x - cx) + S / 2) + 1``, then ``u = 2 * x_crop / S - 1``: a bias of up
    to one crop pixel that ``Crop.normalise`` does not have.
    """
    points = crop.to_crop(keypoints)
    points[..., :2] = 2.0 * (np.trunc(points[..., :2]) + 1.0) / crop.size - 1.0
    return points
