"""Methods side by side on rendered people whose truth is known.

Everybody sees the same pictures and the same 17 keypoints; truth is the body that was drawn. Joints
are the 14 of ``protocols.J24_TO_J14`` on that body, the root is its pelvis joint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eft_fast import imaging
from eft_fast.evaluation import metrics
from eft_fast.evaluation.protocols import J24_TO_J14
from eft_fast.fitting.config import EftConfig
from eft_fast.fitting.engine import make_fitter
from eft_fast.fitting.person import CropJob
from eft_fast.fitting.pose_priors import load_pose_prior
from eft_fast.fitting.recipes import SmplifyConfig
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.keypoints import to_spin49
from eft_fast.losses.priors import limits_exceeded
from eft_fast.models.base import Regressor, RegressorOutput

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

_J24_IN_SPIN49: Final = 25
_NUM_COCO: Final = 17
_CHUNK: Final = 64


@dataclass(frozen=True)
class BenchPeople:
    """Pictures, keypoints and truth.

    Attributes:
        image: RGB crops.
        keypoints_2d: Given COCO keypoints: x and y in [-1, 1] of the crop, and confidence.
        true_2d: True ones; confidence 0 outside the picture.
        rotmat: True rotations.
        betas: True shapes.
    """

    image: UInt8[np.ndarray, "N S S 3"]
    keypoints_2d: Float[np.ndarray, "N 17 3"]
    true_2d: Float[np.ndarray, "N 17 3"]
    rotmat: Float[np.ndarray, "N 24 3 3"]
    betas: Float[np.ndarray, "N 10"]

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    method: str
    mode: str
    config: EftConfig | SmplifyConfig


@dataclass(frozen=True)
class MethodScore:
    """Values of one method, per person, in the units that their names end with.

    Attributes:
        name: Its name.
        values: One column per measure.
        seconds: Of all fits together, the regressor included.
    """

    name: str
    values: dict[str, npt.NDArray[np.float64]]
    seconds: float


def make_people(
    image: UInt8[np.ndarray, "N S S 3"],
    landmarks_2d: Float[np.ndarray, "N 27 3"],
    rotmat: Float[np.ndarray, "N 24 3 3"],
    betas: Float[np.ndarray, "N 10"],
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> BenchPeople:
    """Take a rendered set, and give its keypoints as a detector would.

    Args:
        image: RGB crops.
        landmarks_2d: Landmarks of ``synth``, COCO's 17 first: x, y in [-1, 1] of the crop, and
            2 = visible, 1 = hidden, 0 = outside.
        rotmat: True rotations.
        betas: True shapes.
        noise: 0: exact, also where hidden. Else the standard deviation of visible keypoints over
            the longer side of the person; hidden ones have three times that, half of them and one
            in twenty of the visible ones are missing, and confidences vary.
        seed: Of the noise.
    """
    true = landmarks_2d[:, :_NUM_COCO].astype(np.float64)
    seen = true[..., 2].copy()
    true[..., 2] = seen > 0
    given = true.copy()
    if noise > 0:
        rng = np.random.default_rng(seed)
        size = np.ptp(landmarks_2d[..., :2], axis=1).max(1)[:, None, None]
        spread = np.where(seen == 2, noise, 3 * noise)[..., None]
        given[..., :2] += rng.normal(size=true[..., :2].shape) * spread * size
        missed = rng.random(seen.shape) < np.where(seen == 2, 0.05, 0.5)
        confidence = np.where(seen == 2, rng.uniform(0.6, 1, seen.shape), 0.5)
        given[..., 2] = np.where(missed, 0, confidence * true[..., 2])
    return BenchPeople(image, given, true, rotmat, betas)


def default_methods() -> tuple[Method, ...]:
    """The regressor, EFT, and every recipe with every published choice of prior."""
    rows = [
        Method("regressor", "none", "full", EftConfig()),
        Method("eft", "eft", "full", EftConfig()),
        Method("eft_head", "eft", "head", EftConfig()),
    ]
    chosen = [
        ("smplify_eft_baseline", "gmm", "regressor"),
        ("smplify_eft_baseline", "angle_off", "regressor"),
        ("smplify_eft_baseline", "none", "regressor"),
        ("smplify_eft_baseline", "anchor", "regressor"),
        ("smplify_spin", "gmm", "regressor"),
        ("smplify_spin", "limits", "regressor"),
        ("smplify2016", "gmm", "regressor"),
        ("smplify2016", "gmm", "mean"),
        ("smplifyx", "gmm", "mean"),
    ]
    for recipe, prior, start in chosen:
        name = f"{recipe}_{prior}" + ("_mean" if start == "mean" else "")
        config = SmplifyConfig(recipe=recipe, prior=prior, start=start)
        rows.append(Method(name, recipe, prior, config))
    return tuple(rows)


def run_bench(
    regressor: Regressor,
    body: Smpl,
    people: BenchPeople,
    methods: tuple[Method, ...],
    *,
    on_method: Callable[[str], None] | None = None,
) -> Iterator[MethodScore]:
    """Fit everybody by every method, one method after the other.

    Raises:
        ValueError: If the pictures are not of the regressor's size.
    """
    size = regressor.input_size
    if people.image.shape[1:] != (size, size, 3):
        raise ValueError(
            f"openbench: {regressor.id} takes crops of {size} px, got "
            f"{list(people.image.shape[1:3])}; render the set in that size"
        )
    truth = _measure_body(body, torch.from_numpy(people.rotmat), torch.from_numpy(people.betas))
    for method in methods:
        if on_method is not None:
            on_method(method.name)
        start = time.perf_counter()
        output = _fit(regressor, body, people, method)
        seconds = time.perf_counter() - start
        yield MethodScore(method.name, score(body, output, people, truth), seconds)


def _fit(regressor: Regressor, body: Smpl, people: BenchPeople, method: Method) -> RegressorOutput:
    device = next(regressor.parameters()).device
    fitter = make_fitter(
        regressor, body, method=method.method, mode=method.mode, config=method.config
    )
    keypoints = torch.from_numpy(
        to_spin49(people.keypoints_2d.astype(np.float32), "coco17").astype(np.float32)
    )

    def jobs() -> Iterator[CropJob]:
        for index, image in enumerate(people.image):
            img = torch.from_numpy(imaging.to_input(image)).to(device)
            yield CropJob(index, img, keypoints[index].to(device))

    fits = dict(fitter.fit(jobs()))
    ordered = [fits[index].final for index in range(len(people))]
    return RegressorOutput(*(torch.cat(parts).cpu() for parts in zip(*ordered, strict=True)))


@dataclass(frozen=True)
class _Measured:
    joints: Tensor
    coco: Tensor
    vertices: Tensor
    root: Tensor


@torch.no_grad()
def _measure_body(body: Smpl, rotmat: Tensor, betas: Tensor) -> _Measured:
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
    return _Measured(*(torch.cat(parts) for parts in (joints, coco, vertices, root)))


@torch.no_grad()
def score(
    body: Smpl, output: RegressorOutput, people: BenchPeople, truth: _Measured
) -> dict[str, npt.NDArray[np.float64]]:
    """Errors of each person."""
    found = _measure_body(body, output.pred_rotmat, output.pred_betas)
    picked = [_J24_IN_SPIN49 + joint for joint in J24_TO_J14]
    centred = [(part.joints - part.root[:, None])[:, picked] for part in (found, truth)]
    image = weak_project(found.coco, output.pred_cam).numpy()
    distance = np.linalg.norm(image - people.true_2d[..., :2], axis=-1) * people.image.shape[1] / 2
    labelled = people.true_2d[..., 2] > 0
    count = np.maximum(labelled.sum(1), 1)
    error_px = np.where(labelled.any(1), np.where(labelled, distance, 0).sum(1) / count, np.nan)
    turns = torch.from_numpy(people.rotmat)
    limits = load_pose_prior().limits.to(output.pred_betas)
    pose = matrix_to_axis_angle(output.pred_rotmat[:, 1:]).flatten(1)
    root = metrics.rotation_error(output.pred_rotmat[:, :1], turns[:, :1])
    columns = {
        "pa_mpjpe_mm": 1000 * metrics.pa_mpjpe(*centred),
        "mpjpe_mm": 1000 * metrics.mpjpe(*centred),
        "pve_mm": 1000
        * metrics.pve(found.vertices, truth.vertices, pred_root=found.root, gt_root=truth.root),
        "rotation_deg": torch.rad2deg(
            metrics.rotation_error(output.pred_rotmat[:, 1:22], turns[:, 1:22])
        ),
        "flipped": (root > np.pi / 2).double(),
        "outside_limits": limits_exceeded(limits, pose),
        "large_betas": (output.pred_betas.abs().amax(1) > 3).double(),
    }
    values = {name: column.double().numpy() for name, column in columns.items()}
    return {"kp_error_px": error_px.astype(np.float64), **values}


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
            low, high = metrics.bootstrap_interval(column)
            row |= {name: float(np.nanmean(column)), f"{name}_low": low, f"{name}_high": high}
        people = len(each.values["pa_mpjpe_mm"])
        row["fits_per_second"] = people / each.seconds
        if first is not None and each is not first:
            worse = each.values["pa_mpjpe_mm"] > first.values["pa_mpjpe_mm"]
            row["worse_than_start"] = float(worse.mean())
        table[each.name] = row
    return table
