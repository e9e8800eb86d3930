"""Where a body lies about a regressor's answer: the 85 numbers of ``error_covariance`` and ``map``.

About the answer (R0, betas0, s0, t0) of a person, a body (R, betas, s, t) is the row

    x = [log(R0_j^T R_j) for the 24 joints, betas - betas0, log(s / s0), (t - t0) / f],

f the size of the answer's own limb frame: so the numbers of a small and of a large person in their
crops are alike, whatever network answered.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.geometry.cameras import weak_project
from eft_fast.geometry.rotations import matrix_to_axis_angle
from eft_fast.map_rules import LIMB_JOINTS, MIN_FRAME, MIN_SCALE
from eft_fast.models.base import RegressorOutput


class AnswerFrame(NamedTuple):
    """Where an answer puts the person in the crop, in crop units ([-1, 1] over the crop).

    Attributes:
        center: Mean of the twelve projected limb joints.
        size: f, their root mean square distance from it.
    """

    center: Float[Tensor, "B 2"]
    size: Float[Tensor, " B"]


def answer_frame(joints: Float[Tensor, "B 24 3"], pred_cam: Float[Tensor, "B 3"]) -> AnswerFrame:
    """Measure the frame of an answer by its own projection.

    Args:
        joints: Kinematic joints of the answer's body (joint set ``smpl24``), metres, without any
            translation.
        pred_cam: Its weak camera.
    """
    limbs = weak_project(joints[:, list(LIMB_JOINTS)], pred_cam)
    center = limbs.mean(1)
    mean_square = (limbs - center[:, None]).square().sum(-1).mean(1)
    return AnswerFrame(center, mean_square.clamp_min(MIN_FRAME**2).sqrt())


def error_state(
    answer: RegressorOutput, truth: RegressorOutput, size: Float[Tensor, " B"]
) -> Float[Tensor, "B 85"]:
    """Say where true bodies lie about the answers, in float64.

    Args:
        answer: What the regressor said.
        truth: The true bodies; their cameras as least squares finds them (the weak camera that
            projects the true body onto its true landmarks best).
        size: f of ``answer_frame``.
    """
    start, true = (RegressorOutput(*(part.double() for part in each)) for each in (answer, truth))
    turn = matrix_to_axis_angle(start.pred_rotmat.transpose(-1, -2) @ true.pred_rotmat)
    scale = true.pred_cam[:, :1].clamp_min(MIN_SCALE) / start.pred_cam[:, :1].clamp_min(MIN_SCALE)
    shift = (true.pred_cam[:, 1:] - start.pred_cam[:, 1:]) / size.double()[:, None]
    return torch.cat([turn.flatten(1), true.pred_betas - start.pred_betas, scale.log(), shift], 1)
