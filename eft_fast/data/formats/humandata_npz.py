"""Labels in the npz form of MMHuman3D, ``HumanData``: 190 named points, SMPL in a dictionary.

``image_path``, ``bbox_xywh`` [N, 5] (x, y, w, h in pixels, confidence), ``keypoints2d`` [N, K, 3]
with ``keypoints2d_mask`` [190], ``keypoints3d`` alike in metres, ``smpl`` {``global_orient``
[N, 3], ``body_pose`` [N, 23, 3], ``betas`` [N, 10], ``transl``}, ``meta`` {``gender``}, ``misc``.
Points that nobody has are left out of the arrays (``__keypoints_compressed__``): the mask says
which of the 190 stand there. Dictionaries are pickled inside the npz; they are read inertly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from eft_fast.conventions import BOX_MARGIN, BOX_UNIT, box_margin_of
from eft_fast.data.formats.fits import (
    EXTRAS,
    Fits,
    to_axis_angle,
    to_rotmat,
)
from eft_fast.data.formats.npz import read_members
from eft_fast.files import whole_file
from eft_fast.keypoints import to_spin49

_WHO: Final = "load_humandata_npz"
NUM_POINTS: Final = 190
#: Place among the 190 of each of the 49: OpenPose's 25 have a block of their own; hips, neck, crown
#: and the rest of J24 that SMPL's regressor for SPIN makes are the "extra" points.
SPIN49_TO_190: Final = (
    *range(153, 178),
    8, 5, 144, 145, 4, 7, 21, 19, 17, 16, 18, 20, 146, 147, 148, 149, 150, 151, 152, 55, 57, 56,
    59, 58,
)  # fmt: skip
#: The same of SMPL's 24 joints; the hands stand at the end.
SMPL24_TO_190: Final = (*range(22), 188, 189)
_OURS: Final = "eft_fast"


@dataclass(frozen=True, eq=False)
class HumanData:
    """Labelled people.

    Attributes:
        image_path: Photo of each person.
        bbox_xywh: Box in pixels, and confidence.
        keypoints2d: The 190 points, photo pixels and confidence; 0 where the mask is 0.
        keypoints2d_mask: Which of them the file has.
        smpl: ``global_orient``, ``body_pose``, ``betas`` and whatever else.
        keypoints3d: The 190 points in metres and confidence; None: not there.
        keypoints3d_mask: Which of them the file has.
        meta: ``gender`` and the like: a list or array per key.
        misc: Anything else.
        config: Name of the dataset.
    """

    image_path: tuple[str, ...]
    bbox_xywh: Float[np.ndarray, "N 5"]
    keypoints2d: Float[np.ndarray, "N 190 3"]
    keypoints2d_mask: Bool[np.ndarray, " 190"]
    smpl: Mapping[str, Any]
    keypoints3d: Float[np.ndarray, "N 190 4"] | None = None
    keypoints3d_mask: Bool[np.ndarray, " 190"] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    misc: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""


def save_humandata_npz(path: str | Path, data: HumanData) -> Path:
    """Write labels as MMHuman3D does: compressed, without the points that nobody has."""
    path = Path(path)
    mask = data.keypoints2d_mask
    arrays: dict[str, Any] = {
        "__key_strict__": False,
        "__temporal_len__": len(data.image_path),
        "__keypoints_compressed__": True,
        "image_path": np.array(data.image_path, dtype=np.str_),
        "bbox_xywh": data.bbox_xywh,
        "keypoints2d": data.keypoints2d[:, mask],
        "keypoints2d_mask": mask.astype(np.int64),
        "keypoints2d_convention": "human_data",
        "smpl": dict(data.smpl),
        "meta": dict(data.meta),
        "misc": dict(data.misc),
        "config": data.config,
    }
    if data.keypoints3d is not None and data.keypoints3d_mask is not None:
        arrays["keypoints3d"] = data.keypoints3d[:, data.keypoints3d_mask]
        arrays["keypoints3d_mask"] = data.keypoints3d_mask.astype(np.int64)
        arrays["keypoints3d_convention"] = "human_data"
    with whole_file(path) as file:
        np.savez_compressed(file, allow_pickle=True, **arrays)
    return path


def load_humandata_npz(path: str | Path) -> HumanData:
    """Read labels; nothing that the file asks for is run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such npz, or an array has another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{_WHO}: no file {path}")
    values = read_members(path, _WHO)
    photos, smpl = values.get("image_path"), values.get("smpl")
    if not isinstance(photos, list) or not isinstance(smpl, dict):
        got = ", ".join(sorted(values)) or "none"
        raise ValueError(f"{_WHO}: {path} must hold image_path and smpl, got {got}")
    count = len(photos)
    boxes = _numbers(values, "bbox_xywh", path)
    if boxes.shape == (count, 4):
        boxes = np.concatenate([boxes, np.ones((count, 1))], 1)
    if boxes.shape != (count, 5):
        raise ValueError(
            f"{_WHO}: bbox_xywh must be {[count, 5]} in {path}, got {list(boxes.shape)}"
        )
    points, mask = _points(values, "keypoints2d", 3, count, path)
    solid = _points(values, "keypoints3d", 4, count, path) if "keypoints3d" in values else None
    meta, misc = (values.get(name) for name in ("meta", "misc"))
    return HumanData(
        image_path=tuple(str(name) for name in photos),
        bbox_xywh=boxes,
        keypoints2d=points,
        keypoints2d_mask=mask,
        smpl=smpl,
        keypoints3d=None if solid is None else solid[0],
        keypoints3d_mask=None if solid is None else solid[1],
        meta=meta if isinstance(meta, dict) else {},
        misc=misc if isinstance(misc, dict) else {},
        config=str(values.get("config", "")),
    )


def _numbers(values: Mapping[str, Any], name: str, path: Path) -> np.ndarray:
    value = values.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise ValueError(f"{_WHO}: {path} must hold numbers {name}")
    return value


def _points(
    values: Mapping[str, Any], name: str, size: int, count: int, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Points as the 190 with zeros where the file has none, and which it has."""
    given = _numbers(values, name, path)
    said = values.get(f"{name}_mask")
    mask = np.ones(NUM_POINTS, bool) if said is None else np.asarray(said).astype(bool)
    if mask.shape != (NUM_POINTS,) or given.shape not in (
        (count, int(mask.sum()), size),
        (count, NUM_POINTS, size),
    ):
        raise ValueError(
            f"{_WHO}: {name} must be {[count, int(mask.sum()), size]} under a mask of {NUM_POINTS} "
            f"in {path}, got {list(given.shape)} under {list(mask.shape)}"
        )
    if given.shape[1] == NUM_POINTS:
        return given, mask
    points = np.zeros((count, NUM_POINTS, size), given.dtype)
    points[:, mask] = given
    return points, mask


def humandata_from_fits(fits: Fits) -> HumanData:
    """Turn fits into labels. Boxes are the crops without their margin.

    Matrices, cameras and what ``fits.EXTRAS`` names go into ``misc`` as well, so that nothing is
    lost on the way back.
    """
    spin49 = to_spin49(fits.keypoints_2d_px, fits.joint_set)
    points = np.zeros((len(fits), NUM_POINTS, 3), spin49.dtype)
    points[:, SPIN49_TO_190] = spin49
    mask = np.zeros(NUM_POINTS, bool)
    mask[list(SPIN49_TO_190)] = True
    margin = np.array([box_margin_of(name) for name in fits.regressor_ids])
    side = np.asarray(fits.bbox_scale, np.float64) * BOX_UNIT / margin
    corner = np.asarray(fits.bbox_center, np.float64) - side[:, None] / 2
    pose = to_axis_angle(fits.rotmat)
    return HumanData(
        image_path=fits.photos,
        bbox_xywh=np.column_stack([corner, side, side, np.ones(len(fits))]),
        keypoints2d=points,
        keypoints2d_mask=mask,
        smpl={"global_orient": pose[:, 0], "body_pose": pose[:, 1:], "betas": fits.betas},
        meta={"gender": list(fits.genders)},
        misc={
            _OURS: {
                "rotmat": fits.rotmat,
                "pred_cam": fits.pred_cam,
                "bbox_center": fits.bbox_center,
                "bbox_scale": fits.bbox_scale,
                "is_trusted": fits.is_trusted,
                "id": list(fits.ids),
                "track": list(fits.tracks),
                "regressor": list(fits.regressor_ids),
                **fits.portable_extras(),
            }
        },
        config="eft_fast",
    )


def humandata_to_fits(data: HumanData) -> Fits:
    """Turn labels into fits; crops are the boxes with EFT's margin.

    Raises:
        ValueError: If ``smpl`` has no pose and shape of everybody.
    """
    count = len(data.image_path)
    given = {"global_orient": 3, "body_pose": 69, "betas": 10}
    parts = {}
    for name, size in given.items():
        value = np.asarray(data.smpl.get(name, np.zeros(0)))
        if value.dtype.kind not in "fiu" or value.size < count * size or len(value) != count:
            raise ValueError(
                f"{_WHO}: smpl must hold {name} of {count} people, got {list(value.shape)}"
            )
        parts[name] = value.reshape(count, -1)[:, :size]
    ours = dict(data.misc.get(_OURS) or {})
    box = data.bbox_xywh
    pose = np.concatenate([parts["global_orient"], parts["body_pose"]], 1).reshape(count, 24, 3)
    genders = data.meta.get("gender")
    short = {"m": "male", "f": "female"}
    return Fits(
        photos=data.image_path,
        rotmat=ours["rotmat"] if "rotmat" in ours else to_rotmat(pose),
        betas=parts["betas"],
        pred_cam=ours.get("pred_cam", np.full((count, 3), np.nan)),
        bbox_center=ours.get("bbox_center", box[:, :2] + box[:, 2:4] / 2),
        bbox_scale=ours.get("bbox_scale", BOX_MARGIN * box[:, 2:4].max(1) / BOX_UNIT),
        keypoints_2d_px=data.keypoints2d[:, SPIN49_TO_190],
        joint_set="spin49",
        ids=tuple(_text_list(ours.get("id"), count)),
        tracks=tuple(_text_list(ours.get("track"), count)),
        is_trusted=np.asarray(ours.get("is_trusted", np.ones(count)), bool),
        regressor_ids=tuple(_text_list(ours.get("regressor"), count)),
        genders=tuple(
            short.get(name[:1].lower(), "neutral") for name in _text_list(genders, count)
        ),
        extras={
            name: np.array(ours[name], np.str_) if EXTRAS[name] is None else np.asarray(ours[name])
            for name in EXTRAS
            if name in ours
        },
    )


def _text_list(values: Any, count: int) -> list[str]:
    """One text per person; empty where the file says nothing."""
    given = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(given, list) or len(given) != count:
        return [""] * count
    return [str(value) for value in given]
