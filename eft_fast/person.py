"""A person and the photo, before any network: the crop, and keypoints in the crop. No torch.

Fitting (``pipeline.prepare``) and serving take people alike, because both take them from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from eft_fast import imaging
from eft_fast.conventions import BOX_MARGIN
from eft_fast.plausible import check_person

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, UInt8

    from eft_fast.sample import Pinhole, Sample


@dataclass(frozen=True, eq=False)
class PlacedPerson:
    """A person with a crop.

    Attributes:
        crop: The square of the photo.
        pixels: What it shows.
        keypoints_px: The given keypoints in photo pixels, cleaned: NaN and those outside the photo
            have confidence 0.
        keypoints: The same with x and y in [-1, 1] of the crop.
        notes: What was odd, a sentence each.
    """

    crop: imaging.Crop
    pixels: UInt8[np.ndarray, "S S 3"]
    keypoints_px: Float32[np.ndarray, "K 3"]
    keypoints: Float64[np.ndarray, "K 3"]
    notes: tuple[str, ...]

    @property
    def given(self) -> Float32[np.ndarray, "K 3"]:
        """``keypoints`` of single precision, zeros where there is none: what fits read."""
        return np.where(self.keypoints[:, 2:] > 0, self.keypoints, 0.0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class UnplacedPerson:
    """A person without a crop: why, and the keypoints as far as they were cleaned."""

    message: str
    keypoints_px: Float[np.ndarray, "K 3"]


def place_person(
    sample: Sample,
    photo: npt.NDArray[np.uint8] | Exception,
    *,
    size: int,
    margin: float = BOX_MARGIN,
    strict: bool = False,
) -> PlacedPerson | UnplacedPerson:
    """Check the numbers of a person, cut the crop, and bring the keypoints into it.

    Args:
        sample: The person; a ``problem`` makes it one without a crop. A box without area, or none:
            the box of the labelled keypoints.
        photo: RGB uint8 ``[H, W, 3]``, or the error that reading it gave.
        size: Side of the crop in crop pixels.
        margin: Side of the crop over the longer side of the box.
        strict: Truncate corners and keypoints to integers, and take a black picture where no crop
            can be cut, as the reference does.
    """
    keypoints = np.asarray(sample.keypoints_2d_px, np.float32)
    if sample.problem is not None:
        return UnplacedPerson(sample.problem, keypoints)
    if isinstance(photo, Exception):
        return UnplacedPerson(str(photo), keypoints)
    height, width = photo.shape[:2]
    given_box = sample.bbox_xywh
    box = np.full(4, np.nan) if given_box is None else np.asarray(given_box, np.float64)
    told: tuple[str, ...] = ()
    if not strict:
        checked = check_person(
            keypoints,
            box,
            (width, height),
            sample.keypoint_set,
            pinhole=photo_pinhole(sample.K, width, height),
            is_order_known=sample.dataset != "arrays",
        )
        if checked.problem is not None:
            return UnplacedPerson(checked.problem, keypoints)
        keypoints, told = checked.keypoints, checked.notes
        box = np.full(4, np.nan) if checked.box is None else checked.box
    cleaned, notes = _clean_keypoints(keypoints, width, height)
    box, note = _usable_box(box, cleaned, width, height)
    notes = [*told, *notes, *note]
    try:
        crop = imaging.Crop.from_box(box, size, margin=margin)
        pixels = _cut_strict(photo, crop, notes) if strict else imaging.crop_image(photo, crop)
    except ValueError as error:
        return UnplacedPerson(str(error), cleaned)
    if strict:
        cropped = imaging.keypoints_to_crop_strict(cleaned, crop)
    else:
        cropped = np.concatenate([crop.normalise(cleaned[:, :2]), cleaned[:, 2:]], axis=1)
    return PlacedPerson(crop, pixels, cleaned, cropped, tuple(notes))


def default_focal_length(width: float, height: float) -> float:
    """Focal length of a photo of which nothing is known, pixels: its diagonal, 53 degrees."""
    return math.hypot(width, height)


def photo_pinhole(
    pinhole: Pinhole | None, width: int, height: int
) -> Float64[np.ndarray, "3 3"] | None:
    """The camera matrix of a photo, pixels; of a focal length, or the diagonal, at its middle."""
    if pinhole is None or isinstance(pinhole, np.ndarray):
        return pinhole
    focal = default_focal_length(width, height) if isinstance(pinhole, str) else pinhole
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def _clean_keypoints(
    keypoints: npt.NDArray[np.float32], width: int, height: int
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Confidence 0 for NaN and for keypoints outside the photo; the latter are worth a word."""
    finite = np.logical_and.reduce(np.isfinite(keypoints), axis=1)
    cleaned = np.where(finite[:, None], keypoints, 0.0).astype(np.float32)
    x, y = cleaned[:, 0], cleaned[:, 1]
    # Integer coordinates are pixel centres, and annotators do click on the border.
    inside = (x >= -1) & (y >= -1) & (x <= width) & (y <= height)
    outside = int(((cleaned[:, 2] > 0) & ~inside).sum())
    cleaned[np.logical_not(inside) | (cleaned[:, 2] <= 0)] = 0.0
    if not outside:
        return cleaned, []
    return cleaned, [
        f"keypoints must lie in the photo of {width} x {height} pixels, "
        f"got {outside} outside; they were left out"
    ]


def _usable_box(
    box: npt.NDArray[np.float64], keypoints: npt.NDArray[np.float32], width: int, height: int
) -> tuple[npt.NDArray[np.float64], list[str]]:
    absent = bool(np.isnan(box).all())
    if not absent and np.isfinite(box).all() and (box[2:] > 0).all():
        return box, []
    notes = [] if absent else [f"box must have a width and a height, got {box.tolist()}"]
    if int((keypoints[:, 2] > 0).sum()) >= 2:
        from_keypoints = np.asarray(imaging.keypoints_to_box(keypoints), dtype=np.float64)
        if max(from_keypoints[2:]) > 0:
            if notes:
                notes[0] += "; the box of the keypoints was taken"
            return from_keypoints, notes
    if notes:
        notes[0] += "; the whole photo was taken"
    return np.array([0.0, 0.0, width, height]), notes


def _cut_strict(
    photo: npt.NDArray[np.uint8], crop: imaging.Crop, notes: list[str]
) -> npt.NDArray[np.uint8]:
    """The reference's crop; a black one where it cannot be cut, and a word about it."""
    try:
        return imaging.crop_image_strict(photo, crop)
    except ValueError as error:
        notes.append(f"{error}; a black picture was fitted, as the reference does")
        return np.zeros((crop.size, crop.size, 3), np.uint8)
