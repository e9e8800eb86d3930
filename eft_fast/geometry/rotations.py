"""Conversions between forms of a rotation, with finite and exact gradients everywhere.

Quaternions are w, x, y, z. The 6D form is SPIN's and EFT's: six numbers are a row-major [3, 2],
whose columns are the first two columns of the matrix before orthogonalisation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.keypoints import JOINT_SETS

# Below this squared angle the series of sin(t)/t and of 2 atan2(n, w)/n are used. The first term
# left out is under 1e-14 relative, so float64 is exact as well.
_SMALL_SQUARED_ANGLE = 1e-4


def _check_last(who: str, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if not value.is_floating_point():
        raise TypeError(f"{who}: {name} must be floating point, got {value.dtype}")
    if value.ndim < len(shape) or tuple(value.shape[-len(shape) :]) != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"{who}: {name} must be [..., {expected}], got {list(value.shape)}")


def _sinc(squared: Tensor) -> Tensor:
    """sin(t)/t of t squared; smooth through 0, where the square root has no derivative."""
    is_small = squared < _SMALL_SQUARED_ANGLE
    angle = torch.where(is_small, 1.0, squared).sqrt()
    series = 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42))
    return torch.where(is_small, series, angle.sin() / angle)


def _cross_matrix(vector: Tensor) -> Tensor:
    """Matrix K of the cross product: K x = vector cross x."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).reshape(*vector.shape[:-1], 3, 3)


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Turn rotation vectors (radians) into matrices: R = I + a K + b K^2.

    a = sin(t)/t and b = (1 - cos t)/t^2. The gradient at zero is the exact generator.
    """
    _check_last("axis_angle_to_matrix", "axis_angle", axis_angle, (3,))
    squared = (axis_angle * axis_angle).sum(-1)[..., None, None]
    half_sinc = _sinc(squared / 4)
    cross = _cross_matrix(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    # 1 - cos t = 2 sin(t/2)^2: no cancellation for small angles.
    return identity + _sinc(squared) * cross + half_sinc * half_sinc / 2 * (cross @ cross)


def matrix_to_quaternion(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion w, x, y, z with w >= 0.

    Each row of the symmetric 4x4 below is 4 q_i times (w, x, y, z); the row with the largest q_i is
    used, so the square root and the division stay away from zero.
    """
    m = matrix
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    x, y, z = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    xy, xz, yz = (
        m[..., 0, 1] + m[..., 1, 0],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 1, 2] + m[..., 2, 1],
    )
    diagonal = (
        1 + m00 + m11 + m22,
        1 + m00 - m11 - m22,
        1 - m00 + m11 - m22,
        1 - m00 - m11 + m22,
    )
    entries = [diagonal[0], x, y, z]
    entries += [x, diagonal[1], xy, xz]
    entries += [y, xy, diagonal[2], yz]
    entries += [z, xz, yz, diagonal[3]]
    table = torch.stack(entries, -1).reshape(*m.shape[:-2], 4, 4)
    best = torch.stack(diagonal, -1).detach().argmax(-1)[..., None]
    row = table.gather(-2, best[..., None].expand(*best.shape, 4)).squeeze(-2)
    squared = torch.stack(diagonal, -1).gather(-1, best)
    quaternion = row / (2 * squared.sqrt())
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_to_axis_angle(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Turn rotation matrices into rotation vectors with an angle of at most pi.

    Finite values and gradients at 0 and at pi; at exactly pi one of the two vectors is chosen.
    Matrices that are not rotations are not projected first.
    """
    _check_last("matrix_to_axis_angle", "matrix", matrix, (3, 3))
    quaternion = matrix_to_quaternion(matrix)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    squared = (vector * vector).sum(-1, keepdim=True)
    is_small = squared < _SMALL_SQUARED_ANGLE
    norm = torch.where(is_small, 1.0, squared).sqrt()
    # 2 atan2(n, w) / n = (2/w) (1 - u/3 + u^2/5 - u^3/7 + ...), u = (n/w)^2; w is near 1 there.
    safe_w = torch.where(is_small, w, 1.0)
    u = torch.where(is_small, squared, 0.0) / (safe_w * safe_w)
    series = 2 / safe_w * (1 - u * (1 / 3 - u * (1 / 5 - u / 7)))
    return torch.where(is_small, series, 2 * torch.atan2(norm, w) / norm) * vector


def rot6d_to_matrix(rot6d: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Turn the 6D form of SPIN and EFT into matrices by Gram-Schmidt.

    The six numbers are a [3, 2]: a1 is elements 0, 2, 4 and a2 is 1, 3, 5 (not first and last
    three). b1 = a1/|a1|, b2 = (a2 - (b1.a2) b1) normalised, b3 = b1 x b2; b1 b2 b3 are columns.
    Where a1 or the rest of a2 has no direction, the result is the identity, with zero gradient.
    """
    _check_last("rot6d_to_matrix", "rot6d", rot6d, (6,))
    columns = rot6d.reshape(*rot6d.shape[:-1], 3, 2)
    first, second = columns[..., 0], columns[..., 1]
    eps = torch.finfo(rot6d.dtype).eps
    tiny = torch.finfo(rot6d.dtype).tiny / eps
    first_squared = (first * first).sum(-1, keepdim=True)
    first_bad = first_squared <= tiny
    b1 = first / torch.where(first_bad, 1.0, first_squared).sqrt()
    rest = second - (b1 * second).sum(-1, keepdim=True) * b1
    rest_squared = (rest * rest).sum(-1, keepdim=True)
    # A rest of a few rounding errors of a2 points nowhere in particular.
    floor = (4 * eps) ** 2 * (second * second).sum(-1, keepdim=True)
    is_bad = first_bad | (rest_squared <= floor) | (rest_squared <= tiny)
    b2 = rest / torch.where(is_bad, 1.0, rest_squared).sqrt()
    matrix = torch.stack([b1, b2, torch.linalg.cross(b1, b2, dim=-1)], -1)
    identity = torch.eye(3, dtype=rot6d.dtype, device=rot6d.device)
    return torch.where(is_bad[..., None], identity, matrix)


def matrix_to_rot6d(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """Keep the first two columns, flattened row by row: the 6D form of SPIN and EFT."""
    _check_last("matrix_to_rot6d", "matrix", matrix, (3, 3))
    return matrix[..., :2].reshape(*matrix.shape[:-2], 6)


def mirror_pose(rotmat: Float[Tensor, "B 24 3 3"]) -> Float[Tensor, "B 24 3 3"]:
    """The pose of the mirror image: x reversed, left and right joints exchanged.

    R' = S R S with S = diag(-1, 1, 1), for rotations relative to the parent and for the root's in
    the camera frame alike.
    """
    reverse = rotmat.new_tensor([-1.0, 1.0, 1.0])
    mirrored: Tensor = reverse[:, None] * rotmat[:, list(JOINT_SETS["smpl24"].flip)] * reverse
    return mirrored
