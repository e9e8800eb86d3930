"""Weights that bear gross errors, as operators; the formulas are those of ``map_fit.robust``."""

from __future__ import annotations

import numpy as np

from eft_fast.deploy.fit_graph.energy import Problem, State
from eft_fast.deploy.onnx_builder import FLOAT, INT, Value
from eft_fast.map_rules import GAUSSIAN_MEDIAN

#: Stands for who has no error in sorted rows.
_LAST = 1e30


def robust_factor(problem: Problem, state: State, k: float) -> Value:
    """(K / (K + r^2))^2 of each keypoint [B, K], K = k^2 max(1, median r^2 / 1.386)."""
    squared = problem.squared_errors(state)
    scale = (_row_median(squared, problem) / GAUSSIAN_MEDIAN).at_least(1.0) * (k * k)
    ratio = scale / (scale + squared)
    return ratio * ratio


def robust_energy(problem: Problem, state: State, energy: Value, factor: Value, k: float) -> Value:
    """Energy [B, 1] with k^2 r^2 / (k^2 + r^2) in the place of r^2.

    Args:
        problem: With the weights as they were given.
        state: Answers under weights times ``factor``.
        energy: Of theirs, under those.
        factor: The factors of the weights.
        k: Bounds the errors.
    """
    squared = problem.squared_errors(state)
    bounded = squared * (k * k) / (squared + k * k)
    return energy + (bounded - factor * squared).sum(1, keep=True)


def _row_median(squared: Value, problem: Problem) -> Value:
    """The lower median of each row over given keypoints, [B, 1]; 0 without any."""
    graph, number = squared.graph, len(problem.body.points)
    given = (problem.weight > 0.0).reshape(-1, number)
    ranked = graph.where(given, squared, _LAST)
    count = np.array([number], np.int64)
    ordered, _ = graph.ops("TopK", 2, ranked, count, axis=1, largest=0, sorted=1)
    last = given.to(INT).sum(1, keep=True) - np.int64(1)
    middle = graph.op("Div", graph.op("Max", last, np.int64(0)), np.int64(2))
    chosen = middle.equals(np.arange(number)).to(FLOAT)
    median = (ordered * chosen).sum(1, keep=True)
    return graph.where(median < _LAST, median, 0.0)
