"""What annotated photos teach: people as crops and labels, from fits or from annotations.

A person has 2D keypoints, and where they are known a pose, a shape and points in space.
Pseudo-truth is a pose that was fitted; how sure of it the fit was may weigh it, joint by joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast import imaging
from eft_fast.body import Smpl
from eft_fast.conventions import BOX_MARGIN, BOX_UNIT, PARENTS
from eft_fast.geometry.rotations import axis_angle_to_matrix, mirror_pose
from eft_fast.keypoints import JOINT_SETS, to_spin49
from eft_fast.pseudo_gt import SelectConfig, select_fits
from eft_fast.result import FitResult
from eft_fast.sample import Image, Sample
from eft_fast.training.targets import choose_rows

_J24: Final = JOINT_SETS["j24"]
_SMPL24: Final = JOINT_SETS["smpl24"]
#: People whose points are computed at once.
_CHUNK: Final = 512


class Labels(NamedTuple):
    """Labels of a batch; what is not known has weight 0 and holds finite numbers.

    Attributes:
        keypoints_2d: The 49 keypoints: x and y in [-1, 1] of the crop, and confidence.
        rotmat: Rotations relative to the parent, the root's in the camera frame.
        rotmat_weight: What each rotation counts.
        betas: Shape.
        betas_weight: What the shape counts.
        points_3d: Points of the set ``j24``: x, y, z in metres in the axes of the camera, about any
            origin, and what each counts.
    """

    keypoints_2d: Float[Tensor, "B 49 3"]
    rotmat: Float[Tensor, "B 24 3 3"]
    rotmat_weight: Float[Tensor, "B 24"]
    betas: Float[Tensor, "B 10"]
    betas_weight: Float[Tensor, " B"]
    points_3d: Float[Tensor, "B 24 4"]

    def to(self, device: torch.device) -> Labels:
        """The same on another device."""
        return Labels(*(field.to(device) for field in self))


@dataclass(frozen=True, eq=False)
class LabelledPeople:
    """People to learn from, one row each.

    Attributes:
        photos: The photo of each person.
        center: Centre of the crop, photo pixels.
        scale: Side of the crop / 200, photo pixels.
        keypoints_px: The 49 keypoints in photo pixels, and confidence.
        rotmat: As of ``Labels``; the identity where no pose is known.
        rotmat_weight: As of ``Labels``.
        betas: As of ``Labels``.
        betas_weight: As of ``Labels``.
        points_3d: As of ``Labels``.
        left_out: How many people were left out, by reason.
    """

    photos: tuple[Image, ...]
    center: Float[Tensor, "N 2"]
    scale: Float[Tensor, " N"]
    keypoints_px: Float[Tensor, "N 49 3"]
    rotmat: Float[Tensor, "N 24 3 3"]
    rotmat_weight: Float[Tensor, "N 24"]
    betas: Float[Tensor, "N 10"]
    betas_weight: Float[Tensor, " N"]
    points_3d: Float[Tensor, "N 24 4"]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.photos)

    @classmethod
    def from_fits(
        cls,
        result: FitResult,
        photos: Sequence[Image],
        body: Smpl,
        *,
        select: SelectConfig | None = None,
        keep: Bool[np.ndarray, " N"] | None = None,
        verdicts: Sequence[str | None] | None = None,
        sigma_mm: float | None = None,
    ) -> LabelledPeople:
        """Take fits as the truth.

        Args:
            result: The fits.
            photos: The photo of each.
            body: The body that the fits are of.
            select: Rules that a fit must pass; default: those of ``pseudo_gt``.
            keep: Who was chosen by other means; instead of the rules.
            verdicts: ``keep`` or ``reject`` of people that somebody looked at, else None.
            sigma_mm: Weigh each joint by s^2 / (s^2 + sigma^2), where sigma is the fit's own
                ``joint_sigma_mm`` and s this; None, or fits that do not say: all joints count 1.

        Raises:
            ValueError: If there are more or fewer photos than fits, or the body is another one.
        """
        if len(photos) != len(result):
            raise ValueError(
                f"LabelledPeople: one photo per fit expected, got {len(photos)} for {len(result)}"
            )
        if result.body_id != body.id:
            raise ValueError(
                f"LabelledPeople: the fits are of body {result.body_id}, got body {body.id}; give "
                "the body that they were made with"
            )
        left_out: dict[str, int] = {}
        if keep is None:
            chosen = select_fits(result, select, verdicts=verdicts)
            keep, left_out = chosen.keep, chosen.counts()
        finite = torch.isfinite(result.params.full_pose).flatten(1).all(1).numpy()
        finite &= torch.isfinite(result.params.betas).all(1).numpy()
        finite &= np.isfinite(result.bbox_scale.numpy())
        rows = np.nonzero(keep & finite)[0].tolist()
        taken = result[rows]
        weight = torch.ones(len(rows), 24)
        if sigma_mm is not None and taken.joint_sigma_mm is not None:
            squared = taken.joint_sigma_mm.float().square()
            weight = sigma_mm**2 / (sigma_mm**2 + torch.nan_to_num(squared))
        rotmat, betas = taken.params.full_pose.float(), taken.params.betas.float()
        return cls(
            photos=tuple(photos[row] for row in rows),
            center=taken.bbox_center.float(),
            scale=taken.bbox_scale.float(),
            keypoints_px=_spin49(taken.keypoints.numpy(), taken.joint_set),
            rotmat=rotmat,
            rotmat_weight=_of_children(weight),
            betas=betas,
            betas_weight=torch.ones(len(rows)),
            points_3d=_points_of(body, rotmat, betas, weight),
            left_out=left_out,
        )

    @classmethod
    def from_samples(
        cls,
        samples: Sequence[Sample],
        body: Smpl,
        *,
        only_2d: bool = False,
        margin: float = BOX_MARGIN,
    ) -> LabelledPeople:
        """Take what annotations know: keypoints, and poses or points in space where they hold them.

        Args:
            samples: People of any reader; those with a ``problem`` or without a photo are left out.
            body: The body whose poses and shapes the annotations hold.
            only_2d: Forget everything but the 2D keypoints.
            margin: Side of a crop over that of its box.
        """
        left_out: dict[str, int] = {}
        rows: list[dict[str, npt.NDArray[np.float32]]] = []
        photos: list[Image] = []
        for sample in samples:
            try:
                rows.append(_row_of(sample, only_2d=only_2d, margin=margin))
            except ValueError as error:
                left_out[str(error)] = left_out.get(str(error), 0) + 1
                continue
            assert sample.image is not None
            photos.append(sample.image)
        shape = {name: (0, *size) for name, size in _ROW.items()}
        columns = {
            name: torch.from_numpy(np.stack([row[name] for row in rows]))
            if rows
            else torch.zeros(shape[name])
            for name in _ROW
        }
        has_pose = columns.pop("has_pose")
        given_3d = columns.pop("points_3d")
        rotmat = axis_angle_to_matrix(columns.pop("pose"))
        weight = has_pose[:, None].expand(-1, 24).clone()
        points = _points_of(body, rotmat, columns["betas"], weight)
        # Points that were measured are truer than those of a body that was fitted to them.
        measured = (given_3d[..., 3] > 0).any(1)
        return cls(
            photos=tuple(photos),
            rotmat=rotmat,
            rotmat_weight=weight,
            betas_weight=has_pose,
            points_3d=torch.where(measured[:, None, None], given_3d, points),
            left_out=left_out,
            **columns,
        )

    def take(self, rows: Sequence[int] | Tensor) -> LabelledPeople:
        """The people with these numbers."""
        numbers = torch.as_tensor(rows, dtype=torch.int64)
        columns = {
            item.name: getattr(self, item.name)[numbers]
            for item in fields(self)
            if item.name not in ("photos", "left_out")
        }
        chosen = tuple(self.photos[row] for row in numbers.tolist())
        return replace(self, photos=chosen, left_out={}, **columns)

    def without_pose(self) -> LabelledPeople:
        """The same people with nothing but their 2D keypoints."""
        unknown = torch.zeros(len(self), 24, 4)
        return replace(
            self,
            rotmat_weight=torch.zeros_like(self.rotmat_weight),
            betas_weight=torch.zeros_like(self.betas_weight),
            points_3d=unknown,
        )

    def labels(self, rows: Tensor, keypoints_2d: Float[Tensor, "B 49 3"]) -> Labels:
        """The labels of people whose keypoints are brought into their crops already."""
        return Labels(
            keypoints_2d,
            self.rotmat[rows],
            self.rotmat_weight[rows],
            self.betas[rows],
            self.betas_weight[rows],
            self.points_3d[rows],
        )


def join_people(parts: Sequence[LabelledPeople]) -> LabelledPeople:
    """Several sets as one, in their order.

    Raises:
        ValueError: If there is none.
    """
    if not parts:
        raise ValueError("join_people: at least one set of people expected, got none")
    columns = {
        item.name: torch.cat([getattr(part, item.name) for part in parts])
        for item in fields(LabelledPeople)
        if item.name not in ("photos", "left_out")
    }
    left_out: dict[str, int] = {}
    for part in parts:
        for reason, count in part.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    photos = tuple(photo for part in parts for photo in part.photos)
    return LabelledPeople(photos=photos, left_out=left_out, **columns)


def mirror_labels(labels: Labels, which: Bool[Tensor, " B"], size: int) -> Labels:
    """Mirror the people where ``which`` is true: x reversed, left and right exchanged.

    The body is symmetric, so its shape stays.

    Args:
        labels: Labels.
        which: Whom to mirror.
        size: Side of the crop, pixels: pixel 0 becomes pixel ``size`` - 1, while u = -1 is pixel 0
            and u = 1 is pixel ``size``.
    """
    reverse = labels.rotmat.new_tensor([-1.0, 1.0, 1.0])
    pose, points = list(_SMPL24.flip), list(_J24.flip)
    flat = list(JOINT_SETS["spin49"].flip)
    shift = reverse.new_tensor([-2.0 / size, 0.0, 0.0])
    mirrored = Labels(
        labels.keypoints_2d[:, flat] * reverse + shift,
        mirror_pose(labels.rotmat),
        labels.rotmat_weight[:, pose],
        labels.betas,
        labels.betas_weight,
        labels.points_3d[:, points] * reverse.new_tensor([-1.0, 1.0, 1.0, 1.0]),
    )
    return Labels(*choose_rows(which, mirrored, labels))


def turn_labels(labels: Labels, angle: Float[Tensor, " B"]) -> Labels:
    """Turn people in the image plane, radians, from x towards y (clockwise as one sees it).

    Exact for the weak camera; the keypoints turn about the crop's centre.
    """
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack(
        [cosine, -sine, zero, sine, cosine, zero, zero, zero, torch.ones_like(angle)], 1
    ).reshape(-1, 3, 3)
    flat = torch.einsum("bij,bkj->bki", turn[:, :2, :2], labels.keypoints_2d[..., :2])
    points = torch.einsum("bij,bkj->bki", turn, labels.points_3d[..., :3])
    return labels._replace(
        keypoints_2d=torch.cat([flat, labels.keypoints_2d[..., 2:]], -1),
        rotmat=torch.cat([turn[:, None] @ labels.rotmat[:, :1], labels.rotmat[:, 1:]], 1),
        points_3d=torch.cat([points, labels.points_3d[..., 3:]], -1),
    )


#: What ``_row_of`` makes of a sample, and the shape of each part.
_ROW: Final = {
    "center": (2,),
    "scale": (),
    "keypoints_px": (49, 3),
    "pose": (24, 3),
    "betas": (10,),
    "has_pose": (),
    "points_3d": (24, 4),
}
#: The joint of smpl24 whose error says most about each point of j24, by name where it is another.
_NEAREST: Final = {
    "headtop": "head", "pelvis": "pelvis", "thorax": "spine3", "spine": "spine2", "jaw": "head",
    "nose": "head", "leye": "head", "reye": "head", "lear": "head", "rear": "head",
}  # fmt: skip


def _row_of(sample: Sample, *, only_2d: bool, margin: float) -> dict[str, npt.NDArray[np.float32]]:
    """One sample as a row; a ValueError says in a few words why it is left out."""
    if sample.problem is not None:
        raise ValueError("cannot be used")
    if sample.image is None:
        raise ValueError("without a photo")
    flat = to_spin49(sample.keypoints_2d_px, sample.keypoint_set).astype(np.float32)
    labelled = np.isfinite(flat).all(-1) & (flat[:, 2] > 0)
    flat = np.where(labelled[:, None], flat, np.float32(0))
    pose, betas = np.zeros((24, 3), np.float32), np.zeros(10, np.float32)
    points = np.zeros((24, 4), np.float32)
    has_pose = not only_2d and sample.full_pose is not None and sample.betas is not None
    if has_pose:
        pose = np.asarray(sample.full_pose, np.float32)
        betas = np.asarray(sample.betas, np.float32)
        has_pose = bool(np.isfinite(pose).all() and np.isfinite(betas).all())
        pose, betas = (pose, betas) if has_pose else (np.zeros_like(pose), np.zeros_like(betas))
    if not only_2d and sample.keypoints_3d is not None:
        found = to_spin49(sample.keypoints_3d, sample.order_3d)[25:].astype(np.float32)
        known = np.isfinite(found).all(-1) & (found[:, 3] > 0)
        points = np.where(known[:, None], found, np.float32(0))
    if not labelled.any() and not has_pose:
        raise ValueError("without a label")
    if sample.bbox_center is not None and sample.bbox_scale is not None:
        center, scale = np.asarray(sample.bbox_center, np.float64), float(sample.bbox_scale)
    else:
        box = sample.bbox_xywh
        if box is None or not (np.isfinite(box).all() and (box[2:] > 0).all()):
            box = imaging.keypoints_to_box(flat)
        center, scale = imaging.box_to_center_scale(box, margin)
    if not (np.isfinite(center).all() and imaging.MIN_CROP_SIDE <= scale * BOX_UNIT):
        raise ValueError("without a usable box")
    return {
        "center": np.asarray(center, np.float32),
        "scale": np.array(scale, np.float32),
        "keypoints_px": flat,
        "pose": pose,
        "betas": betas,
        "has_pose": np.array(has_pose, np.float32),
        "points_3d": points,
    }


def _spin49(keypoints: npt.NDArray[np.float32], joint_set: str) -> Float[Tensor, "N 49 3"]:
    flat = to_spin49(keypoints, joint_set).astype(np.float32)
    labelled = np.isfinite(flat).all(-1, keepdims=True) & (flat[..., 2:] > 0)
    return torch.from_numpy(np.where(labelled, flat, np.float32(0)))


def _of_children(weight: Float[Tensor, "N 24"]) -> Float[Tensor, "N 24"]:
    """What the rotation of each joint counts: as much as the joint it moves, a leaf as itself."""
    moved = list(range(24))
    for child, parent in reversed(list(enumerate(PARENTS))):
        if parent >= 0:
            moved[parent] = child
    moved[0] = 0
    return weight[:, moved]


@torch.no_grad()
def _points_of(
    body: Smpl,
    rotmat: Float[Tensor, "N 24 3 3"],
    betas: Float[Tensor, "N 10"],
    weight: Float[Tensor, "N 24"],
) -> Float[Tensor, "N 24 4"]:
    """The points ``j24`` of bodies, and what each counts: as much as the joint nearest to it."""
    nearest = [_SMPL24.names.index(_NEAREST.get(name, name)) for name in _J24.names]
    parts = [torch.zeros(0, 24, 3)]
    for first in range(0, len(betas), _CHUNK):
        turns, shape = rotmat[first : first + _CHUNK], betas[first : first + _CHUNK]
        parts.append(
            body.keypoints(shape, turns[:, 1:], turns[:, :1], joint_set="j24", pose2rot=False)
        )
    return torch.cat([torch.cat(parts), weight[:, nearest, None]], -1)
