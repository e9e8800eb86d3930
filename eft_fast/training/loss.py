"""The training loss: rotations, points in 3D and 2D, shape and scale."""

from __future__ import annotations

from typing import Final

from jaxtyping import Float
from torch import Tensor

from eft_fast.body import Smpl
from eft_fast.geometry.cameras import weak_project
from eft_fast.models.base import RegressorOutput
from eft_fast.models.blazepose import BlazePoseOutput
from eft_fast.models.open_regressor import LANDMARK_ROWS, to_crop_units
from eft_fast.training.config import LossConfig
from eft_fast.training.targets import Targets, body_points

#: Weight of each joint's rotation: the root turns everything, toes and fingers nothing that shows.
_ROTATION_WEIGHT: Final = (
    3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2,
    1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.2, 0.2,
)  # fmt: skip
#: Hands are left out of the points: their landmarks are knuckles to the trunk, tips to the body.
NUM_POINTS: Final = 21
#: The two hips among the landmarks; the trunk's metres are about their middle.
HIPS_SLICE: Final = slice(11, 13)


def regression_loss(
    output: RegressorOutput, targets: Targets, body: Smpl, config: LossConfig
) -> Float[Tensor, " B"]:
    """Return the loss of each person.

    Args:
        output: Prediction.
        targets: Labels.
        body: The body model, whose points are compared.
        config: Weights of the terms.
    """
    rotmat, betas, camera = output
    # The true shape, not the predicted one: see LossConfig.
    points = body_points(body, rotmat, targets.betas)
    weight = rotmat.new_tensor(_ROTATION_WEIGHT)
    rotation = ((rotmat - targets.rotmat).square().sum((2, 3)) * weight).mean(1)
    landmarks = points.landmarks[:, :NUM_POINTS]
    error_3d = (landmarks - targets.landmarks[:, :NUM_POINTS]).abs().mean((1, 2))
    error_3d = error_3d + (points.joints - targets.joints).abs().mean((1, 2))
    error_2d = landmark_error(
        weak_project(landmarks + points.root, camera), targets, config.clamp_2d
    )
    scales = camera[:, 0].clamp_min(1e-3), targets.camera[:, 0].clamp_min(1e-3)
    return (
        config.rotation * rotation
        + config.points_3d * error_3d
        + config.points_2d * error_2d
        + config.betas * (betas - targets.betas).square().mean(1)
        + config.log_scale * (scales[0].log() - scales[1].log()).abs()
    )


def trunk_error(
    output: BlazePoseOutput, targets: Targets, config: LossConfig
) -> Float[Tensor, " B"]:
    """Return the weighted loss of the trunk's own landmarks, in 2D and in metres."""
    rows = list(LANDMARK_ROWS[:NUM_POINTS])
    seen = to_crop_units(output.landmarks[:, rows, :2])
    hips = targets.landmarks[:, HIPS_SLICE].mean(1, keepdim=True)
    gap = output.world[:, rows] - (targets.landmarks[:, :NUM_POINTS] - hips)
    return config.trunk_landmarks * landmark_error(
        seen, targets, config.clamp_2d
    ) + config.trunk_world * gap.abs().mean((1, 2))


def landmark_error(
    projected: Float[Tensor, "B 21 2"], targets: Targets, clamp: float
) -> Float[Tensor, " B"]:
    """Return the mean absolute 2D error in landmark frame sizes, each coordinate clamped."""
    gap = (projected - targets.landmarks_2d[:, :NUM_POINTS]).abs() / targets.size[:, :, None]
    return gap.clamp(max=clamp).mean((1, 2))
