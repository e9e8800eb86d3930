"""The loss of learning from labels: that of the EFT trainer, one value per person."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.body import Smpl
from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.keypoints import JOINT_SETS
from eft_fast.losses.keypoints import camera_loss, keypoint_loss
from eft_fast.losses.priors import GaussianMixture, mixture_loss
from eft_fast.models.base import RegressorOutput
from eft_fast.training.config import check_numbers
from eft_fast.training.labels import Labels

_NUM_OPENPOSE = 25
_J24 = JOINT_SETS["j24"].names
#: Points in space are compared about the middle of the hips.
_HIPS = (_J24.index("rhip"), _J24.index("lhip"))


@dataclass(frozen=True)
class LabelLossConfig:
    """Weights of the terms; the defaults are those of the EFT trainer (hips and ankles count).

    Attributes:
        keypoint: Squared error of projected keypoints, in [-1, 1] of the crop.
        points_3d: Squared error of points in space about the middle of the hips, metres.
        pose: Squared error of rotation matrices.
        betas: Squared error of the shape.
        camera: exp(-10 s)^2.
        prior: Of the pose mixture, for people of whom no pose is known.
        prior_betas: Of the mean squared shape, for people of whom no shape is known.
        total: Factor of the sum.
    """

    keypoint: float = 5.0
    points_3d: float = 5.0
    pose: float = 1.0
    betas: float = 0.001
    camera: float = 1.0
    prior: float = 0.0005
    prior_betas: float = 0.01
    total: float = 60.0

    def __post_init__(self) -> None:
        """Refuse weights that no loss can have."""
        check_numbers(self, "train")


def label_loss(
    body: Smpl,
    output: RegressorOutput,
    labels: Labels,
    config: LabelLossConfig,
    prior: GaussianMixture | None = None,
) -> Float[Tensor, " B"]:
    """Return the loss of each person.

    total * (keypoint * L2D + points_3d * L3D + pose * mean(w (R - R')^2) + betas * mean((b - b')^2)
    + camera * exp(-10 s)^2), and the priors where pose or shape are not known.

    Args:
        body: Body model.
        output: Prediction.
        labels: What is known of the people.
        config: Weights.
        prior: Mixture of poses; needed where ``config.prior`` is not 0.
    """
    points = body.keypoints(
        output.pred_betas,
        output.pred_rotmat[:, 1:],
        output.pred_rotmat[:, :1],
        joint_set="spin49",
        pose2rot=False,
    )
    weight = torch.ones(points.shape[1]).to(points)
    weight[:_NUM_OPENPOSE] = 0
    flat = keypoint_loss(weak_project(points, output.pred_cam), labels.keypoints_2d, weight)
    turn = (output.pred_rotmat - labels.rotmat).square().mean((2, 3)) * labels.rotmat_weight
    shape = (output.pred_betas - labels.betas).square().mean(1) * labels.betas_weight
    total = (
        config.keypoint * flat
        + config.points_3d * points_loss(points[:, _NUM_OPENPOSE:], labels.points_3d)
        + config.pose * turn.mean(1)
        + config.betas * shape
        + config.camera * camera_loss(output.pred_cam)
    )
    unposed = (labels.rotmat_weight.sum(1) == 0).float()
    unshaped = (labels.betas_weight == 0).float()
    if config.prior and prior is not None:
        pose = matrix_to_axis_angle(output.pred_rotmat[:, 1:]).flatten(1)
        total = total + config.prior * unposed * mixture_loss(prior, pose)
    total = total + config.prior_betas * unshaped * output.pred_betas.square().mean(1)
    return config.total * total


def points_loss(
    points: Float[Tensor, "B 24 3"], labels: Float[Tensor, "B 24 4"]
) -> Float[Tensor, " B"]:
    """Weighted mean over 24 x 3 of the squared difference, both about the middle of their hips.

    People without both hips in space cost nothing.
    """
    weight, hips = labels[..., 3], list(_HIPS)
    known = (weight[:, hips] > 0).all(1)
    found = points - points[:, hips].mean(1, keepdim=True)
    true = labels[..., :3] - labels[:, hips, :3].mean(1, keepdim=True)
    squared = weight[..., None] * (found - true).square()
    return torch.where(known, squared.mean((1, 2)), 0.0)
