"""Fits to files: what a ``FitResult`` holds, in the formats of ``data.formats`` and as meshes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.data.formats.amass_npz import TO_Z_UP, AmassMotion, save_amass_npz
from eft_fast.data.formats.eft_json import EftRecord, save_eft_json
from eft_fast.data.formats.spin_npz import SpinLabels, save_spin_npz
from eft_fast.data.photos import shortest_names
from eft_fast.geometry.cameras import to_cam_transl
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.keypoints import JOINT_SETS, to_spin49
from eft_fast.result import FitResult

#: Of a motion whose photos say nothing about time.
FRAME_RATE: Final = 30.0


@dataclass(frozen=True)
class PersonNames:
    """What the people of a FitResult are called, in its order.

    Attributes:
        photos: Name of each person's photo.
        ids: Id of each person's annotation.
        tracks: Who it is: rows with one name are one person in several frames, in their order.
            Where nothing is known, every row is a person of its own.
    """

    photos: Sequence[str] = field(default_factory=tuple)
    ids: Sequence[str] = field(default_factory=tuple)
    tracks: Sequence[str] = field(default_factory=tuple)

    def photo(self, row: int) -> str:
        """Name of a photo; a number where no names are known."""
        return self.photos[row] if self.photos else f"{row:07d}"

    def annotation(self, row: int) -> int | None:
        """Id of an annotation, if it is a number; of one that repeats in its file, that number."""
        text = str(self.ids[row]) if self.ids else ""
        number = re.fullmatch(r"(-?[0-9]{1,18})(#[0-9]+)?", text)
        return int(number[1]) if number else None

    def people(self, count: int) -> dict[str, list[int]]:
        """The rows of each person among ``count`` rows, by the name of the person."""
        rows: dict[str, list[int]] = {}
        for row in range(count):
            name = str(self.tracks[row]) if self.tracks else f"{row + 1:05d}"
            rows.setdefault(name, []).append(row)
        return rows

    def take(self, rows: Sequence[int]) -> PersonNames:
        """Names of the people with these numbers."""
        return PersonNames(
            [self.photos[row] for row in rows] if self.photos else (),
            [self.ids[row] for row in rows] if self.ids else (),
            [self.tracks[row] for row in rows] if self.tracks else (),
        )


def write_fits(
    result: FitResult, names: PersonNames, kind: str, path: str | Path
) -> tuple[Path, int]:
    """Write fits in one of ``FORMATS``; people without a finite fit are left out.

    Args:
        result: The fits.
        names: What the people are called.
        kind: Key of ``FORMATS``.
        path: File to write. A motion is of one person: ``amass-npz`` of several people writes one
            file each, ``walk-00001.npz`` and so on for ``walk.npz``.

    Returns:
        What was written, of several files their folder, and how many people are in it.

    Raises:
        ValueError: If the format is unknown, nobody has a finite fit, or there are more or fewer
            names than fits.
    """
    if kind not in FORMATS:
        raise ValueError(f"write_fits: format must be one of {', '.join(FORMATS)}, got {kind}")
    for label, items in (("photo", names.photos), ("id", names.ids), ("track", names.tracks)):
        if items and len(items) != len(result):
            raise ValueError(
                f"write_fits: one {label} per fit expected, got {len(items)} for {len(result)}"
            )
    finite = torch.isfinite(result.params.full_pose).flatten(1).all(1)
    finite &= torch.isfinite(result.params.betas).all(1) & torch.isfinite(result.pred_cam).all(1)
    rows = torch.nonzero(finite)[:, 0].tolist()
    if not rows:
        raise ValueError("write_fits: nobody has a finite fit, so there is nothing to write")
    return FORMATS[kind](result[rows], names.take(rows), Path(path)), len(rows)


def to_eft_records(result: FitResult, names: PersonNames) -> list[EftRecord]:
    """Turn fits into records of EFT's JSON."""
    spin49 = to_spin49(result.keypoints.numpy(), result.joint_set)
    validity = openpose18_validity(spin49)
    full_pose = result.params.full_pose.numpy()
    # EFT's readers know photos by their base name; only photos that share one keep a folder.
    photos = shortest_names([names.photo(row) for row in range(len(result))])
    return [
        EftRecord(
            image_name=photos[row],
            full_pose_rotmat=full_pose[row],
            betas=result.params.betas[row].numpy(),
            pred_cam=result.pred_cam[row].numpy(),
            bbox_scale=float(result.bbox_scale[row]),
            bbox_center=result.bbox_center[row].numpy(),
            joint_validity=validity[row],
            annot_id=names.annotation(row),
            keypoints_2d_px=spin49[row],
            regressor_id=result.regressor_id,
        )
        for row in range(len(result))
    ]


def openpose18_validity(spin49: np.ndarray) -> np.ndarray:
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


def to_spin_labels(result: FitResult, names: PersonNames) -> SpinLabels:
    """Turn fits into SPIN's arrays."""
    count = len(result)
    ids = [names.annotation(row) for row in range(count)]
    return SpinLabels(
        image_names=tuple(names.photo(row) for row in range(count)),
        bbox_center=result.bbox_center.numpy(),
        bbox_scale=result.bbox_scale.numpy(),
        keypoints_2d_px=to_spin49(result.keypoints.numpy(), result.joint_set),
        full_pose=matrix_to_axis_angle(result.params.full_pose).reshape(count, 72).numpy(),
        betas=result.params.betas.numpy(),
        has_smpl=np.array([reason not in ("no_keypoints", "nan") for reason in result.stop_reason]),
        annot_ids=np.array([-1 if found is None else found for found in ids]),
        regressor_ids=(result.regressor_id,) * count,
    )


def to_amass_motion(result: FitResult) -> AmassMotion:
    """Turn fits of one person into a motion: a row is a frame, the shape is their mean.

    Translations are those of the crop's nominal pinhole (5000 px for a 224 px crop), so depths
    compare with each other only where the crops have one size.
    """
    rotmat = result.params.full_pose.double()
    turn = torch.from_numpy(TO_Z_UP)
    # A body turns about its pelvis joint, whose place at rest depends on the shape alone.
    betas = result.params.betas.mean(0)
    pelvis = result.joints3d("smpl24")[:, 0].double()
    placed = (pelvis + to_cam_transl(result.pred_cam.double())) @ turn.T
    turned = torch.cat([(turn @ rotmat[:, 0])[:, None], rotmat[:, 1:]], 1)
    return AmassMotion(
        full_pose=matrix_to_axis_angle(turned).reshape(len(result), 72).numpy(),
        transl=(placed - _rest_pelvis(result, betas)).numpy(),
        betas=betas.double().numpy(),
        frame_rate=FRAME_RATE,
        regressor_id=result.regressor_id,
    )


@torch.no_grad()
def _rest_pelvis(result: FitResult, betas: Float[Tensor, " 10"]) -> Float[Tensor, " 3"]:
    body = result.body()
    joints: Tensor = body(betas[None].to(body.v_template), return_verts=False).joints
    return joints[0, 0].double().cpu()


def _write_eft_json(result: FitResult, names: PersonNames, path: Path) -> Path:
    return save_eft_json(path, to_eft_records(result, names))


def _write_spin_npz(result: FitResult, names: PersonNames, path: Path) -> Path:
    return save_spin_npz(path, to_spin_labels(result, names))


def _write_amass_npz(result: FitResult, names: PersonNames, path: Path) -> Path:
    people = names.people(len(result))
    if len(people) == 1:
        return save_amass_npz(path, to_amass_motion(result))
    for name, rows in people.items():
        file = path.with_name(f"{path.stem}-{_to_file_name(name)}{path.suffix or '.npz'}")
        save_amass_npz(file, to_amass_motion(result[rows]))
    return path.parent


def _to_file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]


#: Formats, by the name that ``convert`` takes. All but amass-npz hold many people in one file.
FORMATS: Final[dict[str, Callable[[FitResult, PersonNames, Path], Path]]] = {
    "eft-json": _write_eft_json,
    "spin-npz": _write_spin_npz,
    "amass-npz": _write_amass_npz,
}
