"""Levenberg-Marquardt of every person on its own; as ``ops.map_reference.solve``, in numpy."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final

import numpy as np

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
from eft_fast.serving.fitting.energy import Model, Problem, State

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int

_DIAGONAL: Final = np.arange(NUM_STATE)


@dataclass(frozen=True, eq=False)
class Solution:
    """What ``solve`` found for each person; fields as of ``ops.map_reference.MapSolution``.

    Attributes:
        state: Where the energy is lowest.
        energy: E there.
        data: Its part from keypoints.
        steps: Solves that were made.
        converged: Whether the last model promised less than the tolerance.
        finite: False: the energy of the start is not finite, and the answer is that start.
    """

    state: State
    energy: Float64[np.ndarray, " B"]
    data: Float64[np.ndarray, " B"]
    steps: Int[np.ndarray, " B"]
    converged: Bool[np.ndarray, " B"]
    finite: Bool[np.ndarray, " B"]

    def take(self, rows: np.ndarray) -> Solution:
        """The same of some people."""
        return Solution(
            self.state.take(rows), *(getattr(self, item.name)[rows] for item in fields(self)[1:])
        )

    def put(self, rows: np.ndarray, part: Solution) -> Solution:
        """Everybody, with others for some."""
        whole = replace(self, state=State(*(values.copy() for values in self.state)))
        for mine, other in zip(whole.state, part.state, strict=True):
            mine[rows] = other
        for item in fields(self)[1:]:
            values = getattr(self, item.name).copy()
            values[rows] = getattr(part, item.name)
            object.__setattr__(whole, item.name, values)
        return whole

    def choose(self, yes: Bool[np.ndarray, " B"], other: Solution) -> Solution:
        """The other solution of who says yes; the solves of both count for everybody."""
        rows = np.flatnonzero(yes)
        steps = self.steps + other.steps
        return replace(self.put(rows, other.take(rows)), steps=steps)


def solve(
    problem: Problem,
    *,
    begin: State | None = None,
    steps: int,
    tolerance: float,
) -> Solution:
    """Minimise E of each person from ``begin``, or from the centre.

    A better energy is kept, a worse one raises the damping. Who is done leaves the batch. The
    promise of a step falls with the damping alone, so (1 + damping) times the promise is what is
    compared with the tolerance.
    """
    with np.errstate(all="ignore"):
        return _solve(problem, problem.centre if begin is None else begin, steps, tolerance)


def _solve(problem: Problem, begin: State, steps: int, tolerance: float) -> Solution:
    people = len(problem)
    trial = problem.try_state(begin)
    answer = Solution(
        State(*(part.copy() for part in begin)),
        trial.energy.copy(),
        trial.data.copy(),
        np.zeros(people, np.int64),
        np.zeros(people, bool),
        np.isfinite(trial.energy),
    )
    active = np.flatnonzero(answer.finite)
    if not len(active) or steps == 0:
        return answer
    if len(active) < people:
        problem, trial = problem.take(active), trial.take(active)
    state, energy, data, model = trial.state, trial.energy, trial.data, problem.model(trial)
    damping = np.full(len(active), DAMPING)
    for made in range(1, steps + 1):
        step, promise = _solve_damped(model, damping)
        trial = problem.try_state(problem.move(state, step))
        is_better = np.isfinite(trial.energy) & (trial.energy < energy)
        is_done = (1 + damping) * promise <= tolerance * energy
        damping = _next_damping(damping, is_better, (energy - trial.energy) / promise)
        goes_on = ~is_done if made < steps else np.zeros_like(is_done)
        if is_better.all():
            state, energy, data = trial.state, trial.energy, trial.data
        else:
            state = State(
                *(_pick(is_better, *pair) for pair in zip(trial.state, state, strict=True))
            )
            energy = np.where(is_better, trial.energy, energy)
            data = np.where(is_better, trial.data, data)
        if not goes_on.all():
            done = np.flatnonzero(~goes_on)
            rows = active[done]
            for whole, part in zip(answer.state, state, strict=True):
                whole[rows] = part[done]
            answer.energy[rows], answer.data[rows] = energy[done], data[done]
            answer.steps[rows], answer.converged[rows] = made, is_done[done]
            left = np.flatnonzero(goes_on)
            if not len(left):
                break
            active, problem, trial = active[left], problem.take(left), trial.take(left)
            state, energy, data = state.take(left), energy[left], data[left]
            model = Model(model.gradient[left], model.hessian[left])
            damping, is_better = damping[left], is_better[left]
        if is_better.all():
            model = problem.model(trial)
        elif is_better.any():
            rows = np.flatnonzero(is_better)
            new = problem.take(rows).model(trial.take(rows))
            model.gradient[rows], model.hessian[rows] = new
    return answer


def _solve_damped(model: Model, damping: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The step of (H + damping diag H) d = -g, and what the model promises E to fall by.

    H is positive definite: the precision is (``asset`` refuses another), and no singular value of
    J_r^-1 is below 1 up to half a turn. Where rounding says otherwise the step is NaN, which fails.
    """
    diagonal = model.hessian[:, _DIAGONAL, _DIAGONAL]
    damped = model.hessian.copy()
    damped[:, _DIAGONAL, _DIAGONAL] += damping[:, None] * diagonal
    step = -_solve_linear(damped, model.gradient[..., None])[..., 0]
    along = (model.gradient * step).sum(1)
    promise = damping * (diagonal * step * step).sum(1) - along
    is_descent = promise > 0
    return np.where(is_descent[:, None], step, np.nan), np.where(is_descent, promise, np.nan)


def _solve_linear(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions; NaN for a singular matrix, which costs nobody else theirs."""
    try:
        return np.linalg.solve(matrices, right)
    except np.linalg.LinAlgError:
        solutions = np.full_like(right, np.nan)
        for row in range(len(matrices) if len(matrices) > 1 else 0):
            one = slice(row, row + 1)
            solutions[one] = _solve_linear(matrices[one], right[one])
        return solutions


def _pick(yes: np.ndarray, some: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.where(yes.reshape(len(yes), *(1,) * (some.ndim - 1)), some, other)


def _next_damping(damping: np.ndarray, is_better: np.ndarray, gain: np.ndarray) -> np.ndarray:
    factor = np.where(gain > FAIR_GAIN, FAIR, POOR)
    factor = np.where(gain > GOOD_GAIN, GOOD, factor)
    return np.asarray(np.clip(damping * np.where(is_better, factor, FAILED), *DAMPING_RANGE))
