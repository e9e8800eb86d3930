"""Points from several calibrated photos, and the rigid motion between two sets of points."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

#: Rays whose normal equations are worse conditioned than this meet nowhere in particular: about
#: two rays that are parallel to a fifth of a degree.
_PARALLEL: Final = 1e-5


def triangulate(
    keypoints_2d: Float[Tensor, "G V K 3"],
    intrinsics: Float[Tensor, "G V 3 3"],
    rotation: Float[Tensor, "G V 3 3"],
    translation: Float[Tensor, "G V 3"],
) -> Float[Tensor, "G K 4"]:
    """Find the points that are nearest to the rays of their image points.

    Args:
        keypoints_2d: Image points and confidence, which weighs the squared distance; 0 leaves a
            point out of a view.
        intrinsics: Pinhole of each view, in the unit of the image points.
        rotation: World to camera: Y = R X + t.
        translation: The same; its length unit is that of the answer.

    Returns:
        World points and a weight: the sum of confidences; 0, and the point 0, where fewer than two
        views see a point or their rays are parallel.

    Raises:
        ValueError: If the shapes do not agree.
    """
    groups, views, count = keypoints_2d.shape[:3]
    shapes = ((groups, views, 3, 3), (groups, views, 3, 3), (groups, views, 3))
    given = intrinsics, rotation, translation
    for name, shape, value in zip(
        ("intrinsics", "rotation", "translation"), shapes, given, strict=True
    ):
        if tuple(value.shape) != shape:
            raise ValueError(f"triangulate: {name} must be {list(shape)}, got {list(value.shape)}")
    weight = keypoints_2d[..., 2].double().clamp_min(0)
    image = torch.where(keypoints_2d[..., 2:] > 0, keypoints_2d[..., :2], 0.0).double()
    ray = torch.cat([image, torch.ones_like(image[..., :1])], -1)
    turned = rotation.double().transpose(2, 3)
    ray = ray @ torch.linalg.inv(intrinsics.double()).transpose(2, 3) @ turned.transpose(2, 3)
    ray = ray / ray.norm(dim=-1, keepdim=True)
    origin = -(turned @ translation.double()[..., None])[..., 0]
    # Squared distance to a ray: |P (X - o)|^2 with P = I - d d^T.
    across = (
        torch.eye(3, dtype=ray.dtype, device=ray.device) - ray[..., :, None] * ray[..., None, :]
    )
    across = weight[..., None, None] * across
    normal = across.sum(1)
    moment = (across @ origin[:, :, None, :, None])[..., 0].sum(1)
    total = weight.sum(1)
    least = torch.linalg.eigvalsh(normal)[..., 0]
    is_good = ((weight > 0).sum(1) >= 2) & (least > _PARALLEL * total)
    safe = torch.where(is_good[..., None, None], normal, torch.eye(3).to(normal))
    points = torch.linalg.solve(safe, moment[..., None])[..., 0]
    points = torch.where(is_good[..., None], points, 0.0)
    total = torch.where(is_good, total, 0.0)
    answer: Tensor = torch.cat([points, total[..., None]], -1).to(translation)
    assert answer.shape == (groups, count, 4)
    return answer


def rigid_motion(
    source: Float[Tensor, "G K 3"], target: Float[Tensor, "G K 3"], weight: Float[Tensor, "G K"]
) -> tuple[Float[Tensor, "G 3 3"], Float[Tensor, "G 3"]]:
    """Rotation and translation that bring ``source`` nearest to ``target``, never a reflection.

    Where fewer than three points have a weight, both are NaN.
    """
    p, q, w = source.double(), target.double(), weight.double()[..., None]
    total = w.sum(1, keepdim=True)
    safe = torch.where(total > 0, total, 1.0)
    p_mean, q_mean = (w * p).sum(1, keepdim=True) / safe, (w * q).sum(1, keepdim=True) / safe
    u, _, vt = torch.linalg.svd((w * (p - p_mean)).transpose(1, 2) @ (q - q_mean))
    sign = torch.ones_like(u[..., 0])
    sign[:, 2] = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0)
    rotation = (u * sign[:, None] @ vt).transpose(1, 2)
    translation = (q_mean - p_mean @ rotation.transpose(1, 2))[:, 0]
    is_good = ((w > 0).sum((1, 2)) >= 3)[:, None]
    nowhere = float("nan")
    return (
        torch.where(is_good[..., None], rotation, nowhere).to(source),
        torch.where(is_good, translation, nowhere).to(source),
    )
