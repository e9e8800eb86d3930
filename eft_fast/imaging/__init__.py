"""Photos in, network crops out, and points between the two: one definition for all of the package.

A point in a photo is in pixels, x right and y down, and an integer is the centre of a pixel. A crop
is a square of the photo with the side ``h = 200 * bbox_scale`` pixels, resampled to S x S:

    x_crop = S / h * (x - cx) + S / 2        u = 2 * (x - cx) / h = 2 * x_crop / S - 1

and the same for y. In the crop too an integer is the centre of a pixel. Nothing is rounded on the
way, except in the two functions named ``*_strict``, which repeat the integer steps of the original
EFT code.
"""

from eft_fast.imaging.boxes import (
    MAX_CROP_SIDE,
    MIN_CROP_SIDE,
    box_to_center_scale,
    check_keypoints,
    keypoints_to_box,
)
from eft_fast.imaging.crop import Crop, crop_image, from_input, to_input
from eft_fast.imaging.load import MAX_PIXELS, load_image, load_image_size, plain_image
from eft_fast.imaging.strict import crop_image_strict, keypoints_to_crop_strict

__all__ = [
    "MAX_CROP_SIDE",
    "MAX_PIXELS",
    "MIN_CROP_SIDE",
    "Crop",
    "box_to_center_scale",
    "check_keypoints",
    "crop_image",
    "crop_image_strict",
    "from_input",
    "keypoints_to_box",
    "keypoints_to_crop_strict",
    "load_image",
    "load_image_size",
    "plain_image",
    "to_input",
]
