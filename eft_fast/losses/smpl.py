"""Losses on body parameters, as in the training of SPIN regressors."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


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
