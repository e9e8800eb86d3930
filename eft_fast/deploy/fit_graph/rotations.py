"""Rotations as in ``ops.map_reference``: exp, log, and the Jacobian of log, as operators."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from eft_fast.deploy.onnx_builder import FLOAT, Value
from eft_fast.map_rules import SMALL_ANGLE
from eft_fast.serving.fitting.rotations import SKEW

_EYE: Final = np.eye(3)
#: v @ _SKEW is [v]x, flattened.
_SKEW: Final = SKEW.reshape(3, 9)
#: Keeps a root from zero: the angle of no turn.
_TINY: Final = 1e-20


def _log_table() -> np.ndarray:
    """vec(R) @ it, plus 1 on the diagonal, is the table of rows 4 q_i (w, x, y, z)."""
    table = np.zeros((3, 3, 4, 4))
    for axis in range(3):
        following, last = (axis + 1) % 3, (axis + 2) % 3
        table[axis, axis, 0, 0] = 1
        # The difference across the diagonal is 4 w times the axis.
        table[last, following, 0, axis + 1] = table[last, following, axis + 1, 0] = 1
        table[following, last, 0, axis + 1] = table[following, last, axis + 1, 0] = -1
        for other in range(3):
            table[axis, other, axis + 1, other + 1] += 1
            table[other, axis, axis + 1, other + 1] += 1
            table[axis, axis, other + 1, other + 1] -= 1
    return table.reshape(9, 16)


_TABLE: Final = _log_table()


class Log(NamedTuple):
    """A rotation vector [B, J, 3], half its angle and the cotangent of that, [B, J, 1]."""

    vector: Value
    half: Value
    cotangent: Value


def rotation_exp(vector: Value) -> Value:
    """[B, J, 3] to [B, J, 3, 3]: R = I + sin(t)/t K + 2 (sin(t/2)/t)^2 K^2."""
    squared = (vector * vector).sum(-1, keep=True).at_least(_TINY)
    angle = squared.fn("Sqrt")
    first = angle.fn("Sin") / angle
    half = (angle * 0.5).fn("Sin") / angle
    second = half * half * 2.0
    turn = ((vector * first) @ _SKEW).reshape(-1, 24, 3, 3)
    square = vector.widen(3) @ (vector * second).widen(2)
    return turn + square + (1.0 - second * squared).widen(3) * _EYE


def rotation_log(matrix: Value) -> Log:
    """[B, J, 3, 3] to rotation vectors, by the largest entry of the quaternion."""
    graph = matrix.graph
    table = (matrix.reshape(-1, 24, 9) @ _TABLE + np.eye(4).reshape(16)).reshape(-1, 24, 4, 4)
    diagonal = (table * np.eye(4)).sum(-1)
    best = graph.op("ArgMax", diagonal, axis=-1, keepdims=1, kind=7)
    chosen = best.equals(np.arange(4)).to(FLOAT)
    row = (chosen.widen(2) @ table).reshape(-1, 24, 4)
    length = (row * row).sum(-1, keep=True).fn("Sqrt")
    first = row.cut(2, 0, 1)
    quaternion = row / graph.where(first < 0.0, -length, length)
    w, vector = quaternion.cut(2, 0, 1), quaternion.cut(2, 1, 4)
    sine = (vector * vector).sum(-1, keep=True).at_least(_TINY).fn("Sqrt")
    # atan2(sine, w) of a unit vector with w >= 0, finite for every angle.
    half = (sine / (w + 1.0)).fn("Atan") * 2.0
    return Log(vector * (half / sine * 2.0), half, w / sine)


def right_jacobian_inverse(log: Log) -> Value:
    """[B, J, 3, 3]: I + K/2 + c K^2, c = (1 - (t/2) cot(t/2)) / t^2."""
    graph, vector = log.vector.graph, log.vector
    squared = log.half * log.half * 4.0
    closed = (1.0 - log.half * log.cotangent) / squared
    series = squared * (1 / 720) + 1 / 12
    factor = graph.where(squared < SMALL_ANGLE, series, closed)
    square = vector.widen(3) @ (vector * factor).widen(2)
    turn = (vector @ (_SKEW / 2)).reshape(-1, 24, 3, 3)
    return turn + square + (1.0 - factor * squared).widen(3) * _EYE
