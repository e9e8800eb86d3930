"""Keypoints of people whose boxes are known, around a network that sees one crop, without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast.conventions import BOX_MARGINS
from eft_fast.imaging import Crop, crop_image
from eft_fast.imaging.crop import check_rgb

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, UInt8
    from numpy.typing import ArrayLike

#: Side of the crop over the longer side of the person's box. On 24 people of open COCO train photos
#: 1.0, 1.05, 1.1 and 1.15 find .81, .80, .81 and .82 of the keypoints (PCK@0.1): no difference.
CROP_FACTOR: Final = BOX_MARGINS["open-2"]


def keypoints_in_boxes(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: ArrayLike,
    network: Callable[[UInt8[np.ndarray, "B S S 3"]], Float32[np.ndarray, "B K 3"]],
    *,
    size: int,
    crop_factor: float = CROP_FACTOR,
    batch: int = 1,
    who: str = "keypoints_in_boxes",
) -> Float[np.ndarray, "*N K 3"]:
    """Find the keypoints of the person in each box.

    The network looks at a square around the middle of the box.

    Args:
        image: RGB photo, as ``imaging.load_image`` returns it.
        boxes: x, y, width, height in photo pixels: one box [4], or several [N, 4].
        network: From RGB crops to x and y in crop pixels, counted from the crop's edge, and the
            score; see ``models.movenet.MoveNet.forward``.
        size: Side of its crops, in pixels.
        crop_factor: Side of the square over the longer side of the box.
        batch: Crops at once. On processors one by one is the quickest: the maps of one fit the
            cache.
        who: Stands at the head of errors.

    Returns:
        x and y in photo pixels, also outside of the photo, and the score.

    Raises:
        TypeError: If the image is not an 8-bit array.
        ValueError: If the image is not RGB, or a box not a box.
    """
    check_rgb(image, who)
    rows = np.asarray(boxes, np.float64)
    if rows.ndim not in (1, 2) or rows.shape[-1] != 4:
        raise ValueError(f"{who}: boxes must be x, y, w, h, [4] or [N, 4], got {list(rows.shape)}")
    crops = [Crop.from_box(box, size, margin=crop_factor) for box in rows.reshape(-1, 4)]
    found = []
    for start in range(0, len(crops), batch):
        part = crops[start : start + batch]
        points = network(np.stack([crop_image(image, crop) for crop in part])).astype(np.float64)
        # The network counts from the crop's edge, imaging from the centre of the first pixel.
        points[..., :2] -= 0.5
        found += [crop.to_image(xy) for crop, xy in zip(part, points, strict=True)]
    return np.reshape(found, (*rows.shape[:-1], -1, 3)) if found else np.zeros((0, 17, 3))
