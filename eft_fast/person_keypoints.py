"""Keypoints of people whose boxes are known, around a network that sees one crop, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
#: Crops of MoveNet Thunder by the longer side of the box in photo pixels: below the first number of
#: a pair, the crop has the second for its side, in place of 256. There is no more to be seen of
#: small people, and time goes with the square of the side. On people of 15 open COCO train photos
#: with six keypoints or more, in labelled boxes, the photos at full size, shrunk to .6, .4, .25 and
#: .15, and mirrored, PCK@0.1 and @0.05 are .702 and .502 below 48 pixels (at 256: .695 and .509),
#: and .777 and .632 from 48 to 128 (.770 and .630). From 128 to 200, 192 has .771 and .643 (.741
#: and .635), but .05 and .13 less on the five people of that size at full size in found boxes;
#: above 200, .003 and .02 less. Lightning at its 192 has .04 to .05 less PCK@0.1 below 128.
SMALLER_CROPS: Final = ((48.0, 128), (128.0, 160))


def keypoints_in_boxes(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: ArrayLike,
    network: Callable[[UInt8[np.ndarray, "B S S 3"]], Float32[np.ndarray, "B K 3"]],
    *,
    size: int,
    smaller: Sequence[Sequence[float]] = (),
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
        smaller: Pairs of a number of photo pixels, ascending, and a side: boxes whose longer side
            is below the first such number get crops of that side; ``SMALLER_CROPS``.
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
    crops = [
        Crop.from_box(box, _crop_size(box, size, smaller), margin=crop_factor)
        for box in rows.reshape(-1, 4)
    ]
    found: dict[int, np.ndarray] = {}
    for part in _batches([crop.size for crop in crops], batch):
        pixels = np.stack([crop_image(image, crops[index]) for index in part])
        points = network(pixels).astype(np.float64)
        # The network counts from the crop's edge, imaging from the centre of the first pixel.
        points[..., :2] -= 0.5
        found |= {at: crops[at].to_image(xy) for at, xy in zip(part, points, strict=True)}
    if not found:
        return np.zeros((0, 17, 3))
    return np.reshape([found[index] for index in range(len(crops))], (*rows.shape[:-1], -1, 3))


def _crop_size(box: Float[np.ndarray, " 4"], size: int, smaller: Sequence[Sequence[float]]) -> int:
    """Side of the crop of a box."""
    return next((int(side) for below, side in smaller if box[2:].max() < below), size)


def _batches(sizes: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Numbers of crops that go together: of one size, at most ``batch``."""
    for size in dict.fromkeys(sizes):
        same = [index for index, each in enumerate(sizes) if each == size]
        for start in range(0, len(same), batch):
            yield same[start : start + batch]
