"""The tie: squared distance to a network's answer, in units of how wrong the network usually is.

With x [85] the place of a body about the answer (log R0_j^T R_j of 24 joints, betas - betas0,
log s/s0, (t - t0)/f; f the size of the person in the crop) and Sigma the second moment of x over
people whose truth is known,

    E = sum over given keypoints of |u - uhat|^2 / sigma^2 + x^T Sigma^-1 x

is twice the negative log posterior of the body given its keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.conventions import EXTENT_PER_SIZE

#: Least 1 + tr(R0^T R), at 13 degrees from half a turn: keeps the derivative finite there.
_MIN_TRACE: Final = 0.05
#: Least scale of an answer, crop units per metre.
_MIN_SCALE: Final = 1e-3


def rotation_offset(
    start: Float[Tensor, "B J 3 3"], rotmat: Float[Tensor, "B J 3 3"]
) -> Float[Tensor, "B J 3"]:
    """R0^T R as a vector: its axis times 2 sin(angle / 2), which is the angle to second order.

    Unlike the logarithm it has a derivative that is finite everywhere.
    """
    moved = start.transpose(-1, -2) @ rotmat
    away = moved - moved.transpose(-1, -2)
    vector = torch.stack([away[..., 2, 1], away[..., 0, 2], away[..., 1, 0]], -1)
    trace = moved.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    return vector / (1 + trace).clamp_min(_MIN_TRACE).sqrt()


def tie_offset(
    start: tuple[Tensor, Tensor, Tensor],
    body: tuple[Tensor, Tensor, Tensor],
    size: Float[Tensor, " B"],
) -> Float[Tensor, "B 85"]:
    """Where bodies lie about the answers of a network.

    Args:
        start: Rotations [B,24,3,3], betas [B,10] and weak camera [B,3] of the answers.
        body: The same of the bodies.
        size: f, the size of each person in the crop.
    """
    (rotmat0, betas0, cam0), (rotmat, betas, cam) = start, body
    scale = cam[:, :1].clamp_min(_MIN_SCALE) / cam0[:, :1].clamp_min(_MIN_SCALE)
    shift = (cam[:, 1:] - cam0[:, 1:]) / size[:, None]
    turn = rotation_offset(rotmat0, rotmat).flatten(1)
    return torch.cat([turn, betas - betas0, scale.log(), shift], 1)


def tie_energy(
    offset: Float[Tensor, "B 85"], precision: Float[Tensor, "85 85"]
) -> Float[Tensor, " B"]:
    """x^T Sigma^-1 x of each person."""
    # Sums instead of a product of matrices, whose rounding depends on the number of people.
    return ((offset[:, :, None] * precision).sum(1) * offset).sum(1)


def assumed_pinhole(
    center: Float[Tensor, "B 2"], scale: Float[Tensor, " B"], distance: float
) -> Float[Tensor, "B 3 3"]:
    """The pinhole of crops whose photo's is unknown: it sees each person from a usual distance.

    Args:
        center: Where the person is in the crop; the optical axis goes through it.
        scale: s of the answer's weak camera; the focal length is s times the distance.
        distance: Of the person, metres.
    """
    focal = distance * scale.clamp_min(_MIN_SCALE)
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = [focal, zero, center[:, 0], zero, focal, center[:, 1], zero, zero, one]
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def keypoint_weights(
    confidence: Float[Tensor, "B K"],
    size: Float[Tensor, " B"],
    *,
    sigma: float,
    sigma_unsure: float,
    sure_above: float,
    curve: Sequence[tuple[float, float]] = (),
) -> Float[Tensor, "B K"]:
    """1 / sigma^2 of each keypoint, 0 where there is none.

    Args:
        confidence: Of the keypoints.
        size: f, the size of each person in the crop.
        sigma: a of keypoints whose confidence is above ``sure_above``.
        sigma_unsure: a of the others.
        sure_above: Limit between them.
        curve: Knots of confidence, ascending, and sigma there, instead of the three above: straight
            lines between them, level beyond.
    """
    if curve:
        spread = _interpolate(confidence, curve)
    else:
        spread = torch.where(confidence > sure_above, sigma, sigma_unsure)
    weight = (EXTENT_PER_SIZE * size[:, None] * spread).square().reciprocal()
    return torch.where(confidence > 0, weight, 0.0)


def _interpolate(
    values: Float[Tensor, "B K"], curve: Sequence[tuple[float, float]]
) -> Float[Tensor, "B K"]:
    """The curve at these values, without an index that a device would have to be asked for."""
    found = torch.full_like(values, curve[0][1])
    for (left, low), (right, high) in pairwise(curve):
        found = found + (values.clamp(left, right) - left) * ((high - low) / (right - left))
    return found
