"""Losses on body parameters and 3D joints, as in the training of SPIN and EFT regressors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.keypoints import JOINT_SETS

_J24_HIPS = [JOINT_SETS["j24"].names.index(name) for name in ("rhip", "lhip")]


def rotmat_loss(
    pred_rotmat: Float[Tensor, "B 24 3 3"], gt_rotmat: Float[Tensor, "B 24 3 3"]
) -> Float[Tensor, " B"]:
    """Mean square of the differences between rotation matrices."""
    return (pred_rotmat - gt_rotmat).square().mean((1, 2, 3))


def betas_loss(
    pred_betas: Float[Tensor, "B 10"], gt_betas: Float[Tensor, "B 10"]
) -> Float[Tensor, " B"]:
    """Mean square of the differences between shapes."""
    return (pred_betas - gt_betas).square().mean(1)


def vertices_loss(
    pred_vertices: Float[Tensor, "B V 3"], gt_vertices: Float[Tensor, "B V 3"]
) -> Float[Tensor, " B"]:
    """Mean absolute difference between meshes, metres."""
    return (pred_vertices - gt_vertices).abs().mean((1, 2))


def joints3d_loss(
    pred_joints: Float[Tensor, "B 24 3"], gt_joints: Float[Tensor, "B 24 4"]
) -> Float[Tensor, " B"]:
    """Mean over 24 x 3 of confidence * (difference)^2, after both are centred on their hips.

    Args:
        pred_joints: Points of the set ``j24``, metres.
        gt_joints: The same and a confidence; 0 = not labelled. A person without both hips costs
            nothing, because there is nothing to centre on.
    """
    if pred_joints.ndim != 3 or pred_joints.shape[1:] != (24, 3):
        raise ValueError(
            f"joints3d_loss: pred_joints must be [B, 24, 3], got {list(pred_joints.shape)}"
        )
    confidence = gt_joints[..., 3:]
    target = torch.where(confidence > 0, gt_joints[..., :3], 0.0)
    has_hips = (confidence[:, _J24_HIPS] > 0).all(1, keepdim=True)
    pred = pred_joints - pred_joints[:, _J24_HIPS].mean(1, keepdim=True)
    target = target - target[:, _J24_HIPS].mean(1, keepdim=True)
    squared = confidence * (pred - target).square()
    return torch.where(has_hips, squared, 0.0).mean((1, 2))
