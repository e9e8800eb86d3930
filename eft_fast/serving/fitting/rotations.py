"""Rotations as in ``ops.map_reference``: exp, log, and the Jacobian of log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast.map_rules import SMALL_ANGLE

if TYPE_CHECKING:
    from jaxtyping import Float64

#: v @ SKEW is the matrix [v]x of the cross product, flattened.
SKEW: Final = np.zeros((3, 3, 3))
for _axis in range(3):
    _next, _last = (_axis + 1) % 3, (_axis + 2) % 3
    SKEW[_axis, _last, _next], SKEW[_axis, _next, _last] = 1.0, -1.0
SKEW.setflags(write=False)
_IDENTITY: Final = np.eye(3)


def _skew(vector: np.ndarray) -> np.ndarray:
    return np.asarray((vector @ SKEW.reshape(3, 9)).reshape(*vector.shape, 3))


def _square(vector: np.ndarray) -> np.ndarray:
    """[v]x^2 + |v|^2 I = v v^T."""
    return np.asarray(vector[..., :, None] * vector[..., None, :])


def _squared_length(vector: np.ndarray) -> np.ndarray:
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    return np.asarray(x * x + y * y + z * z)


def _sinc(squared: np.ndarray) -> np.ndarray:
    """sin(t) / t of t squared, smooth through zero."""
    is_small = squared < SMALL_ANGLE
    angle = np.sqrt(np.where(is_small, 1.0, squared))
    series = 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42))
    return np.where(is_small, series, np.sin(angle) / angle)


def rotation_exp(vector: Float64[np.ndarray, "*b 3"]) -> Float64[np.ndarray, "*b 3 3"]:
    """R = I + sin(t)/t K + 2 (sin(t/2)/t)^2 K^2."""
    squared = _squared_length(vector)[..., None, None]
    half = _sinc(squared / 4)
    square = _square(vector) - squared * _IDENTITY
    return np.asarray(_IDENTITY + _sinc(squared) * _skew(vector) + half * half / 2 * square)


def rotation_log(matrix: Float64[np.ndarray, "*b 3 3"]) -> Float64[np.ndarray, "*b 3"]:
    """Rotation vectors, angle at most pi, by the largest entry of the quaternion."""
    trace = matrix[..., 0, 0] + matrix[..., 1, 1] + matrix[..., 2, 2]
    transposed = matrix.swapaxes(-1, -2)
    # Row i is 4 q_i (w, x, y, z).
    table = np.empty((*matrix.shape[:-2], 4, 4))
    table[..., 1:, 1:] = matrix + transposed + (1 - trace)[..., None, None] * _IDENTITY
    table[..., 0, 0] = 1 + trace
    for axis in range(3):
        following, last = (axis + 1) % 3, (axis + 2) % 3
        table[..., 0, axis + 1] = matrix[..., last, following] - matrix[..., following, last]
    table[..., 1:, 0] = table[..., 0, 1:]
    best = table.diagonal(axis1=-2, axis2=-1).argmax(-1)
    row = np.take_along_axis(table, best[..., None, None], -2)[..., 0, :]
    length = np.sqrt(row[..., :1] ** 2 + _squared_length(row[..., 1:])[..., None])
    quaternion = np.where(row[..., :1] < 0, -row, row) / length
    w, vector = quaternion[..., 0], quaternion[..., 1:]
    squared = _squared_length(vector)
    is_small = squared < SMALL_ANGLE
    norm = np.sqrt(np.where(is_small, 1.0, squared))
    safe = np.where(is_small, w, 1.0)
    u = np.where(is_small, squared, 0.0) / (safe * safe)
    series = 2 / safe * (1 - u * (1 / 3 - u * (1 / 5 - u / 7)))
    factor = np.where(is_small, series, 2 * np.arctan2(norm, w) / norm)
    return np.asarray(factor[..., None] * vector)


def right_jacobian_inverse(
    vector: Float64[np.ndarray, "*b 3"],
) -> Float64[np.ndarray, "*b 3 3"]:
    """J = d log(exp(vector) exp(d)) / dd at 0: I + K/2 + c K^2, c = (1 - (t/2) cot(t/2)) / t^2."""
    squared = _squared_length(vector)
    is_small = squared < SMALL_ANGLE
    half = np.sqrt(np.where(is_small, 1.0, squared)) / 2
    closed = (1 - half * np.cos(half) / np.sin(half)) / (4 * half * half)
    series = 1 / 12 + squared / 720 * (1 + squared / 42)
    factor = np.where(is_small, series, closed)[..., None, None]
    square = _square(vector) - squared[..., None, None] * _IDENTITY
    return np.asarray(_IDENTITY + _skew(vector) / 2 + factor * square)
