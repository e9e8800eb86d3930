"""Levenberg-Marquardt as a loop of operators; every person on its own, as ``ops.map_solve``.

The linear systems are solved by elimination of three blocks, whose inverses Newton's iteration
X (2 I - A X) finds, without a square root, a division or a choice of pivots: 51 products instead of
the 595 operators of 85 pivots, one by one. (Conjugate gradients would take 14 operators an
iteration, and some 40 iterations.) With 1 on the diagonal these systems have a condition of about
1,000, of which 17 doublings of the digits ask little; what they miss makes a step that is not quite
Newton's, which the damping bears.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from eft_fast.deploy.fit_graph.energy import Model, Problem, State
from eft_fast.deploy.onnx_builder import Value
from eft_fast.map_rules import (
    DAMPING,
    DAMPING_RANGE,
    FAILED,
    FAIR,
    FAIR_GAIN,
    GOOD,
    GOOD_GAIN,
    NUM_STATE,
    POOR,
)

#: Where blocks begin, and how large they are.
BLOCKS: Final = ((0, 29), (29, 28), (57, 28))
#: Of the inverse of a block: (1 - 1/condition)^(2^17) of the error is left.
ITERATIONS: Final = 17


class Solution(NamedTuple):
    """Where people ended.

    Attributes:
        state: Where the energy is lowest.
        energy: There, [B, 1].
        is_open: Who was still on the way after the last step, [B, 1].
        begun: Energy at the start, [B, 1].
    """

    state: State
    energy: Value
    is_open: Value
    begun: Value


def solve_linear(matrix: Value, right: Value, count: int = 1) -> Value:
    """Solutions [B, 85, count] of positive definite matrices and so many right sides.

    Args:
        matrix: With about 1 on the diagonal: a block's own rows come of differences, which cost as
            many digits as its numbers have before the point.
        right: The right sides.
        count: How many.
    """
    graph = matrix.graph
    table, width = graph.concat(2, matrix, right), NUM_STATE + count
    for start, size in BLOCKS:
        width -= size
        parts = np.array([size, width], np.int64)
        columns, table = graph.ops("Split", 2, table, parts, axis=2)
        block, below = columns.cut(1, start, start + size), table.cut(1, start, start + size)
        rows = _inverse(block, size) @ below
        table = table - (columns - np.eye(NUM_STATE)[:, start : start + size]) @ rows
    return table


def scale_to_one(hessian: Value) -> tuple[Value, Value]:
    """1 over the roots of the diagonal [B, 85, 1], and the matrix with 1 on the diagonal."""
    unit = 1.0 / (hessian * np.eye(NUM_STATE)).sum(2, keep=True).fn("Sqrt")
    return unit, hessian * unit * unit.permute(0, 2, 1)


def _inverse(block: Value, size: int) -> Value:
    """Inverses of positive definite blocks [B, size, size]."""
    graph, unit = block.graph, np.eye(size)
    largest = block.fn("Abs").sum(2, keep=True)  # no eigenvalue is above the largest of these
    largest = graph.op("ReduceMax", largest, np.array([1], np.int64), keepdims=1)
    inverse = graph.const(unit) / largest
    for _ in range(ITERATIONS):
        inverse = inverse @ (2 * unit - block @ inverse)
    return inverse


def choose(yes: Value, some: State, other: State) -> State:
    """One of two states for each person; ``yes`` [B, 1]."""
    graph = yes.graph
    wide = yes.widen(2, 3)
    return State(
        graph.where(wide, some.rotmat, other.rotmat),
        graph.where(yes, some.betas, other.betas),
        graph.where(yes, some.cam, other.cam),
    )


def solve(
    problem: Problem, begin: State, active: Value, *, steps: int | Value, tolerance: float
) -> Solution:
    """Minimise from ``begin``; whoever is not ``active`` [B, 1] stays there."""
    graph = active.graph
    first = problem.evaluate(begin)
    damping = first.energy * 0.0 + DAMPING
    start = [*begin, *first, damping, active]
    # A start that has no energy is never left: no step from it is better.
    # One step is made even if nobody is active: OpenVINO has no outputs of a loop without a turn.
    end = graph.loop(steps, start, lambda _, *carried: _step(problem, tolerance, *carried))
    return Solution(State(*end[:3]), end[3], end[-1], first.energy)


def _step(
    problem: Problem,
    tolerance: float,
    rotmat: Value,
    betas: Value,
    cam: Value,
    energy: Value,
    gradient: Value,
    hessian: Value,
    damping: Value,
    active: Value,
) -> tuple[Value, list[Value]]:
    graph, state = energy.graph, State(rotmat, betas, cam)
    # Of the step in units in which H has 1 on the diagonal; lambda times the diagonal is lambda.
    unit, scaled = scale_to_one(hessian)
    slope, strength = gradient * unit, damping.widen(2)
    step = -solve_linear(scaled + strength * np.eye(NUM_STATE), slope)
    promise = (step * (strength * step - slope)).sum(1)
    trial = problem.move(state, (step * unit).reshape(-1, NUM_STATE))
    model = problem.evaluate(trial)
    is_better = (model.energy < energy) & active & (promise > 0.0)
    is_done = ((damping + 1.0) * promise <= energy * tolerance) & ~(promise < 0.0)
    gain = (energy - model.energy) / promise
    factor = graph.where(gain > FAIR_GAIN, FAIR, POOR)
    factor = graph.where(gain > GOOD_GAIN, GOOD, factor)
    factor = graph.where(is_better, factor, FAILED)
    low, high = DAMPING_RANGE
    damping = (damping * factor).at_least(low).at_most(high)
    state = choose(is_better, trial, state)
    wide = is_better.widen(2)
    model = Model(
        graph.where(is_better, model.energy, energy),
        graph.where(wide, model.gradient, gradient),
        graph.where(wide, model.hessian, hessian),
    )
    active = active & ~is_done
    return active.any(), [*state, *model, damping, active]
