"""People to fit: bodies of known pose before known cameras, and answers off by a known law."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eft_fast import ops
from eft_fast.body.smpl import Smpl
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.models.base import RegressorOutput

COCO = "coco17"
#: Standard deviations of the made-up network: root, other joints, betas, log scale, shift.
SPREAD = (0.3, 0.25, 0.5, 0.1, 0.05)


@dataclass(frozen=True)
class People:
    """Truth, answers of a made-up network, keypoints, and the covariance of its errors."""

    truth: RegressorOutput
    init: RegressorOutput
    keypoints: Tensor
    precision: Tensor

    def take(self, rows: slice | Tensor) -> People:
        """Some of them."""
        pick = [RegressorOutput(*(part[rows] for part in each)) for each in (self.truth, self.init)]
        return People(*pick, self.keypoints[rows], self.precision)


def spread() -> Tensor:
    """Standard deviation of each of the 85 numbers."""
    root, joint, shape, scale, shift = SPREAD
    parts = ((root, 3), (joint, 69), (shape, 10), (scale, 1), (shift, 2))
    return torch.cat([torch.full((count,), value) for value, count in parts])


def make_people(body: Smpl, count: int, *, seed: int = 0, noise: float = 0.0) -> People:
    """Upright people with random joints, seen by a weak camera, and answers about them."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(count, 85, generator=generator) * spread()
    base = torch.randn(count, 24, 3, generator=generator) * 0.2
    base[:, 0] = torch.tensor([3.1416, 0.0, 0.0])
    init_rotmat = axis_angle_to_matrix(base.double()).float()
    turn = axis_angle_to_matrix(draw[:, :72].reshape(count, 24, 3).double()).float()
    cam0 = torch.tensor([0.9, 0.0, 0.1]).repeat(count, 1)
    betas0 = torch.randn(count, 10, generator=generator) * 0.5
    cam = torch.cat([cam0[:, :1] * draw[:, 82:83].exp(), cam0[:, 1:] + 0.4 * draw[:, 83:]], 1)
    truth = RegressorOutput(init_rotmat @ turn, betas0 + draw[:, 72:82], cam)
    points = ops.smpl_points(body.points_plan(COCO), truth.pred_betas, truth.pred_rotmat)
    image = weak_project(points, cam)
    image = image + noise * torch.randn(image.shape, generator=generator)
    keypoints = torch.cat([image, torch.ones(count, 17, 1)], -1)
    init = RegressorOutput(init_rotmat, betas0, cam0)
    return People(truth, init, keypoints, torch.diag(1 / spread() ** 2))
