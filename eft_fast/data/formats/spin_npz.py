"""Labels in the npz form of SPIN's training sets, which EFT and its followers read too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eft_fast.data.formats.fits import (
    EXTRAS,
    Fits,
    annotation_number,
    to_axis_angle,
    to_rotmat,
)
from eft_fast.data.formats.npz import read_npz
from eft_fast.files import save_npz
from eft_fast.keypoints import to_spin49

#: What SPIN writes for the body model of a person.
_GENDERS: Final = {"m": "male", "f": "female"}
_EXACT: Final = {"rotmat": (24, 3, 3), "pred_cam": (3,)}


@dataclass(frozen=True, eq=False)
class SpinLabels:
    """Labelled people.

    Attributes:
        image_names: Photo of each person, relative to the dataset's root.
        bbox_center: Centre of each crop, pixels.
        bbox_scale: Side of each crop / 200, pixels.
        keypoints_2d_px: 49 points in photo pixels and confidence: OpenPose's 25, then the 24.
        full_pose: Axis-angle of the 24 joints.
        betas: Shape coefficients.
        has_smpl: Whether pose and shape of a person may be trusted.
        annot_ids: Annotation of each person; -1 where there is none.
        regressor_ids: Regressor and hash of the weights that each fit started from; empty where
            that is unknown. SPIN's own files do not have it, and its readers pass over it.
        points_3d: S: the 24 points in space, x, y, z in metres and confidence; None: not there.
        genders: ``male``, ``female`` or ``neutral`` of each person; empty: not there.
        subject_ids: Who each person is, over several photos; empty: not there.
        extras: ``rotmat`` and ``pred_cam`` (u = s*X + t), which SPIN's form has no place for, and
            what ``fits.EXTRAS`` names. Written by this package, passed over by SPIN's readers.
    """

    image_names: tuple[str, ...]
    bbox_center: Float[np.ndarray, "N 2"]
    bbox_scale: Float[np.ndarray, " N"]
    keypoints_2d_px: Float[np.ndarray, "N 49 3"]
    full_pose: Float[np.ndarray, "N 72"]
    betas: Float[np.ndarray, "N 10"]
    has_smpl: Bool[np.ndarray, " N"]
    annot_ids: Int[np.ndarray, " N"]
    regressor_ids: tuple[str, ...] = ()
    points_3d: Float[np.ndarray, "N 24 4"] | None = None
    genders: tuple[str, ...] = ()
    subject_ids: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)


def save_spin_npz(path: str | Path, labels: SpinLabels) -> Path:
    """Write labels. SPIN's form has no camera: a fitted one goes into ``pred_cam`` beside it."""
    path = Path(path)
    arrays: dict[str, np.ndarray] = {
        "imgname": np.array(labels.image_names, dtype=np.str_),
        "center": labels.bbox_center,
        "scale": labels.bbox_scale,
        "openpose": labels.keypoints_2d_px[:, :25],
        "part": labels.keypoints_2d_px[:, 25:],
        "pose": labels.full_pose,
        "shape": labels.betas,
        "has_smpl": labels.has_smpl.astype(np.int64),
        "annotIds": labels.annot_ids,
    }
    if labels.regressor_ids:
        arrays["regressor"] = np.array(labels.regressor_ids, dtype=np.str_)
    if labels.points_3d is not None:
        arrays["S"] = labels.points_3d
    if labels.genders:
        letters = {name: letter for letter, name in _GENDERS.items()}
        arrays["gender"] = np.array([letters.get(name, "n") for name in labels.genders], np.str_)
    if labels.subject_ids:
        arrays["subjectIds"] = np.array(labels.subject_ids, dtype=np.str_)
    arrays |= {
        name: np.asarray(labels.extras[name])
        for name in (*_EXACT, *EXTRAS)
        if name in labels.extras
    }
    save_npz(path, arrays, compressed=False)
    return path


def load_spin_npz(path: str | Path) -> SpinLabels:
    """Read labels; what SPIN calls optional may be missing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an array is missing or has another shape.
    """
    arrays = read_npz(
        path,
        "load_spin_npz",
        required={"imgname": (), "center": (2,), "scale": (), "part": (24, 3)},
        optional={
            "openpose": (25, 3), "pose": (72,), "shape": (10,), "has_smpl": (), "annotIds": (),
            "regressor": (), "S": (24, 4), "gender": (), "subjectIds": (), **_EXACT,
            **{name: shape or () for name, shape in EXTRAS.items()},
        },
    )  # fmt: skip
    count = len(arrays["imgname"])
    has_pose = "pose" in arrays and "shape" in arrays
    has_smpl = arrays.get("has_smpl", np.full(count, has_pose))
    return SpinLabels(
        image_names=tuple(str(name) for name in arrays["imgname"].tolist()),
        bbox_center=arrays["center"],
        bbox_scale=arrays["scale"],
        keypoints_2d_px=np.concatenate(
            [arrays.get("openpose", np.zeros((count, 25, 3))), arrays["part"]], 1
        ),
        full_pose=arrays.get("pose", np.zeros((count, 72))),
        betas=arrays.get("shape", np.zeros((count, 10))),
        has_smpl=has_smpl.astype(bool),
        annot_ids=arrays.get("annotIds", np.full(count, -1)).astype(np.int64),
        regressor_ids=_texts(arrays, "regressor"),
        points_3d=arrays.get("S"),
        genders=tuple(
            _GENDERS.get(name.strip().lower()[:1], "neutral") for name in _texts(arrays, "gender")
        ),
        subject_ids=_texts(arrays, "subjectIds"),
        extras={name: arrays[name] for name in (*_EXACT, *EXTRAS) if name in arrays},
    )


def _texts(arrays: Mapping[str, np.ndarray], name: str) -> tuple[str, ...]:
    return tuple(
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in arrays.get(name, np.zeros(0)).tolist()
    )


def spin_labels_from_fits(fits: Fits) -> SpinLabels:
    """Turn fits into labels; matrices and cameras go along as they are, so that nothing is lost."""
    numbers = [annotation_number(text) for text in fits.ids]
    has_genders = any(gender != "neutral" for gender in fits.genders)
    return SpinLabels(
        image_names=fits.photos,
        bbox_center=fits.bbox_center,
        bbox_scale=fits.bbox_scale,
        keypoints_2d_px=to_spin49(fits.keypoints_2d_px, fits.joint_set),
        full_pose=to_axis_angle(fits.rotmat).reshape(-1, 72),
        betas=fits.betas,
        has_smpl=fits.is_trusted,
        annot_ids=np.array([-1 if found is None else found for found in numbers], np.int64),
        regressor_ids=fits.regressor_ids if any(fits.regressor_ids) else (),
        genders=fits.genders if has_genders else (),
        subject_ids=fits.tracks if any(fits.tracks) else (),
        extras={"rotmat": fits.rotmat, "pred_cam": fits.pred_cam, **fits.portable_extras()},
    )


def spin_labels_to_fits(labels: SpinLabels) -> Fits:
    """Turn labels into fits; files of others have no camera."""
    extras = dict(labels.extras)
    count = len(labels.image_names)
    rotmat = extras.pop("rotmat", None)
    camera = extras.pop("pred_cam", None)
    return Fits(
        photos=labels.image_names,
        rotmat=to_rotmat(labels.full_pose.reshape(-1, 24, 3)) if rotmat is None else rotmat,
        betas=labels.betas,
        pred_cam=np.full((count, 3), np.nan) if camera is None else camera,
        bbox_center=labels.bbox_center,
        bbox_scale=labels.bbox_scale,
        keypoints_2d_px=labels.keypoints_2d_px,
        joint_set="spin49",
        ids=tuple("" if number < 0 else str(number) for number in labels.annot_ids.tolist()),
        tracks=labels.subject_ids,
        is_trusted=labels.has_smpl,
        regressor_ids=labels.regressor_ids,
        genders=labels.genders,
        extras=extras,
    )
