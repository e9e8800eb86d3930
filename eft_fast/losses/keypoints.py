"""Losses on projected keypoints, and the total loss of Exemplar Fine-Tuning.

Everything is computed per person: loss and gradient are batch-invariant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast.geometry.cameras import project_intrinsics, weak_project, weak_to_pinhole
from eft_fast.keypoints import JOINT_SETS
from eft_fast.losses.weights import DEFAULT_WEIGHTS, EftLossWeights

_SPIN49: Final = {name: place for place, name in enumerate(JOINT_SETS["spin49"].names)}
_NUM_OPENPOSE: Final = 25
_HIPS: Final = tuple(_SPIN49[name] for name in ("rhip", "lhip", "pelvis"))
_ANKLES: Final = (_SPIN49["lank"], _SPIN49["rank"])
_KNEES: Final = (_SPIN49["lkne"], _SPIN49["rkne"])
#: Knee and ankle of both shins, among the 49.
SHINS: Final = tuple(zip(_KNEES, _ANKLES, strict=True))
#: Shins shorter than this in the annotation, in units of half a crop, have no direction: about one
#: pixel of a 224 px crop. The reference's own constant.
SHORTEST_SHIN: Final = 0.0089


@dataclass(frozen=True)
class EftLossTerms:
    """The loss of each person, and its terms before their weights."""

    total: Float[Tensor, " B"]
    keypoint: Float[Tensor, " B"]
    beta: Float[Tensor, " B"]
    camera: Float[Tensor, " B"]
    leg: Float[Tensor, " B"]


def keypoint_loss(
    points: Float[Tensor, "B K 2"],
    keypoints_2d: Float[Tensor, "B K 3"],
    weight: Float[Tensor, " K"] | None = None,
) -> Float[Tensor, " B"]:
    """Mean over K x 2 of confidence * (difference)^2.

    The mean is over all K, not over the labelled ones: a person with few labels has a small loss.
    Unlabelled points cost nothing and may hold any coordinates, NaN included.

    Args:
        points: Projected points.
        keypoints_2d: x, y and confidence, in the units of ``points``.
        weight: Further factor of each keypoint.
    """
    _check_keypoints("keypoint_loss", points, keypoints_2d)
    confidence = keypoints_2d[..., 2:]
    target = torch.where(confidence > 0, keypoints_2d[..., :2], 0.0)
    squared = confidence * (points - target).square()
    if weight is not None:
        squared = squared * weight[:, None]
    return squared.mean((1, 2))


def leg_loss(
    points: Float[Tensor, "B 49 2"], keypoints_2d: Float[Tensor, "B 49 3"]
) -> Float[Tensor, " B"]:
    """Sum over both shins of conf_knee * conf_ankle * (1 - cos of the angle between directions).

    A shin counts when it is annotated longer than about a pixel. A projected shin of length zero
    has no direction: it costs 1 and has zero gradient.
    """
    _check_keypoints("leg_loss", points, keypoints_2d)
    knees, ankles = list(_KNEES), list(_ANKLES)
    confidence = keypoints_2d[:, knees, 2] * keypoints_2d[:, ankles, 2]
    given = keypoints_2d[:, ankles, :2] - keypoints_2d[:, knees, :2]
    given_length = given.norm(dim=-1)
    counts = (given_length > SHORTEST_SHIN) & (confidence > 0)
    given = torch.where(counts[..., None], given, 0.0)
    given = given / torch.where(counts, given_length, 1.0)[..., None]
    shin = points[:, ankles] - points[:, knees]
    squared = shin.square().sum(-1)
    has_length = squared > 0
    length = torch.where(has_length, squared, 1.0).sqrt()
    cosine = (given * shin).sum(-1) / length
    cosine = torch.where(has_length, cosine, 0.0)
    return torch.where(counts, confidence * (1 - cosine), 0.0).sum(1)


def camera_loss(pred_cam: Float[Tensor, "B 3"]) -> Float[Tensor, " B"]:
    """exp(-10 s)^2: keeps the scale s away from zero and below."""
    return torch.exp(-10 * pred_cam[:, 0]).square()


def eft_loss(
    points: Float[Tensor, "B 49 3"],
    betas: Float[Tensor, "B 10"],
    pred_cam: Float[Tensor, "B 3"],
    keypoints_2d: Float[Tensor, "B 49 3"],
    weights: EftLossWeights = DEFAULT_WEIGHTS,
    *,
    intrinsics: Float[Tensor, "B 3 3"] | None = None,
) -> EftLossTerms:
    """Total loss of Exemplar Fine-Tuning for each person.

    total * (keypoint * L2D + beta * mean(betas^2) + camera * exp(-10 s)^2 + leg * Lleg), where L2D
    is ``keypoint_loss`` over the 49 projected points, without hips, pelvis and ankles of the second
    block, and Lleg is ``leg_loss``, which does use the ankles.

    Args:
        points: The 49 points of the body, metres.
        betas: Shape.
        pred_cam: (s, tx, ty) with u = s*X + t.
        keypoints_2d: x and y in [-1, 1] of the crop, and confidence; not changed.
        weights: Weights and exclusions.
        intrinsics: Pinhole of the photo as seen in the crop (``geometry.crop_intrinsics``): points
            are then projected by it, from where ``geometry.weak_to_pinhole`` puts the body.

    Returns:
        The loss and its terms, [B] each.
    """
    if points.ndim != 3 or points.shape[1:] != (49, 3):
        raise ValueError(f"eft_loss: points must be [B, 49, 3], got {list(points.shape)}")
    if intrinsics is None:
        projected = weak_project(points, pred_cam)
    else:
        placed = points + weak_to_pinhole(pred_cam, intrinsics)[:, None]
        projected = project_intrinsics(placed, intrinsics)
    _check_keypoints("eft_loss", projected, keypoints_2d)
    keypoint = keypoint_loss(projected, keypoints_2d, _keypoint_weights(weights, points))
    beta = betas.square().mean(1)
    camera = camera_loss(pred_cam)
    leg = leg_loss(projected, keypoints_2d)
    total = (
        weights.keypoint * keypoint
        + weights.beta * beta
        + weights.camera * camera
        + weights.leg * leg
    )
    return EftLossTerms(weights.total * total, keypoint, beta, camera, leg)


def keypoint_factors(weights: EftLossWeights) -> list[float]:
    """Factor of each of the 49 keypoints in the 2D term."""
    factors = [weights.openpose] * _NUM_OPENPOSE + [weights.gt] * (49 - _NUM_OPENPOSE)
    left_out = (() if weights.with_hips else _HIPS) + (() if weights.with_ankles else _ANKLES)
    for place in left_out:
        factors[place] = 0.0
    return factors


def counting(
    keypoints_2d: Float[Tensor, "B 49 3"], weights: EftLossWeights = DEFAULT_WEIGHTS
) -> Bool[Tensor, "B 49"]:
    """Which keypoints move a fit: labelled, and with a factor above 0."""
    labelled: Tensor = keypoints_2d[..., 2] > 0
    return labelled & (factors_like(weights, keypoints_2d) > 0)


def confidence_level(
    keypoints_2d: Float[Tensor, "B 49 3"], weights: EftLossWeights = DEFAULT_WEIGHTS
) -> Float[Tensor, " B"]:
    """Mean confidence of the keypoints that count, by their factors; 1 where none does.

    ``keypoint_loss`` over this is what it would be if the confidences, which are on any scale,
    were 1 on average. For labels of 0 and 1 it is exactly 1.
    """
    factors = factors_like(weights, keypoints_2d).double()
    confidence = keypoints_2d[..., 2].double().clamp_min(0)
    # In float64, so that the rounded result does not depend on the order of the sum.
    total = (factors * (confidence > 0)).sum(1)
    level = (factors * confidence).sum(1) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, level, 1.0).to(keypoints_2d)


def factors_like(weights: EftLossWeights, like: Tensor) -> Float[Tensor, " 49"]:
    """``keypoint_factors`` of a type and device: a copy to the device once, not at every step."""
    return _factors(weights, str(like.device), like.dtype)


@lru_cache(maxsize=32)
def _factors(weights: EftLossWeights, device: str, dtype: torch.dtype) -> Float[Tensor, " 49"]:
    with torch.inference_mode(False):
        return torch.tensor(keypoint_factors(weights), dtype=dtype).to(device)


def _keypoint_weights(weights: EftLossWeights, like: Tensor) -> Float[Tensor, " 49"]:
    return torch.tensor(keypoint_factors(weights), dtype=like.dtype, device=like.device)


def _check_keypoints(who: str, points: Tensor, keypoints_2d: Tensor) -> None:
    if points.ndim != 3 or points.shape[-1] != 2:
        raise ValueError(f"{who}: points must be [B, K, 2], got {list(points.shape)}")
    expected = [*points.shape[:2], 3]
    if list(keypoints_2d.shape) != expected:
        raise ValueError(
            f"{who}: keypoints_2d must be {expected} like the points, "
            f"got {list(keypoints_2d.shape)}"
        )
