"""Rotations in numpy, batched over leading axes; quaternions are w, x, y, z."""

from __future__ import annotations

import numpy as np

from .source import Floats


def skew(vector: Floats) -> Floats:
    """Return the cross-product matrices [..., 3, 3] of vectors [..., 3]."""
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def exp_map(vector: Floats) -> Floats:
    """Return the rotation matrices [..., 3, 3] of axis-angle vectors [..., 3]."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    k = skew(vector / np.maximum(angle, 1e-12))
    angle = angle[..., None]
    return np.asarray(np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k))


def to_quaternion(matrix: Floats) -> Floats:
    """Return unit quaternions [..., 4] with w >= 0 of rotation matrices [..., 3, 3]."""
    m = matrix
    diagonal = np.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], -1)
    w, x, y, z = np.moveaxis(
        np.stack(
            [
                1 + diagonal.sum(-1),
                1 + diagonal[..., 0] - diagonal[..., 1] - diagonal[..., 2],
                1 - diagonal[..., 0] + diagonal[..., 1] - diagonal[..., 2],
                1 - diagonal[..., 0] - diagonal[..., 1] + diagonal[..., 2],
            ],
            -1,
        ),
        -1,
        0,
    )
    zy, xz, yx = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    sy, sz, sx = (
        m[..., 1, 0] + m[..., 0, 1],
        m[..., 2, 0] + m[..., 0, 2],
        m[..., 2, 1] + m[..., 1, 2],
    )
    # Four unnormalised forms, one per component; the one with the largest component is exact.
    forms = np.stack(
        [
            np.stack([w, zy, xz, yx], -1),
            np.stack([zy, x, sy, sz], -1),
            np.stack([xz, sy, y, sx], -1),
            np.stack([yx, sz, sx, z], -1),
        ],
        -2,
    )
    best = np.argmax(np.stack([w, x, y, z], -1), -1)
    q = np.take_along_axis(forms, best[..., None, None], -2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.asarray(np.where(q[..., :1] < 0, -q, q))


def log_map(matrix: Floats) -> Floats:
    """Return the axis-angle vectors [..., 3] of rotation matrices [..., 3, 3]."""
    q = to_quaternion(matrix)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    return np.asarray(q[..., 1:] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0))


def fraction(matrix: Floats, share: float) -> Floats:
    """Return the rotation about the same axis by ``share`` of the angle."""
    return exp_map(log_map(matrix) * share)


def rotation_between(start: Floats, end: Floats) -> Floats:
    """Return the smallest rotations [..., 3, 3] that turn ``start`` towards ``end``."""
    a = start / np.linalg.norm(start, axis=-1, keepdims=True)
    b = end / np.linalg.norm(end, axis=-1, keepdims=True)
    k = skew(np.cross(a, b))
    cosine = (a * b).sum(-1)[..., None, None]
    return np.asarray(np.eye(3) + k + k @ k / (1 + cosine))


def euler_yxz(x: float, y: float, z: float) -> Floats:
    """Return Ry @ Rx @ Rz of angles in degrees."""
    about = np.diag(np.deg2rad([x, y, z]))
    rx, ry, rz = exp_map(about)
    return np.asarray(ry @ rx @ rz)


def split_twist(matrix: Floats, axis: Floats) -> tuple[Floats, Floats]:
    """Split a rotation into swing and twist about a unit axis: matrix = swing @ twist."""
    q = to_quaternion(matrix)
    along = float(q[1:] @ axis)
    twist = exp_map(axis * 2 * np.arctan2(along, q[0]))
    return np.asarray(matrix @ twist.T), twist


def multiply_quaternions(a: Floats, b: Floats) -> Floats:
    """Return the products of quaternions [..., 4]."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    real = aw * bw - (av * bv).sum(-1, keepdims=True)
    return np.concatenate([real, aw * bv + bw * av + np.cross(av, bv)], -1)
