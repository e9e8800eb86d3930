"""The total loss of Exemplar Fine-Tuning from pose, shape and camera in one native call.

Equal to ``keypoints.eft_loss`` of the posed points, which stays as its reference: the operator
projects the 49 points without a mesh and returns the loss together with the gradients of all
inputs, so a step of a fit composes no other operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast import ops
from eft_fast.geometry.cameras import weak_to_pinhole
from eft_fast.losses.keypoints import SHINS, SHORTEST_SHIN, camera_loss, factors_like
from eft_fast.losses.weights import DEFAULT_WEIGHTS, EftLossWeights

if TYPE_CHECKING:
    from eft_fast.ops import PointsPlan


def native_eft_loss(
    plan: PointsPlan,
    betas: Float[Tensor, "B 10"],
    rotmat: Float[Tensor, "B 24 3 3"],
    pred_cam: Float[Tensor, "B 3"],
    keypoints_2d: Float[Tensor, "B 49 3"],
    weights: EftLossWeights = DEFAULT_WEIGHTS,
    *,
    intrinsics: Float[Tensor, "B 3 3"] | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Total loss and its 2D term for each person; the 2D term carries no gradient.

    Args:
        plan: The body's 49 points, from ``Smpl.points_plan("spin49")``.
        betas: Shape.
        rotmat: Rotations of the 24 joints, root first.
        pred_cam: (s, tx, ty) with u = s*X + t.
        keypoints_2d: x and y in [-1, 1] of the crop, and confidence; not changed.
        weights: Weights and exclusions.
        intrinsics: As in ``eft_loss``.
        backend: Of the operator, as in ``ops.smpl_mesh``.

    Returns:
        Total loss, and the mean over 49 x 2 of confidence times squared error.

    Raises:
        ValueError: If shapes or devices do not agree.
        TypeError: If a floating type differs.
    """
    limbs = ops.make_limb_targets(keypoints_2d, SHINS, min_length=SHORTEST_SHIN)
    camera = pred_cam
    if intrinsics is not None:
        identity = torch.eye(3, dtype=pred_cam.dtype, device=pred_cam.device)
        transl = weak_to_pinhole(pred_cam, intrinsics)
        camera = ops.pack_full_camera(intrinsics, identity.expand_as(intrinsics), transl)
    factor = weights.total
    out = ops.keypoint_loss(
        plan,
        betas,
        rotmat,
        camera,
        _weigh(keypoints_2d, weights),
        limbs=limbs,
        weights=ops.LossWeights(
            keypoints=factor * weights.keypoint,
            betas=factor * weights.beta,
            camera=factor * weights.camera,
            limbs=factor * weights.leg,
        ),
        backend=backend,
    )
    loss = out.loss
    if intrinsics is not None:
        # A full camera has no scale to guard: the term of the weak one is added here.
        loss = loss + factor * weights.camera * camera_loss(pred_cam)
    return loss, out.parts[:, 0]


def _weigh(
    keypoints_2d: Float[Tensor, "B 49 3"], weights: EftLossWeights
) -> Float[Tensor, "B 49 3"]:
    """Put the factors of the 2D term into the confidences.

    A labelled keypoint that is not finite keeps spoiling the loss where its factor is 0, as it does
    in ``eft_loss``: a person with such a label is reported, not fitted to the others.
    """
    place, confidence = keypoints_2d[..., :2], keypoints_2d[..., 2]
    spoils = torch.where(confidence > 0, 0 * place.sum(-1), 0.0)
    factors = factors_like(weights, keypoints_2d)
    return torch.cat([place, (confidence * factors + spoils)[..., None]], -1)
