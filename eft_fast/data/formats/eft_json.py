"""Fits in the JSON form of the EFT dataset: ``{"ver": number, "data": [record, ...]}``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from eft_fast.data.formats.fits import EXTRAS, Fits, annotation_number, join_extras
from eft_fast.data.photos import shortest_names
from eft_fast.files import write_text
from eft_fast.keypoints import JOINT_SETS, to_spin49

#: Version that is written. Files of other versions are read alike.
VERSION: Final = 1.0
_WHO: Final = "load_eft_json"
#: Key of a record -> shape.
_ARRAYS: Final = {
    "parm_pose": (24, 3, 3),
    "parm_shape": (10,),
    "parm_cam": (3,),
    "bbox_center": (2,),
    "joint_validity_openpose18": (18,),
}


@dataclass(frozen=True, eq=False)
class EftRecord:
    """One fitted person.

    Attributes:
        image_name: Base name of the photo.
        full_pose_rotmat: Rotations relative to the parent; the root's in the crop camera's frame.
        betas: Shape coefficients.
        pred_cam: s, tx, ty with u = s*X + t in [-1, 1] of the crop.
        bbox_scale: Side of the crop / 200, pixels.
        bbox_center: Its centre, pixels.
        joint_validity: Which of OpenPose's 18 joints were annotated.
        annot_id: Id of the annotation (not of the image), or None.
        subject_id: Name of the person in a video, or None.
        smpltype: Kind of body model, ``"smpl"`` or ``"smplx"``.
        keypoints_2d_px: The annotation, 49 points in photo pixels and confidence, or None.
        regressor_id: Regressor and hash of the weights that the fit started from; None: unknown.
            EFT's own files do not have it, and its readers pass over it.
        extras: More about the fit, under the names of ``FitResult``: error bars
            (``joint_sigma_mm``), losses, ... Passed over by EFT's readers as well.
    """

    image_name: str
    full_pose_rotmat: Float[np.ndarray, "24 3 3"]
    betas: Float[np.ndarray, " 10"]
    pred_cam: Float[np.ndarray, " 3"]
    bbox_scale: float
    bbox_center: Float[np.ndarray, " 2"]
    joint_validity: Float[np.ndarray, " 18"]
    annot_id: int | None = None
    subject_id: str | None = None
    smpltype: str = "smpl"
    keypoints_2d_px: Float[np.ndarray, "49 3"] | None = None
    regressor_id: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


def save_eft_json(path: str | Path, records: Iterable[EftRecord]) -> Path:
    """Write fits; every float comes back with the same bits.

    Raises:
        ValueError: If a number is not finite: JSON has no NaN, and readers of these files know no
            missing fits. Select before writing.
    """
    rows = [_to_row(record) for record in records]
    text = json.dumps({"ver": VERSION, "data": rows}, allow_nan=False)
    path = Path(path)
    write_text(path, text)
    return path


def load_eft_json(path: str | Path) -> list[EftRecord]:
    """Read fits.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file; the sentence names the record and the field.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{_WHO}: no file {path}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{_WHO}: {path} is not JSON ({error})") from error
    rows = document.get("data") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f'{_WHO}: {path} must hold an object with a list "data"')
    return [_from_row(row, number) for number, row in enumerate(rows)]


def _to_row(record: EftRecord) -> dict[str, Any]:
    row: dict[str, Any] = {
        "parm_pose": record.full_pose_rotmat,
        "parm_shape": record.betas,
        "parm_cam": record.pred_cam,
        "bbox_scale": float(record.bbox_scale),
        "bbox_center": record.bbox_center,
        "joint_validity_openpose18": record.joint_validity,
        "smpltype": record.smpltype,
        "imageName": record.image_name,
    }
    if record.annot_id is not None:
        row["annotId"] = int(record.annot_id)
    if record.subject_id is not None:
        row["subjectId"] = record.subject_id
    if record.keypoints_2d_px is not None:
        row["gt_keypoint_2d"] = record.keypoints_2d_px
    if record.regressor_id is not None:
        row["regressor"] = record.regressor_id
    row |= {name: _plain(value) for name, value in record.extras.items() if name in EXTRAS}
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            if not np.isfinite(value).all():
                raise ValueError(
                    f"save_eft_json: {name} of {record.image_name} must be finite, got NaN or "
                    "infinity; leave failed fits out"
                )
            # A float32 is exact as a float64, which JSON writes with all its digits.
            row[name] = value.astype(np.float64).tolist()
    return row


def _plain(value: Any) -> Any:
    """A number of numpy without axes as one of Python; arrays and text as they are."""
    is_number = isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim)
    return value.item() if is_number else value


def _from_row(row: Any, number: int) -> EftRecord:
    if not isinstance(row, dict):
        raise ValueError(f"{_WHO}: record {number} must be an object, got {type(row).__name__}")
    arrays = {name: _array(row, name, shape, number) for name, shape in _ARRAYS.items()}
    points = None
    if "gt_keypoint_2d" in row:
        points = _array(row, "gt_keypoint_2d", (49, 3), number)
    scale, name = row.get("bbox_scale"), row.get("imageName")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not isinstance(name, str):
        raise ValueError(f"{_WHO}: record {number} must have a number bbox_scale and an imageName")
    annotation, subject = row.get("annotId"), row.get("subjectId")
    regressor = row.get("regressor")
    return EftRecord(
        image_name=name,
        full_pose_rotmat=arrays["parm_pose"],
        betas=arrays["parm_shape"],
        pred_cam=arrays["parm_cam"],
        bbox_scale=float(scale),
        bbox_center=arrays["bbox_center"],
        joint_validity=arrays["joint_validity_openpose18"],
        annot_id=None if annotation is None else int(annotation),
        subject_id=None if subject is None else str(subject),
        smpltype=str(row.get("smpltype", "smpl")),
        keypoints_2d_px=points,
        regressor_id=None if regressor is None else str(regressor),
        extras={name: row[name] for name in EXTRAS if name in row},
    )


def _array(row: dict[str, Any], name: str, shape: tuple[int, ...], number: int) -> np.ndarray:
    try:
        value = np.array(row[name], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        value = np.zeros(0)
    if value.shape != shape:
        raise ValueError(
            f"{_WHO}: {name} of record {number} must be numbers {list(shape)}, "
            f"got {list(value.shape) if name in row else 'none'}"
        )
    return value


def eft_records_from_fits(fits: Fits) -> list[EftRecord]:
    """Turn fits into records. Their keypoints go into the 49 points of SPIN and EFT."""
    spin49 = to_spin49(fits.keypoints_2d_px, fits.joint_set)
    validity = openpose18_validity(spin49)
    # EFT's readers know photos by their base name; only photos that share one keep a folder.
    names = shortest_names(fits.photos)
    return [
        EftRecord(
            image_name=names[row],
            full_pose_rotmat=fits.rotmat[row],
            betas=fits.betas[row],
            pred_cam=fits.pred_cam[row],
            bbox_scale=float(fits.bbox_scale[row]),
            bbox_center=fits.bbox_center[row],
            joint_validity=validity[row],
            annot_id=annotation_number(fits.ids[row]),
            subject_id=fits.tracks[row] or None,
            keypoints_2d_px=spin49[row],
            regressor_id=fits.regressor_ids[row] or None,
            extras=fits.extras_of(row),
        )
        for row in range(len(fits))
    ]


def eft_records_to_fits(records: list[EftRecord]) -> Fits:
    """Turn records into fits; a record without keypoints has none that are labelled."""
    count = len(records)

    def stack(values: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return np.stack(values) if values else np.zeros((0, *shape))

    nothing = np.zeros((49, 3))
    return Fits(
        photos=tuple(record.image_name for record in records),
        rotmat=stack([record.full_pose_rotmat for record in records], (24, 3, 3)),
        betas=stack([record.betas for record in records], (10,)),
        pred_cam=stack([record.pred_cam for record in records], (3,)),
        bbox_center=stack([record.bbox_center for record in records], (2,)),
        bbox_scale=np.array([record.bbox_scale for record in records], np.float64),
        keypoints_2d_px=stack(
            [nothing if r.keypoints_2d_px is None else r.keypoints_2d_px for r in records], (49, 3)
        ),
        joint_set="spin49",
        ids=tuple("" if r.annot_id is None else str(r.annot_id) for r in records),
        tracks=tuple(record.subject_id or "" for record in records),
        is_trusted=np.ones(count, bool),
        regressor_ids=tuple(record.regressor_id or "" for record in records),
        extras=join_extras([record.extras for record in records]),
    )


def openpose18_validity(spin49: Float[np.ndarray, "N 49 3"]) -> Float[np.ndarray, "N 18"]:
    """Return which of OpenPose's 18 joints are labelled among 49 keypoints, as 0 and 1."""
    joints = JOINT_SETS["op18"]
    labelled = spin49[..., 2] > 0
    columns = []
    for j24, op25 in zip(joints.to_j24, joints.to_op25, strict=True):
        column = np.zeros(len(spin49), bool)
        if j24 >= 0:
            column |= labelled[:, 25 + j24]
        if op25 >= 0:
            column |= labelled[:, op25]
        columns.append(column)
    return np.stack(columns, 1).astype(np.float64)
