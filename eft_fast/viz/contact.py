"""Many people of an annotation file on one picture: who they are, and where their joints are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from eft_fast import imaging
from eft_fast.files import whole_file
from eft_fast.keypoints import joint_set
from eft_fast.sample import Sample
from eft_fast.viz.skeleton import draw_skeleton

_TILE: Final = 168
_COLUMNS: Final = 6
_GREY: Final = (118, 120, 126)


def write_contact_sheet(path: str | Path, samples: Sequence[Sample]) -> None:
    """Write a picture with a tile of each person: the crop and the keypoints.

    People whose photo is not known, or cannot be read, stand on grey.

    Args:
        path: PNG file to write.
        samples: The people; each needs a box.
    """
    rows = max(1, -(-len(samples) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * _TILE), (255, 255, 255))
    for place, sample in enumerate(samples):
        row, column = divmod(place, _COLUMNS)
        sheet.paste(_draw(sample), (column * _TILE, row * _TILE))
    with whole_file(path) as file:
        sheet.save(file, format="PNG")


def _draw(sample: Sample) -> Image.Image:
    if sample.bbox_center is None or sample.bbox_scale is None:
        return Image.new("RGB", (_TILE, _TILE), _GREY)
    crop = imaging.Crop(np.asarray(sample.bbox_center), sample.bbox_scale, _TILE)
    tile = Image.new("RGB", (_TILE, _TILE), _GREY)
    if sample.image is not None:
        try:
            photo = imaging.load_image(sample.image)
            tile = Image.fromarray(imaging.crop_image(photo, crop))
        except (OSError, ValueError):
            pass
    points = sample.keypoints_2d_px.copy()
    points[:, :2] = crop.to_crop(points[:, :2])
    draw_skeleton(ImageDraw.Draw(tile), points, joint_set(sample.keypoint_set), radius=2.5)
    return tile
