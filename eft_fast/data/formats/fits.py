"""Fitted people as arrays: what every format of fits is written from, and read into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

#: Per-person values that formats with room for more take along: name -> shape of a row; None: text.
#: The names are those of ``FitResult``.
EXTRAS: Final[Mapping[str, tuple[int, ...] | None]] = {
    "joint_sigma_mm": (24,),
    "joint_confidence": (24,),
    "loss": (),
    "init_loss": (),
    "kp_error_px": (),
    "init_kp_error_px": (),
    "steps": (),
    "intrinsics": (3, 3),
    "stop_reason": None,
    "body_id": None,
    "method": None,
    "mode": None,
}


@dataclass(frozen=True, eq=False)
class Fits:
    """N fitted people. NaN, and empty text, are what a format does not say.

    Attributes:
        photos: Photo of each person, as the file names it.
        rotmat: Rotations of SMPL's 24 joints relative to the parent; the root's in the frame of the
            crop's camera (x right, y down, z forward).
        betas: Shape coefficients.
        pred_cam: s, tx, ty with u = s*X + t in [-1, 1] of the crop.
        bbox_center: Centre of the crop, photo pixels.
        bbox_scale: Its side / 200, photo pixels.
        keypoints_2d_px: The annotation: x, y in photo pixels, and confidence.
        joint_set: Order of the keypoints.
        ids: Annotation of each person.
        tracks: Who each person is, over several photos.
        is_trusted: Whether pose and shape of a person may be learnt from.
        regressor_ids: Regressor and hash of the weights that each fit started from.
        genders: Body model of each person: ``neutral``, ``female`` or ``male``.
        cam_transl: Where the body's origin stands in the camera frame, metres.
        extras: More values per person, see ``EXTRAS``.
        facts: What holds for all: ``method``, ``mode``, ``body_id`` ...
    """

    photos: tuple[str, ...]
    rotmat: Float[np.ndarray, "N 24 3 3"]
    betas: Float[np.ndarray, "N 10"]
    pred_cam: Float[np.ndarray, "N 3"]
    bbox_center: Float[np.ndarray, "N 2"]
    bbox_scale: Float[np.ndarray, " N"]
    keypoints_2d_px: Float[np.ndarray, "N K 3"]
    joint_set: str
    ids: tuple[str, ...] = ()
    tracks: tuple[str, ...] = ()
    is_trusted: Bool[np.ndarray, " N"] = field(default_factory=lambda: np.zeros(0, bool))
    regressor_ids: tuple[str, ...] = ()
    genders: tuple[str, ...] = ()
    cam_transl: Float[np.ndarray, "N 3"] = field(default_factory=lambda: np.zeros((0, 3)))
    extras: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill in what was left out; every row then says what it does not know."""
        count = len(self.photos)
        empty: dict[str, Any] = {
            "ids": ("",) * count,
            "tracks": ("",) * count,
            "regressor_ids": ("",) * count,
            "genders": ("neutral",) * count,
            "is_trusted": np.ones(count, bool),
            "cam_transl": np.full((count, 3), np.nan),
        }
        for name, value in empty.items():
            if not len(getattr(self, name)):
                object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.photos)

    def take(self, rows: Sequence[int]) -> Fits:
        """The people with these numbers."""
        index = np.asarray(rows, dtype=np.int64)
        changed: dict[str, Any] = {
            "extras": {name: value[index] for name, value in self.extras.items()}
        }
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changed[item.name] = value[index]
            elif isinstance(value, tuple):
                changed[item.name] = tuple(value[row] for row in index.tolist())
        return replace(self, **changed)

    def portable_extras(self) -> dict[str, npt.NDArray[Any]]:
        """Those of the extras that formats of other programs take along."""
        return {name: self.extras[name] for name in EXTRAS if name in self.extras}

    def extras_of(self, row: int) -> dict[str, Any]:
        """What ``portable_extras`` says about one person; what is not finite is left out."""
        found = {}
        for name, values in self.portable_extras().items():
            value = values[row]
            if values.dtype.kind == "U":
                found[name] = str(value)
            elif np.isfinite(value).all():
                found[name] = value
        return found


def join_extras(rows: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """Undo ``Fits.extras_of`` for all people: arrays, NaN and empty text where nothing is said."""
    joined: dict[str, npt.NDArray[Any]] = {}
    for name, shape in EXTRAS.items():
        given = [row.get(name) for row in rows]
        if all(value is None for value in given):
            continue
        if shape is None:
            joined[name] = np.array([value or "" for value in given], dtype=np.str_)
            continue
        values = [
            np.full(shape, np.nan) if value is None else _shaped(value, shape) for value in given
        ]
        joined[name] = np.stack(values)
    return joined


def _shaped(value: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A value of a file in its shape; NaN if it is none: extras are never worth a refusal."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.full(shape, np.nan)
    return array if array.shape == shape else np.full(shape, np.nan)


def to_axis_angle(rotmat: Float[np.ndarray, "N 24 3 3"]) -> Float[np.ndarray, "N 24 3"]:
    """Rotation vectors of matrices, computed in double."""
    import torch

    from eft_fast.geometry.rotations import matrix_to_axis_angle

    return matrix_to_axis_angle(torch.from_numpy(np.array(rotmat, np.float64))).numpy()


def to_rotmat(axis_angle: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Matrices of rotation vectors, computed in double."""
    import torch

    from eft_fast.geometry.rotations import axis_angle_to_matrix

    return axis_angle_to_matrix(torch.from_numpy(np.array(axis_angle, np.float64))).numpy()


def annotation_number(text: str) -> int | None:
    """The number of an annotation's id; of one that repeats in its file (``7#2``), that number."""
    import re

    number = re.fullmatch(r"(-?[0-9]{1,18})(#[0-9]+)?", text)
    return int(number[1]) if number else None
