"""Cameras from points: where a posed body stands before a pinhole, by weighted least squares.

Linear in the unknowns, solved in float64 for each person on their own. The errors that are made
small are those of the rays times the depth, so far points count more than in the picture; as a
start, or for a known pose, that is what is wanted.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

#: A system whose smallest pivot is below this part of its largest has no unique answer.
_SINGULAR: Final = 1e-12


def solve_translation(
    points: Float[Tensor, "B K 3"],
    keypoints_2d: Float[Tensor, "B K 3"],
    intrinsics: Float[Tensor, "B 3 3"],
) -> Float[Tensor, "B 3"]:
    """Find the translation that puts points on their image points.

    For a ray (x, y, 1) of a keypoint: t_x - x t_z = x Z - X, and y alike.

    Args:
        points: Points in the axes of the camera, metres, before the translation.
        keypoints_2d: Image points and confidence, which weighs the squared error; 0 leaves a point
            out, whatever its x and y.
        intrinsics: Pinhole of each person, in the unit of the keypoints.

    Returns:
        Translation, metres; NaN where fewer than two keypoints are labelled.

    Raises:
        ValueError: If the shapes do not agree.
    """
    _check("solve_translation", points, keypoints_2d)
    if tuple(intrinsics.shape) != (len(points), 3, 3):
        raise ValueError(
            f"solve_translation: intrinsics must be [{len(points)}, 3, 3], "
            f"got {list(intrinsics.shape)}"
        )
    xyz, image, weight = _prepare(points, keypoints_2d)
    camera = intrinsics.double()
    offset = image - camera[:, None, :2, 2]
    y = offset[..., 1] / camera[:, None, 1, 1]
    x = (offset[..., 0] - camera[:, None, 0, 1] * y) / camera[:, None, 0, 0]
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.stack([torch.stack([one, zero, -x], -1), torch.stack([zero, one, -y], -1)], 2)
    right = torch.stack([x * xyz[..., 2] - xyz[..., 0], y * xyz[..., 2] - xyz[..., 1]], 2)
    return _least_squares(rows, right, weight).to(points)


def solve_translation_and_focal(
    points: Float[Tensor, "B K 3"],
    keypoints_2d: Float[Tensor, "B K 3"],
    principal: Float[Tensor, "B 2"],
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, " B"]]:
    """Find translation and focal length together, where the pose is known.

    With u from the principal point: f X + f t_x - u t_z = u Z, linear in (f, f t_x, f t_y, t_z).
    Only perspective tells the focal length: of far or flat people the answer is noise, and where
    the least squares give no positive f and distance, it is NaN.

    Args:
        points: Points in the axes of the camera, metres, before the translation.
        keypoints_2d: Image points and confidence, as in ``solve_translation``.
        principal: Principal point, in the unit of the keypoints.

    Returns:
        Translation, metres, and focal length in the unit of the keypoints; NaN where fewer than
        three keypoints are labelled or there is no answer.

    Raises:
        ValueError: If the shapes do not agree.
    """
    _check("solve_translation_and_focal", points, keypoints_2d)
    if tuple(principal.shape) != (len(points), 2):
        raise ValueError(
            f"solve_translation_and_focal: principal must be [{len(points)}, 2], "
            f"got {list(principal.shape)}"
        )
    xyz, image, weight = _prepare(points, keypoints_2d)
    offset = image - principal.double()[:, None]
    labelled = weight[..., None] > 0
    # In sizes of the person, so that the columns of the system are alike.
    size = torch.where(labelled, offset.abs(), 0.0).amax((1, 2))
    unit = torch.where(size > 0, size, 1.0)
    x, y = (offset / unit[:, None, None]).unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.stack(
        [
            torch.stack([xyz[..., 0], one, zero, -x], -1),
            torch.stack([xyz[..., 1], zero, one, -y], -1),
        ],
        2,
    )
    right = torch.stack([x * xyz[..., 2], y * xyz[..., 2]], 2)
    solution = _least_squares(rows, right, weight)
    focal, depth = solution[:, 0], solution[:, 3]
    is_good = (focal > 0) & (depth > 0)
    safe = torch.where(is_good, focal, 1.0)
    transl = torch.stack([solution[:, 1] / safe, solution[:, 2] / safe, depth], 1)
    nowhere = torch.full_like(transl, float("nan"))
    transl = torch.where(is_good[:, None], transl, nowhere)
    return transl.to(points), torch.where(is_good, focal * unit, float("nan")).to(points)


def _prepare(points: Tensor, keypoints_2d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points, image points and weights in float64; those that are not labelled are zeros."""
    labelled = keypoints_2d[..., 2:] > 0
    given = torch.where(labelled, keypoints_2d, 0.0).double()
    return points.double(), given[..., :2], given[..., 2]


def _least_squares(rows: Tensor, right: Tensor, weight: Tensor) -> Tensor:
    """Solve [B,K,2,P] p = [B,K,2] with a weight of each point; NaN where there is no one answer."""
    weighted = weight[..., None, None] * rows
    # Sums instead of products of matrices, whose rounding is not batch-invariant.
    normal = (weighted[..., :, None] * rows[..., None, :]).sum((1, 2))
    moment = (weighted * right[..., None]).sum((1, 2))
    factor, failed = torch.linalg.cholesky_ex(normal)
    pivots = factor.diagonal(dim1=1, dim2=2)
    is_good = (failed == 0) & (pivots.amin(1).square() > _SINGULAR * pivots.amax(1).square())
    safe = torch.where(is_good[:, None, None], factor, torch.eye(normal.shape[1]).to(factor))
    solution = torch.cholesky_solve(moment[..., None], safe)[..., 0]
    return torch.where(is_good[:, None], solution, float("nan"))


def _check(who: str, points: Tensor, keypoints_2d: Tensor) -> None:
    if points.ndim != 3 or points.shape[-1] != 3 or points.shape != keypoints_2d.shape:
        raise ValueError(
            f"{who}: points and keypoints_2d must be [B, K, 3], got {list(points.shape)} and "
            f"{list(keypoints_2d.shape)}"
        )
