"""SMPLify in plain torch for one person, written from the published description.

It shares with the package only the positions of the 49 points, the arrays of the prior and the
conversions of ``geometry.cameras``. The weights are spelled out once more on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from eft_fast.smplify.prior import OPEN_PRIOR_PATH

PRIOR = np.load(OPEN_PRIOR_PATH)
# Annotated R/L hip, R/L shoulder, and the same of the OpenPose block.
GT_TORSO, OP_TORSO = [27, 28, 33, 34], [9, 12, 2, 5]
# OpenPose neck and hips, annotated hips.
IGNORED = [1, 9, 12, 27, 28]


@dataclass
class Expected:
    """Numbers of one recipe: factors of the terms, already squared where they are."""

    weak: bool
    stages: list[dict]
    data: float = 1.0
    rows: list[int] = field(default_factory=lambda: list(range(49)))
    openpose_torso: bool = True
    ignored: list[int] = field(default_factory=lambda: IGNORED)


def stairs(squared: bool) -> list[dict]:
    steps = [(404, 100), (404, 50), (57.4, 10), (4.78, 5)]
    return [
        {"pose": p**2, "shape": b**2, "angle": (3.17 * p) ** (2 if squared else 1)}
        for p, b in steps
    ]


SPIN = {"pose": 4.78**2, "shape": 25.0, "angle": 15.2**2}
DEPTH = {"torso": True, "depth": 1e4}
RECIPES = {
    "smplify2016": Expected(
        weak=False, stages=[DEPTH, *stairs(True)], rows=list(range(25, 39)), openpose_torso=False
    ),
    "smplify_spin": Expected(weak=False, stages=[DEPTH, SPIN]),
    "smplify_eft_baseline": Expected(
        weak=True,
        stages=[{"torso": True}, SPIN],
        rows=list(range(25, 49)),
        openpose_torso=False,
    ),
    "smplifyx": Expected(weak=False, stages=[DEPTH, *stairs(False)], data=(1000 / 224) ** 2),
    "smplify_tied": Expected(
        weak=False,
        stages=[DEPTH | {"free": slice(82, 85)}, SPIN | {"free": slice(0, 85)}],
        ignored=[1, 9, 12],
    ),
}


def project(expected: Expected, points: Tensor, camera: Tensor) -> Tensor:
    """[-1, 1] of the crop for the weak camera, pixels of a 224 px crop for the pinhole."""
    if expected.weak:
        return camera[0] * points[:, :2] + camera[1:]
    moved = points + camera
    return 5000.0 * moved[:, :2] / moved[:, 2:] + 112.0


def gmm(pose: Tensor) -> Tensor:
    means, covars = (torch.from_numpy(PRIOR[k].astype(np.float64)) for k in ("means", "covars"))
    shares = torch.from_numpy(PRIOR["weights"].astype(np.float64))
    roots = torch.linalg.det(covars).sqrt()
    values = []
    for j in range(len(means)):
        d = pose[:63] - means[j]
        norm = (2 * math.pi) ** (63 / 2) * roots[j] / roots.min()
        values.append(
            0.5 * d @ torch.linalg.inv(covars[j]) @ d - (shares[j] / shares.sum() / norm).log()
        )
    return torch.stack(values).min()


def torso_rows(expected: Expected, target: Tensor) -> list[int]:
    if expected.openpose_torso and bool((target[OP_TORSO, 2] > 0).all()):
        return OP_TORSO
    return [row for row in GT_TORSO if target[row, 2] > 0]


def loss(expected: Expected, stage: dict, body, target: Tensor, x: Tensor, depth: Tensor) -> Tensor:
    """Value of a stage at the parameters of one person, [85]."""
    points = body.keypoints(x[None, 72:82], x[None, 3:72], x[None, :3], joint_set="spin49")[0]
    image = project(expected, points, x[82:])
    given = target[:, :2] if expected.weak else 112 * (target[:, :2] + 1)
    if stage.get("torso"):
        rows = torso_rows(expected, target)
        total = expected.data * (image - given)[rows].square().sum()
        return total + stage.get("depth", 0.0) * (x[84] - depth).square()
    rows = [row for row in expected.rows if row not in expected.ignored and target[row, 2] > 0]
    error = (112.0 if expected.weak else 1.0) * (image - given)[rows]
    rho = 100.0**2 * error**2 / (100.0**2 + error**2)
    total = expected.data * (target[rows, 2:] ** 2 * rho).sum()
    pose = x[3:72]
    bend = (pose[52].exp() ** 2 + (-pose[55]).exp() ** 2
            + (-pose[9]).exp() ** 2 + (-pose[12]).exp() ** 2)  # fmt: skip
    return (
        total
        + stage["pose"] * gmm(pose)
        + stage["shape"] * x[72:82].square().sum()
        + stage["angle"] * bend
    )


def free_parameters(stage: dict) -> Tensor:
    free = torch.zeros(85, dtype=torch.float64)
    if "free" in stage:
        free[stage["free"]] = 1
    elif stage.get("torso"):
        free[:3] = free[82:] = 1
    else:
        free[:82] = 1
    return free


def adam_traces(
    expected: Expected, body, target: Tensor, x: Tensor, steps: int
) -> tuple[list[list[float]], Tensor]:
    """Losses before each update of each stage, and the parameters at the end."""
    traces = []
    for stage in expected.stages:
        free, begin = free_parameters(stage), x.clone()
        moving = x.clone().requires_grad_()
        optimiser = torch.optim.Adam([moving], lr=1e-2, betas=(0.9, 0.999))
        trace = []
        for _ in range(steps):
            optimiser.zero_grad()
            value = loss(expected, stage, body, target, moving, begin[84])
            value.backward()
            moving.grad *= free
            trace.append(value.item())
            optimiser.step()
        traces.append(trace)
        x = moving.detach()
    return traces, x


def residuals(
    expected: Expected, stage: dict, body, target: Tensor, x: Tensor, depth: Tensor
) -> Tensor:
    """A vector whose squares sum to the loss, up to a constant of the chosen Gaussian."""
    points = body.keypoints(x[None, 72:82], x[None, 3:72], x[None, :3], joint_set="spin49")[0]
    image = project(expected, points, x[82:])
    given = target[:, :2] if expected.weak else 112 * (target[:, :2] + 1)
    if stage.get("torso"):
        rows = torso_rows(expected, target)
        first = expected.data**0.5 * (image - given)[rows].flatten()
        return torch.cat([first, stage.get("depth", 0.0) ** 0.5 * (x[84:] - depth)])
    rows = [row for row in expected.rows if row not in expected.ignored and target[row, 2] > 0]
    error = (112.0 if expected.weak else 1.0) * (image - given)[rows]
    data = expected.data**0.5 * target[rows, 2:] * 100 * error / (100.0**2 + error**2).sqrt()
    pose = x[3:72]
    covars = torch.from_numpy(PRIOR["covars"].astype(np.float64))
    means = torch.from_numpy(PRIOR["means"].astype(np.float64))
    shares = torch.from_numpy(PRIOR["weights"].astype(np.float64))
    white = [
        torch.linalg.cholesky(torch.linalg.inv(c)).T @ (pose[:63] - m)
        for c, m in zip(covars, means, strict=True)
    ]
    costs = [
        0.5 * w @ w + 0.5 * torch.logdet(c) - s.log()
        for w, c, s in zip(white, covars, shares, strict=True)
    ]
    winner = int(torch.stack(costs).argmin())
    bend = torch.stack([pose[52].exp(), (-pose[55]).exp(), (-pose[9]).exp(), (-pose[12]).exp()])
    return torch.cat(
        [
            data.flatten(),
            (stage["pose"] / 2) ** 0.5 * white[winner],
            stage["shape"] ** 0.5 * x[72:82],
            stage["angle"] ** 0.5 * bend,
        ]
    )


def lm_trace(
    expected: Expected, stage: dict, body, target: Tensor, x: Tensor, steps: int
) -> list[float]:
    """Losses before each trial of Levenberg-Marquardt with Marquardt's scaling."""
    free = free_parameters(stage).bool()
    depth, damping, trace = x[84].clone(), 1e-3, []

    def value(at: Tensor) -> float:
        return float(loss(expected, stage, body, target, at, depth))

    current = value(x)
    for _ in range(steps):
        trace.append(current)

        def residual(moving: Tensor, at: Tensor = x) -> Tensor:
            full = at.clone()
            full[free] = moving
            return residuals(expected, stage, body, target, full, depth)

        jacobian = torch.autograd.functional.jacobian(residual, x[free])
        curvature = 2 * jacobian.T @ jacobian
        gradient = 2 * jacobian.T @ residual(x[free])
        scale = curvature.diagonal()
        # The frozen parameters have a curvature of 1 in the batched system.
        most = max(float(scale.max()), 1.0)
        damped = curvature + torch.diag(damping * scale + 1e-6 * most)
        trial = x.clone()
        trial[free] -= torch.linalg.solve(damped, gradient)
        new = value(trial)
        if new < current:
            x, current, damping = trial, new, damping * 0.3
        else:
            damping *= 5
    return trace
