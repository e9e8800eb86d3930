"""One person's photo, keypoints and box to what the fitting loop takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eft_fast import imaging
from eft_fast.keypoints import JointSet, to_spin49


@dataclass(frozen=True)
class Person:
    """A prepared person; ``img`` is None when there is nothing to fit, or once it was passed on.

    Attributes:
        img: Normalised crop, float32 ``[3, S, S]``.
        keypoints_2d: The 49 keypoints in [-1, 1] of the crop, float32 ``[49, 3]``.
        keypoints_px: The given keypoints, cleaned: NaN and those outside the photo have
            confidence 0. Float32 ``[K, 3]``.
        center: Centre of the crop, photo pixels ``[2]``; NaN without a photo.
        scale: Side of the crop / 200, photo pixels; NaN without a photo.
        message: What was wrong, or empty.
    """

    img: npt.NDArray[np.float32] | None
    keypoints_2d: npt.NDArray[np.float32]
    keypoints_px: npt.NDArray[np.float32]
    center: npt.NDArray[np.float64]
    scale: float
    message: str


def prepare_person(
    photo: npt.NDArray[np.uint8] | Exception,
    keypoints: npt.NDArray[np.float32],
    box: npt.NDArray[np.float64],
    joint_set: JointSet,
    input_size: int,
    *,
    strict: bool = False,
) -> Person:
    """Crop the person and bring the keypoints into the crop.

    Args:
        photo: RGB uint8 ``[H, W, 3]``, or the error that reading it gave.
        keypoints: ``[K, 3]`` in photo pixels; 0 or NaN = not labelled.
        box: x, y, width, height; NaN or without area: the box of the labelled keypoints.
        joint_set: Order of the keypoints.
        input_size: Side of the crop in pixels.
        strict: Truncate corners and keypoints to integers, as the reference does.
    """
    if isinstance(photo, Exception):
        return _without_image(keypoints, str(photo))
    height, width = photo.shape[:2]
    cleaned, notes = _clean_keypoints(keypoints, width, height)
    box, note = _usable_box(box, cleaned, width, height)
    notes += note
    try:
        center, scale = imaging.box_to_center_scale(box)
        crop = imaging.Crop(center=center, scale=scale, size=input_size)
        pixels = (imaging.crop_image_strict if strict else imaging.crop_image)(photo, crop)
    except ValueError as error:
        return _without_image(cleaned, str(error))
    if strict:
        cropped = imaging.keypoints_to_crop_strict(cleaned, crop)
    else:
        cropped = np.concatenate([crop.normalise(cleaned[:, :2]), cleaned[:, 2:]], axis=1)
    keypoints_2d = to_spin49(cropped, joint_set.name).astype(np.float32)
    keypoints_2d[keypoints_2d[:, 2] <= 0] = 0.0
    if strict:
        _drop_ankles_at_border(keypoints_2d, to_spin49(cleaned, joint_set.name), height)
    return Person(
        img=imaging.to_input(pixels),
        keypoints_2d=keypoints_2d,
        keypoints_px=cleaned,
        center=np.asarray(crop.center, dtype=np.float64),
        scale=float(crop.scale),
        message="; ".join(notes),
    )


def unread_person(keypoints: npt.NDArray[np.float32]) -> Person:
    """A person whose photo was never read."""
    return _without_image(keypoints, "")


def _without_image(keypoints: npt.NDArray[np.float32], message: str) -> Person:
    return Person(
        img=None,
        keypoints_2d=np.zeros((49, 3), np.float32),
        keypoints_px=np.nan_to_num(keypoints),
        center=np.full(2, np.nan),
        scale=float("nan"),
        message=message,
    )


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


def _drop_ankles_at_border(
    keypoints_2d: npt.NDArray[np.float32], keypoints_px: npt.NDArray[np.float32], height: int
) -> None:
    """The reference's rule: an ankle within 10 px of the lower border needs an OpenPose knee."""
    for ankle, openpose_knee in ((25, 10), (30, 13)):
        at_border = keypoints_px[ankle, 1] >= height - 10
        if at_border and keypoints_2d[openpose_knee, 2] < 0.1:
            keypoints_2d[ankle, 2] = 0.0
