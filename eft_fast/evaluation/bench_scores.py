"""Errors of the methods of the bench, and what they say together.

Joints are the 14 of ``protocols.J24_TO_J14`` on the body that was drawn, the root is its pelvis
joint. Hidden are those of the twelve limb joints that are occluded, outside of the picture, or
whose keypoint the methods were not given; neck and head are no keypoints of COCO and count as seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eft_fast.evaluation import metrics
from eft_fast.evaluation.bench_people import BenchPeople
from eft_fast.evaluation.protocols import J24_TO_J14
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.keypoints import JOINT_SETS
from eft_fast.losses.priors import limits_exceeded, mixture_loss
from eft_fast.models.base import RegressorOutput
from eft_fast.smplify.prior import load_pose_prior

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

_J24_IN_SPIN49: Final = 25
_CHUNK: Final = 64
#: Of what EFT is compared in at equal 2D error, besides the aligned error.
COMPARED: Final = ("mpjpe_mm", "hidden_mpjpe_mm", "hidden_pa_mpjpe_mm")

Columns = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class MethodScore:
    """Values of one method, per person, in the units that their names end with.

    Attributes:
        name: Its name.
        values: One column per measure.
        seconds: Of all fits together, the regressor included.
        starts_from: Where its fits began: ``regressor``, ``mean``, or empty.
        curve: Of EFT, where it was followed: the measures of ``quick_score`` after each pass.
    """

    name: str
    values: Columns
    seconds: float
    starts_from: str = ""
    curve: tuple[Columns, ...] = ()


@dataclass(frozen=True)
class MeasuredBody:
    """What the errors are measured on."""

    joints: Tensor
    coco: Tensor
    vertices: Tensor
    root: Tensor


@torch.no_grad()
def measure_body(body: Smpl, rotmat: Tensor, betas: Tensor) -> MeasuredBody:
    """Pose bodies, a chunk at a time."""
    joints: list[Tensor] = []
    coco: list[Tensor] = []
    vertices: list[Tensor] = []
    root: list[Tensor] = []
    for first in range(0, len(betas), _CHUNK):
        rows = slice(first, first + _CHUNK)
        turns, shape = rotmat[rows].to(body.v_template), betas[rows].to(body.v_template)
        posed = body(shape, turns[:, 1:], turns[:, :1], pose2rot=False)
        for points, joint_set in ((joints, "spin49"), (coco, "coco17")):
            rows_of_set = body.keypoints(
                shape, turns[:, 1:], turns[:, :1], joint_set=joint_set, pose2rot=False
            )
            points.append(rows_of_set.cpu())
        assert posed.vertices is not None
        vertices.append(posed.vertices.cpu())
        root.append(posed.joints[:, 0].cpu())
    return MeasuredBody(*(torch.cat(parts) for parts in (joints, coco, vertices, root)))


@torch.no_grad()
def score(body: Smpl, output: RegressorOutput, people: BenchPeople, truth: MeasuredBody) -> Columns:
    """Errors of each person; those of hidden joints are NaN for who has none."""
    found = measure_body(body, output.pred_rotmat, output.pred_betas)
    turns = torch.from_numpy(people.rotmat)
    prior = load_pose_prior().to(output.pred_betas)
    pose = matrix_to_axis_angle(output.pred_rotmat[:, 1:]).flatten(1)
    root = metrics.rotation_error(output.pred_rotmat[:, :1], turns[:, :1])
    columns = {
        "pve_mm": 1000
        * metrics.pve(found.vertices, truth.vertices, pred_root=found.root, gt_root=truth.root),
        "rotation_deg": torch.rad2deg(
            metrics.rotation_error(output.pred_rotmat[:, 1:22], turns[:, 1:22])
        ),
        "flipped": (root > np.pi / 2).double(),
        "prior_nll": mixture_loss(prior.mixture, pose),
        "outside_limits": limits_exceeded(prior.limits, pose),
        "large_betas": (output.pred_betas.abs().amax(1) > 3).double(),
    }
    values = {name: column.double().numpy() for name, column in columns.items()}
    return {**_point_errors(found, output, people, truth), **values}


@torch.no_grad()
def quick_score(
    body: Smpl, output: RegressorOutput, people: BenchPeople, truth: MeasuredBody
) -> Columns:
    """Errors of joints and keypoints alone: no mesh is made."""
    found = _measure_points(body, output.pred_rotmat, output.pred_betas)
    return _point_errors(found, output, people, truth)


def hidden_joints(people: BenchPeople) -> npt.NDArray[np.bool_]:
    """Which of the 14 joints are hidden, ``[N, 14]``."""
    keypoint_of = {j24: place for place, j24 in enumerate(JOINT_SETS["coco17"].to_j24)}
    never = np.zeros(len(people), bool)
    columns = [
        people.is_hidden[:, keypoint_of[joint]] if joint in keypoint_of else never
        for joint in J24_TO_J14
    ]
    return np.stack(columns, 1)


def _measure_points(body: Smpl, rotmat: Tensor, betas: Tensor) -> MeasuredBody:
    like = body.v_template
    turns, shape = rotmat.to(like), betas.to(like)
    joints, coco, kinematic = (
        body.keypoints(shape, turns[:, 1:], turns[:, :1], joint_set=name, pose2rot=False).cpu()
        for name in ("spin49", "coco17", "smpl24")
    )
    return MeasuredBody(joints, coco, joints[:, :0], kinematic[:, 0])


def _centred(found: MeasuredBody, truth: MeasuredBody) -> tuple[Tensor, Tensor]:
    picked = [_J24_IN_SPIN49 + joint for joint in J24_TO_J14]
    first, second = ((part.joints - part.root[:, None])[:, picked] for part in (found, truth))
    return first, second


def _point_errors(
    found: MeasuredBody, output: RegressorOutput, people: BenchPeople, truth: MeasuredBody
) -> Columns:
    """Errors of keypoints, pixels, and of joints; of all, and of the hidden ones.

    The 2D error of all is that inside the picture, that of hidden keypoints also outside of it.
    """
    image = weak_project(found.coco, output.pred_cam).numpy()
    distance = np.linalg.norm(image - people.true_2d[..., :2], axis=-1) * people.image.shape[1] / 2
    pairs, hidden = _centred(found, truth), torch.from_numpy(hidden_joints(people))
    joints = {
        "pa_mpjpe_mm": metrics.pa_mpjpe(*pairs),
        "mpjpe_mm": metrics.mpjpe(*pairs),
        "hidden_mpjpe_mm": metrics.mpjpe_of(*pairs, hidden),
        "hidden_pa_mpjpe_mm": metrics.mpjpe_of(*pairs, hidden, is_aligned=True),
    }
    return {
        "kp_error_px": _mean_where(people.true_2d[..., 2] > 0, distance),
        "hidden_kp_error_px": _mean_where(people.is_hidden, distance),
        **{name: 1000 * column.double().numpy() for name, column in joints.items()},
    }


def _mean_where(
    which: npt.NDArray[np.bool_], values: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Mean of each row over what counts; NaN where nothing does."""
    mean = np.where(which, values, 0).sum(1) / np.maximum(which.sum(1), 1)
    return np.asarray(np.where(which.any(1), mean, np.nan), np.float64)


def summarise(
    scores: list[MethodScore], *, start: str = "regressor"
) -> dict[str, dict[str, float]]:
    """Means, their 95 % bootstrap intervals, and who ended worse than the start did.

    Returns:
        Of each method: the mean of each measure, ``<measure>_low`` and ``_high``,
        ``fits_per_second``, and ``worse_than_start``: the share of people whose aligned error is
        above that of the method named ``start``, where it was run.
    """
    first = next((each for each in scores if each.name == start), None)
    table: dict[str, dict[str, float]] = {}
    for each in scores:
        row: dict[str, float] = {}
        for name, column in each.values.items():
            row |= metrics.mean_row(name, column)
        people = len(each.values["pa_mpjpe_mm"])
        row["fits_per_second"] = people / each.seconds
        if first is not None and each is not first:
            worse = each.values["pa_mpjpe_mm"] > first.values["pa_mpjpe_mm"]
            row["worse_than_start"] = float(worse.mean())
        table[each.name] = row
    return table


def at_equal_error(scores: list[MethodScore]) -> dict[str, dict[str, dict[str, float]]]:
    """EFT against each fit from the same start, at the pass where EFT's 2D error is as low.

    Returns:
        By each EFT that was followed, of each fit that started from the regressor: its 2D and
        aligned error, the first pass whose mean 2D error is not above it, EFT's errors there, and
        the mean difference of the aligned errors of the same people (EFT minus the fit) with its
        95 % bootstrap interval; the same of each measure of ``COMPARED``, whose difference is
        called after it: ``hidden_mpjpe_difference_mm``. A fit whose 2D error EFT did not reach is
        compared with EFT's last pass.
    """
    return {each.name: _compare(each, scores) for each in scores if each.curve}


def _compare(traced: MethodScore, scores: list[MethodScore]) -> dict[str, dict[str, float]]:
    error_of_pass = [metrics.mean_of_known(step["kp_error_px"]) for step in traced.curve]
    table: dict[str, dict[str, float]] = {}
    for each in scores:
        if each.starts_from != "regressor":
            continue
        error = metrics.mean_of_known(each.values["kp_error_px"])
        reached = [step for step, other in enumerate(error_of_pass) if other <= error]
        step = reached[0] if reached else len(error_of_pass) - 1
        row = {
            "kp_error_px": error,
            "eft_passes": step + 1,
            "eft_kp_error_px": error_of_pass[step],
            **_paired("pa_mpjpe_mm", "difference_mm", traced.curve[step], each.values),
        }
        for name in COMPARED:
            difference = name.replace("_mm", "_difference_mm")
            row |= _paired(name, difference, traced.curve[step], each.values)
        table[each.name] = row
    return table


def _paired(name: str, difference: str, eft: Columns, fit: Columns) -> dict[str, float]:
    """Both means of a measure, and their difference over the people who have a value in both."""
    values = eft[name] - fit[name]
    return {
        name: metrics.mean_of_known(fit[name]),
        f"eft_{name}": metrics.mean_of_known(eft[name]),
        **metrics.mean_row(difference, values),
    }
