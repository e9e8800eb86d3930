"""One person's photo, keypoints and box to what the fitting loop takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float

from eft_fast import imaging
from eft_fast.conventions import IMG_MEAN, IMG_STD
from eft_fast.geometry.cameras import crop_intrinsics, default_focal_length
from eft_fast.keypoints import JointSet, to_spin49

#: A photo's pinhole [3,3]; the focal length in pixels, of a pinhole at the photo's middle; or
#: ``DIAGONAL``.
Pinhole = npt.NDArray[np.float64] | float | str
#: Pinholes [N,3,3] of all people, one word or number for all, or none.
Pinholes = Pinhole | None
#: Right and left among the 49: annotated ankles, and knees of OpenPose, whose block is the first.
_ANKLES: Final = (25, 30)
_OPENPOSE_KNEES: Final = (10, 13)
_NUM_OPENPOSE: Final = 25
#: Name of the pinhole of which nothing but the photo's size is known.
DIAGONAL: Final = "diagonal"


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
        intrinsics: Pinhole of the photo, pixels ``[3, 3]``; None: the weak camera is used.
    """

    img: npt.NDArray[np.float32] | None
    keypoints_2d: npt.NDArray[np.float32]
    keypoints_px: npt.NDArray[np.float32]
    center: npt.NDArray[np.float64]
    scale: float
    message: str
    intrinsics: npt.NDArray[np.float64] | None = None

    def crop_pinhole(self, device: torch.device) -> Float[torch.Tensor, "3 3"] | None:
        """The pinhole as seen in the crop, for the fit."""
        if self.intrinsics is None:
            return None
        one = (self.intrinsics, self.center, np.asarray(self.scale))
        tensors = (torch.tensor(value)[None] for value in one)
        return crop_intrinsics(*tensors)[0].to(device, torch.float32)


def prepare_person(
    photo: npt.NDArray[np.uint8] | Exception,
    keypoints: npt.NDArray[np.float32],
    box: npt.NDArray[np.float64],
    joint_set: JointSet,
    input_size: int,
    *,
    mean: Sequence[float] = IMG_MEAN,
    std: Sequence[float] = IMG_STD,
    strict: bool = False,
    pinhole: Pinhole | None = None,
) -> Person:
    """Crop the person and bring the keypoints into the crop.

    Args:
        photo: RGB uint8 ``[H, W, 3]``, or the error that reading it gave.
        keypoints: ``[K, 3]`` in photo pixels; 0 or NaN = not labelled.
        box: x, y, width, height; NaN or without area: the box of the labelled keypoints.
        joint_set: Order of the keypoints.
        input_size: Side of the crop in pixels.
        mean: Of the normalisation, ``Regressor.img_mean``.
        std: Of the normalisation, ``Regressor.img_std``.
        strict: Truncate corners and keypoints to integers, fit a black picture where no crop can
            be cut, and always apply the rule for ankles at the border, as the reference does.
        pinhole: Of the photo; None: the weak camera is used.
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
        pixels = _cut_strict(photo, crop, notes) if strict else imaging.crop_image(photo, crop)
    except ValueError as error:
        return _without_image(cleaned, str(error))
    if strict:
        cropped = imaging.keypoints_to_crop_strict(cleaned, crop)
    else:
        cropped = np.concatenate([crop.normalise(cleaned[:, :2]), cleaned[:, 2:]], axis=1)
    keypoints_2d = to_spin49(cropped, joint_set.name).astype(np.float32)
    keypoints_2d[keypoints_2d[:, 2] <= 0] = 0.0
    if strict or _has_openpose_block(keypoints_2d, joint_set):
        _drop_ankles_at_border(keypoints_2d, to_spin49(cleaned, joint_set.name), height)
    return Person(
        img=imaging.to_input(pixels, mean, std),
        keypoints_2d=keypoints_2d,
        keypoints_px=cleaned,
        center=np.asarray(crop.center, dtype=np.float64),
        scale=float(crop.scale),
        message="; ".join(notes),
        intrinsics=_make_pinhole(pinhole, width, height),
    )


def check_pinholes(intrinsics: npt.ArrayLike | float | str | None, people: int) -> Pinholes:
    """Bring the argument of ``fit_batch`` into one form.

    Raises:
        ValueError: If it is neither ``diagonal``, nor a focal length, nor pinholes of all people.
    """
    if intrinsics is None:
        return None
    if isinstance(intrinsics, str):
        if intrinsics != DIAGONAL:
            raise ValueError(
                f"fit_batch: intrinsics must be {DIAGONAL!r}, a focal length, [3, 3] or "
                f"[{people}, 3, 3], got {intrinsics!r}"
            )
        return intrinsics
    given = np.asarray(intrinsics, dtype=np.float64)
    if given.ndim == 0:
        if not 0 < float(given) < np.inf:
            raise ValueError(f"fit_batch: a focal length must be positive, got {float(given):g}")
        return float(given)
    if given.shape == (3, 3):
        given = np.broadcast_to(given, (people, 3, 3))
    if given.shape != (people, 3, 3):
        raise ValueError(
            f"fit_batch: intrinsics must be [3, 3] or [{people}, 3, 3], got {list(given.shape)}"
        )
    is_pinhole = np.isfinite(given).all((1, 2)) & (given[:, 0, 0] > 0) & (given[:, 1, 1] > 0)
    is_pinhole &= (given[:, 2] == (0, 0, 1)).all(1)
    if not is_pinhole.all():
        raise ValueError(
            "fit_batch: intrinsics must have positive focal lengths and a last row of 0, 0, 1, "
            f"got {given[~is_pinhole][0].tolist()}"
        )
    return given


def _make_pinhole(
    pinhole: Pinhole | None, width: int, height: int
) -> npt.NDArray[np.float64] | None:
    if pinhole is None or isinstance(pinhole, np.ndarray):
        return pinhole
    focal = default_focal_length(width, height) if isinstance(pinhole, str) else pinhole
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def unread_person(keypoints: npt.NDArray[np.float32]) -> Person:
    """A person whose photo was never read."""
    return _without_image(keypoints, "")


def refused_person(keypoints: npt.NDArray[np.float32], message: str) -> Person:
    """A person who cannot be fitted, and why."""
    return _without_image(keypoints, message)


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


def _cut_strict(
    photo: npt.NDArray[np.uint8], crop: imaging.Crop, notes: list[str]
) -> npt.NDArray[np.uint8]:
    """The reference's crop; a black one where it cannot be cut, and a word about it."""
    try:
        return imaging.crop_image_strict(photo, crop)
    except ValueError as error:
        notes.append(f"{error}; a black picture was fitted, as the reference does")
        return np.zeros((crop.size, crop.size, 3), np.uint8)


def _has_openpose_block(keypoints_2d: npt.NDArray[np.float32], joint_set: JointSet) -> bool:
    """Whether there are OpenPose's own detections, knees included, beside the annotated block."""
    knees = set(_OPENPOSE_KNEES) <= set(joint_set.to_op25)
    return knees and bool((keypoints_2d[:_NUM_OPENPOSE, 2] > 0).any())


def _drop_ankles_at_border(
    keypoints_2d: npt.NDArray[np.float32], keypoints_px: npt.NDArray[np.float32], height: int
) -> None:
    """The reference's rule: an ankle within 10 px of the lower border needs an OpenPose knee."""
    for ankle, openpose_knee in zip(_ANKLES, _OPENPOSE_KNEES, strict=True):
        at_border = keypoints_px[ankle, 1] >= height - 10
        if at_border and keypoints_2d[openpose_knee, 2] < 0.1:
            keypoints_2d[ankle, 2] = 0.0
