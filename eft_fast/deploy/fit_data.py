"""What an exported folder needs for fits: ``fit.npz``, and people whom torch has fitted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from eft_fast.body import load_body
from eft_fast.body.plan import PointRows, make_points_plan
from eft_fast.body.smpl import Smpl
from eft_fast.deploy.fit_graph.reading import Reading
from eft_fast.deploy.folder import FIT_SAMPLES
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.keypoints import JOINT_SETS
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fit import fit_map
from eft_fast.map_rules import ARM, BETAS, POSE, SCALE, SHIFT, limb_pairs
from eft_fast.models.base import Regressor, RegressorOutput, check_same_body
from eft_fast.models.error_covariance import ErrorCovariance, find_error_covariance
from eft_fast.serving.fitting.asset import HOW, FitAsset
from eft_fast.serving.fitting.body import BodyPlan

#: Order of the keypoints of the stored people.
_SET: Final = "coco17"
#: Their noise in [-1, 1] of the crop, how far from the answers they are in standard deviations of
#: the network's errors, and the pinhole of the third case.
_NOISE, _SPREAD, _PINHOLE = 0.008, 0.7, (4.5, 4.5, 0.1, -0.1)
#: Keypoint that is far off for every fourth person; the next person's arms are exchanged.
_GROSS: Final = "rwri"


def find_fit_asset(
    regressor: Regressor, body: Smpl | None, covariance: str | Path | None
) -> tuple[FitAsset | None, str]:
    """Gather what fits need, or say in a sentence why they are not possible.

    Args:
        regressor: The network.
        body: Its body; None: the open one, if it is that.
        covariance: File of its error covariance; None: that of the package's regressor.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the covariance is damaged or belongs to other weights, or the body is not
            the regressor's.
    """
    found = find_error_covariance(regressor, covariance)
    if found is None:
        return None, f"left out: no error covariance is known of {regressor.id}; {HOW}"
    if body is None:
        if not regressor.body_id.startswith("open"):
            return None, (
                f"left out: the fits of {regressor.id} need its body ({regressor.body_id}); {HOW}"
            )
        body = load_body("open")
    check_same_body(regressor, body.id, "export")
    return make_fit_asset(body, found), ""


def find_reading(regressor: Regressor, covariance: str | Path | None) -> Reading | None:
    """What is known of answers that have read keypoints; arguments as of ``find_fit_asset``.

    Returns:
        None, if the network reads no keypoints or nothing is known of its errors when it does:
        then ``map`` shows it the picture alone.
    """
    found = find_error_covariance(regressor, covariance)
    if regressor.reads_keypoints is None or found is None or found.second_moment_given is None:
        return None
    return Reading(regressor.reads_keypoints, found.precision(given=True))


def make_fit_asset(body: Smpl, covariance: ErrorCovariance) -> FitAsset:
    """Contract the points of all joint sets that the body defines with its skinning."""
    sets = {}
    for name in JOINT_SETS:
        try:
            sets[name] = body.joint_points(name).rows
        except ValueError:  # The body lacks points of this set.
            continue
    everything = PointRows((), (), ())
    for rows in sets.values():
        everything = everything + rows
    plan = make_points_plan(body.arrays, everything)
    ends = np.cumsum([len(rows) for rows in sets.values()])
    sources = np.split(plan.output_index.numpy(), ends[:-1])
    used = int(plan.term_index[:, 0].max()) + 1 if len(plan.term_index) else 0
    return FitAsset(
        body=BodyPlan(
            skeleton=plan.skeleton.numpy(),
            parents=plan.parents.numpy(),
            basis=np.ascontiguousarray(plan.basis.permute(2, 1, 0)[:used].numpy()),
            term_index=plan.term_index.numpy(),
            term_weight=plan.term_weight.numpy(),
            joint_index=plan.joint_index.numpy(),
            joint_weight=plan.joint_weight.numpy(),
            sources=dict(zip(sets, sources, strict=True)),
        ),
        precision=covariance.precision(),
        weights_hash=covariance.weights_hash,
        body_id=body.id,
        people=covariance.people,
        source=covariance.source,
    )


def make_fit_samples(
    asset: FitAsset, body: Smpl | None, answers: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """People about the stored answers, and what torch's ``fit_map`` makes of them in float64.

    Keypoints are those of bodies that the network's errors would explain, with noise; some are
    absent, unsure, far off or exchanged, so that all stages of the fit are passed.

    Args:
        asset: Of the export.
        body: Its body; None: the open one.
        answers: ``rotmat``, ``betas`` and ``cam`` of the samples.

    Returns:
        Starts and keypoints, and the fits with each camera: the assumed pinhole, the weak camera,
        and a pinhole that is given.
    """
    exact = (load_body("open") if body is None else copy.deepcopy(body)).double()
    init = RegressorOutput(
        *(torch.from_numpy(answers[name]).double() for name in ("rotmat", "betas", "cam"))
    )
    keypoints = make_keypoints(asset, exact, init, _SET)
    pinhole = torch.tensor(_PINHOLE, dtype=torch.float64).repeat(len(keypoints), 1)
    samples = {name: value.numpy() for name, value in init._asdict().items()}
    samples |= {"keypoints": keypoints.numpy(), "pinhole": pinhole.numpy()}
    fx, fy, cx, cy = _PINHOLE
    matrix = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    cameras: dict[str, tuple[MapConfig, Tensor | None]] = {
        "assumed": (MapConfig(), None),
        "weak": (MapConfig(distance=None), None),
        "given": (MapConfig(), matrix.repeat(len(keypoints), 1, 1)),
    }
    for camera, (config, intrinsics) in cameras.items():
        fits = fit_map(
            exact,
            init,
            keypoints,
            torch.from_numpy(asset.precision),
            joint_set=_SET,
            config=config,
            intrinsics=intrinsics,
        )
        assert fits.joint_sigma_mm is not None
        found = dict(zip(("rotmat", "betas", "cam"), fits.final, strict=True))
        found |= {"joint_sigma_mm": fits.joint_sigma_mm}
        samples |= {f"{camera}/{name}": value.numpy() for name, value in found.items()}
    return {FIT_SAMPLES + name: value for name, value in samples.items()}


def make_keypoints(asset: FitAsset, body: Smpl, init: RegressorOutput, joint_set: str) -> Tensor:
    """Projected points of bodies about the answers, spoilt as ``make_fit_samples`` says."""
    names = JOINT_SETS[joint_set].names
    draw = np.random.default_rng(0)
    people = len(init.pred_betas)
    root = np.linalg.cholesky(np.linalg.inv(asset.precision))
    state = torch.from_numpy(_SPREAD * draw.standard_normal((people, len(root))) @ root.T)
    turn = axis_angle_to_matrix(state[:, POSE].reshape(people, -1, 3))
    joints = body.keypoints(
        init.pred_betas + state[:, BETAS],
        (init.pred_rotmat @ turn)[:, 1:],
        (init.pred_rotmat @ turn)[:, :1],
        joint_set=joint_set,
        pose2rot=False,
    )
    scale = init.pred_cam[:, :1] * state[:, SCALE, None].exp()
    cam = torch.cat([scale, init.pred_cam[:, 1:] + 0.3 * state[:, SHIFT]], 1)
    points = weak_project(joints, cam)
    points = points + _NOISE * torch.from_numpy(draw.standard_normal(points.shape))
    confidence = torch.from_numpy(draw.choice([0.0, 0.4, 1.0], points.shape[:2], p=[0.2, 0.1, 0.7]))
    keypoints = torch.cat([points, confidence[..., None]], -1)
    gross = next((k for k, name in enumerate(names) if name.endswith(_GROSS)), 0)
    keypoints[::4, gross] = torch.tensor([0.9, -0.9, 1.0], dtype=torch.float64)
    for left, right in limb_pairs(names, ARM):
        keypoints[1::4, [left, right]] = keypoints[1::4, [right, left]]
    return keypoints
