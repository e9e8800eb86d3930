"""Boxes of people in photos around a one-stage detector, without torch.

The photo goes as a whole into a picture (``letterbox``, ``to_picture``), the network answers for
each cell of three grids (``decode``), and of boxes that cover each other the surest stays
(``suppress``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast.conventions import BOX_UNIT
from eft_fast.imaging import MIN_CROP_SIDE, Crop, crop_image
from eft_fast.imaging.crop import check_rgb

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int, UInt8

    #: Numbers of a box: a tuple, a list or a row of an array.
    Floats = Sequence[float] | Float[np.ndarray, "4"]

#: Longer side of the picture, in pixels. Of 50 labelled people above 64 px on 15 open COCO train
#: photos 43 are found at 640, with 5 other boxes above 64 px; 41 with 6 at 416 and 0.4.
INPUT_SIZE: Final = 640
#: Pixels between the cells of the grids, in the order of the network's answer.
STRIDES: Final = (8, 16, 32)
#: Boxes under this probability are nobody. On the same photos 0.25 finds 3 people more with 4 more
#: other boxes, 0.4 two people fewer with one other box less.
LEAST_SCORE: Final = 0.35
#: Of two boxes with a larger intersection over union only the surer one is a person.
MOST_OVERLAP: Final = 0.5
#: Boxes whose longer side has fewer photo pixels are left out: limbs are a pixel or two wide there.
LEAST_SIDE: Final = 32.0
#: Grey around the photo in the picture, the one of YOLOX's training.
FILL: Final = 114
#: Largest log of a box's size in cells; a damaged answer overflows without it.
MOST_LOG: Final = 10.0


def find_boxes(
    image: UInt8[np.ndarray, "H W 3"],
    network: Callable[[UInt8[np.ndarray, "1 h w 3"]], Float32[np.ndarray, "1 N 6"]],
    *,
    least_score: float = LEAST_SCORE,
) -> Float[np.ndarray, "P 5"]:
    """Find people, the surest first.

    Args:
        image: RGB photo, as ``imaging.load_image`` returns it.
        network: From a picture, RGB, to an answer; see ``models.yolox.YoloxNano.forward``. Sides of
            pictures are ``INPUT_SIZE``, the shorter one less by whole cells of the coarsest grid.
        least_score: Probability below which a box is nobody.

    Returns:
        x, y, w, h in photo pixels, inside the photo, and the probability.

    Raises:
        TypeError: If the image is not an 8-bit array.
        ValueError: If it is not RGB, or over 15,000 pixels wide or high.
    """
    check_rgb(image, "find_boxes")
    square = letterbox(image)
    picture, corner = to_picture(image, square)
    found = decode(network(picture[None])[0], picture.shape[:2])
    found[:, :2] += corner
    found = found[found[:, 4] >= least_score]
    found = found[suppress(found[:, :4], found[:, 4])]
    # The network counts from the picture's edge, imaging from the centre of the first pixel.
    low = square.to_image(found[:, :2] - 0.5)
    high = square.to_image(found[:, :2] + found[:, 2:4] - 0.5)
    edge = np.array([image.shape[1] - 1, image.shape[0] - 1], np.float64)
    low, high = np.clip(low, 0, edge), np.clip(high, 0, edge)
    boxes = np.concatenate([low, high - low, found[:, 4:]], 1)
    is_large = (boxes[:, 2:4].max(1) >= LEAST_SIDE) & (boxes[:, 2:4].min(1) > 0)
    kept: Float[np.ndarray, "P 5"] = boxes[is_large]
    return kept


def letterbox(image: UInt8[np.ndarray, "H W 3"], size: int = INPUT_SIZE) -> Crop:
    """The square around the whole photo.

    The edge of the picture's first pixel is that of the photo's, so that a photo whose longer side
    is the picture's goes into it pixel by pixel.
    """
    height, width = image.shape[:2]
    side = max(height, width, MIN_CROP_SIDE)
    before = np.array([(side - width) // 2, (side - height) // 2])
    # Integers are the centres of pixels, in the photo as in the crop: half a pixel of each.
    center = side / 2 - before + (side / size - 1) / 2
    return Crop(center, side / BOX_UNIT, size)


def to_picture(
    image: UInt8[np.ndarray, "H W 3"], square: Crop
) -> tuple[UInt8[np.ndarray, "h w 3"], Int[np.ndarray, " 2"]]:
    """What the network sees of a square: whole cells of the coarsest grid that the photo touches.

    Grey cells beside them would cost as much as any other, and a third of a photo of 3 to 2.

    Returns:
        The picture, and where its first column and row lie in the square.
    """
    pixels = crop_image(image, square, fill=FILL)
    edge = np.array([image.shape[1], image.shape[0]], np.float64) - 0.5
    cell = STRIDES[-1]
    low = np.floor((square.to_crop(np.full(2, -0.5)) + 0.5) / cell).astype(np.int64)
    high = np.ceil((square.to_crop(edge) + 0.5) / cell).astype(np.int64)
    low, high = np.maximum(low, 0) * cell, np.minimum(high, square.size // cell) * cell
    return np.ascontiguousarray(pixels[low[1] : high[1], low[0] : high[0]]), low


def decode(
    answer: Float32[np.ndarray, "N 6"], shape: tuple[int, ...] = (INPUT_SIZE, INPUT_SIZE)
) -> Float[np.ndarray, "N 5"]:
    """Boxes of all cells: x, y, w, h in pixels of the picture, and the probability of a person.

    ``(cell_x + t_x) * stride`` is the middle of the box, ``exp(t_w) * stride`` its width, and the
    probability of an object times that of a person is the score, as in YOLOX.

    Args:
        answer: Of the network; see ``models.yolox.YoloxNano.forward``.
        shape: Height and width of the picture.

    Raises:
        ValueError: If the answer does not belong to a picture of that size.
    """
    grids = [(shape[0] // stride, shape[1] // stride) for stride in STRIDES]
    counts = [height * width for height, width in grids]
    if answer.shape != (sum(counts), 6):
        raise ValueError(
            f"decode: the answer for {shape[1]} x {shape[0]} pixels must be [{sum(counts)}, 6], "
            f"got {list(answer.shape)}"
        )
    cells = np.concatenate([np.indices(grid).reshape(2, -1) for grid in grids], 1)
    stride = np.repeat(STRIDES, counts)[:, None]
    values = answer.astype(np.float64)
    middle = (cells[::-1].T + values[:, :2]) * stride
    extent = np.exp(np.minimum(values[:, 2:4], MOST_LOG)) * stride
    return np.concatenate([middle - extent / 2, extent, values[:, 4:5] * values[:, 5:6]], 1)


def suppress(
    boxes: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, " N"],
    most_overlap: float = MOST_OVERLAP,
) -> Int[np.ndarray, " P"]:
    """Non-maximum suppression: rows of the boxes that stay, the best first.

    The best box stays, all that overlap it by more than ``most_overlap`` (intersection over union)
    go, and so on with the rest.
    """
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    area = np.prod(boxes[:, 2:], axis=1)
    left = np.argsort(-scores, kind="stable")
    kept = []
    while left.size:
        best, left = left[0], left[1:]
        kept.append(best)
        shared = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left])
        both = np.prod(np.maximum(shared, 0.0), axis=1)
        left = left[both <= most_overlap * (area[best] + area[left] - both)]
    return np.array(kept, dtype=np.int64)


def box_overlap(a: Floats, b: Floats) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return float(shared / union) if union > 0.0 else 0.0
