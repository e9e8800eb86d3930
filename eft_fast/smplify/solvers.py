"""Minimisers of many people at once. Each person has their own state, step length and stop.

Nobody waits for anybody: a person who is done keeps every bit of their parameters, and one whose
numbers stop being finite keeps the last finite ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.pipeline.fitter import StopRule
from eft_fast.smplify.objective import ALIGNMENT, Evaluation

#: Called with the number of the update and the loss of each person before it.
StepCallback = Callable[[int, Tensor], None]

#: Relative decrease, and largest entry of the gradient, below which L-BFGS and LM stop.
_TOLERANCE: Final = 1e-9
_MEMORY: Final = 10
_HALVINGS: Final = 12
_SUFFICIENT: Final = 1e-4
#: Damping of LM: the first, the factors after success and failure, and where it gives up.
_DAMPING: Final = 1e-3
_EASED, _RAISED, _HOPELESS = 0.3, 5.0, 1e10


class Objective(Protocol):
    """What a solver needs."""

    free: Float[Tensor, " P"]

    def evaluate(self, x: Float[Tensor, "B P"]) -> Evaluation:
        """Value and gradient."""

    def curvature(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B P P"]:
        """Positive semi-definite curvature."""


@dataclass(frozen=True)
class Solution:
    """Where a minimisation ended.

    Attributes:
        x: Parameters.
        loss: Value there.
        steps: Updates of each person.
        converged: Who met a stopping rule before the steps ran out.
        finite: Whose numbers stayed finite.
    """

    x: Float[Tensor, "B P"]
    loss: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]
    converged: Bool[Tensor, " B"]
    finite: Bool[Tensor, " B"]


class _People:
    """Who is still being fitted, and the last finite parameters of everybody."""

    def __init__(self, x: Tensor, first: Evaluation, stop_below: float, steps: int) -> None:
        self.x, self.loss = x, first.loss
        self._rule = StopRule(stop_below, steps)
        self.finite = _is_finite(first)
        self.converged = torch.zeros_like(self.finite)
        self.active = self.finite.clone()
        self.steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def stop_good(self, keypoint: Tensor) -> None:
        """Those whose keypoints fit well enough are done."""
        self.converge(self._rule.has_converged(keypoint))

    def converge(self, who: Tensor) -> None:
        self.converged |= self.active & who
        self.active &= ~who

    def accept(self, who: Tensor, x: Tensor, value: Evaluation) -> None:
        """Take the new parameters of ``who``."""
        self.x = torch.where(who[:, None], x, self.x)
        self.loss = torch.where(who, value.loss, self.loss)
        self.steps += who

    def quarantine(self, who: Tensor) -> None:
        self.finite &= ~who
        self.active &= ~who

    def solution(self) -> Solution:
        return Solution(self.x, self.loss, self.steps, self.converged, self.finite)


def minimise(
    objective: Objective,
    x: Float[Tensor, "B P"],
    *,
    solver: str,
    steps: int,
    lr: float = 1.0,
    stop_below: float = 0.0,
    on_step: StepCallback | None = None,
) -> Solution:
    """Minimise each person's value.

    Args:
        objective: The function; parameters with ``free`` 0 do not move.
        x: Where to begin.
        solver: ``adam``, ``lbfgs`` (Armijo backtracking) or ``lm`` (Levenberg-Marquardt).
        steps: Updates at most.
        lr: Learning rate of Adam; length of the first step of L-BFGS.
        stop_below: A person is done when the objective's ``keypoint`` falls below this; 0: never.
        on_step: Called before each update.

    Raises:
        ValueError: If there is no such solver.
    """
    solvers = {"adam": _adam, "lbfgs": _lbfgs, "lm": _lm}
    if solver not in solvers:
        raise ValueError(f"minimise: solver must be one of {', '.join(solvers)}, got {solver!r}")
    with torch.no_grad():
        value = objective.evaluate(x)
        people = _People(x, value, stop_below, steps)
        people.stop_good(value.keypoint)
        solvers[solver](objective, people, value, steps, lr, on_step or _nothing)
    return people.solution()


def _adam(
    objective: Objective,
    people: _People,
    value: Evaluation,
    steps: int,
    lr: float,
    on_step: StepCallback,
) -> None:
    """Adam with the usual decay rates; who is active has made every update so far."""
    first, second = torch.zeros_like(people.x), torch.zeros_like(people.x)
    for step in range(1, steps + 1):
        on_step(step - 1, people.loss)
        if not bool(people.active.any()):
            return
        gradient = value.gradient
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        x = torch.addcdiv(people.x, first, root, value=-lr / (1 - 0.9**step))
        value = objective.evaluate(x)
        people.quarantine(people.active & ~_is_finite(value))
        people.accept(people.active, x, value)
        people.stop_good(value.keypoint)


def _lbfgs(
    objective: Objective,
    people: _People,
    value: Evaluation,
    steps: int,
    lr: float,
    on_step: StepCallback,
) -> None:
    """L-BFGS with a memory and a step length of each person's own."""
    gradient, keypoint = value.gradient, value.keypoint
    # Pairs of parameter and gradient changes, oldest first; a pair without curvature counts 0.
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(steps):
        on_step(step, people.loss)
        people.converge(gradient.abs().amax(1) < _TOLERANCE)
        if not bool(people.active.any()):
            return
        direction = -_two_loops(gradient, pairs)
        slope = (direction * gradient).sum(1)
        is_descent = (slope < 0) & torch.isfinite(slope)
        direction = torch.where(is_descent[:, None], direction, -gradient)
        slope = torch.where(is_descent, slope, -gradient.square().sum(1))
        length = torch.ones_like(slope)
        if not pairs:
            length = lr * torch.clamp_max(1 / gradient.abs().sum(1).clamp_min(1e-12), 1.0)
        old_x, old_loss = people.x, people.loss
        taken, value = _backtrack(objective, people, direction, slope, length)
        new_gradient = torch.where(taken[:, None], value.gradient, gradient)
        keypoint = torch.where(taken, value.keypoint, keypoint)
        s, y = people.x - old_x, new_gradient - gradient
        curved = (s * y).sum(1)
        keep = taken & (curved > 1e-10 * y.square().sum(1))
        pairs = [*pairs, (s, y, torch.where(keep, 1 / torch.where(keep, curved, 1.0), 0.0))]
        pairs = pairs[-_MEMORY:]
        gradient = new_gradient
        people.converge(~taken | (_relative(old_loss, people.loss) < _TOLERANCE))
        people.stop_good(keypoint)


def _backtrack(
    objective: Objective, people: _People, direction: Tensor, slope: Tensor, length: Tensor
) -> tuple[Tensor, Evaluation]:
    """Halve each person's step until the loss falls enough; returns who moved, and the values."""
    origin, loss = people.x, people.loss
    open_ones, taken = people.active.clone(), torch.zeros_like(people.active)
    best: Evaluation | None = None
    for _ in range(_HALVINGS):
        x = origin + length[:, None] * direction
        value = objective.evaluate(x)
        good = open_ones & _is_finite(value)
        good &= value.loss <= loss + _SUFFICIENT * length * slope
        people.accept(good, x, value)
        best = value if best is None else _merge(good, value, best)
        taken |= good
        open_ones &= ~good
        if not bool(open_ones.any()):
            break
        length = torch.where(open_ones, length / 2, length)
    assert best is not None
    return taken, best


def _two_loops(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The inverse curvature of the remembered pairs times the gradient."""
    q = gradient
    alphas = []
    for s, y, rho in reversed(pairs):
        alpha = rho * (s * q).sum(1)
        q = q - alpha[:, None] * y
        alphas.append(alpha)
    scale = torch.ones_like(gradient[:, 0])
    for _, y, rho in pairs:
        newer = 1 / (rho * y.square().sum(1)).clamp_min(1e-30)
        scale = torch.where(rho > 0, newer, scale)
    q = scale[:, None] * q
    for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = rho * (y * q).sum(1)
        q = q + (alpha - beta)[:, None] * s
    return q


def _lm(
    objective: Objective,
    people: _People,
    value: Evaluation,
    steps: int,
    lr: float,
    on_step: StepCallback,
) -> None:
    """Levenberg-Marquardt: the damping rises where a step fails and falls where it helps."""
    del lr
    damping = torch.full_like(people.loss, _DAMPING)
    current = value
    for step in range(steps):
        on_step(step, people.loss)
        people.converge(current.gradient.abs().amax(1) < _TOLERANCE)
        if not bool(people.active.any()):
            return
        curvature = torch.nan_to_num(objective.curvature(people.x))
        diagonal = curvature.diagonal(dim1=1, dim2=2)
        # A parameter that nothing depends on still needs a pivot.
        diagonal += damping[:, None] * diagonal + 1e-6 * diagonal.amax(1, keepdim=True)
        move, solved = _solve(curvature, torch.nan_to_num(current.gradient))
        x = people.x - move * objective.free
        trial = objective.evaluate(x)
        better = people.active & solved & _is_finite(trial) & (trial.loss < people.loss)
        small = better & (_relative(people.loss, trial.loss) < _TOLERANCE)
        people.accept(better, x, trial)
        current = _merge(better, trial, current)
        damping = torch.where(better, damping * _EASED, damping * _RAISED)
        people.converge(small | (damping > _HOPELESS))
        people.stop_good(current.keypoint)


def _solve(matrix: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Solve positive definite systems; also tells which ones were.

    Rows are padded to whole cache lines: libraries sum in another order where a matrix begins
    elsewhere in a line, and then a person's bits would depend on their place in the batch.
    """
    size = vector.shape[1]
    missing = -size % ALIGNMENT
    matrix = torch.nn.functional.pad(matrix, (0, missing, 0, missing))
    matrix.diagonal(dim1=1, dim2=2)[:, size:] = 1
    right = torch.nn.functional.pad(vector, (0, missing))[..., None]
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.cholesky_solve(right, factor)[:, :size, 0], failed == 0


def _merge(who: Tensor, new: Evaluation, old: Evaluation) -> Evaluation:
    """The new values of ``who``, the old ones of the others."""
    return Evaluation(
        torch.where(who, new.loss, old.loss),
        torch.where(who[:, None], new.gradient, old.gradient),
        torch.where(who, new.keypoint, old.keypoint),
    )


def _is_finite(value: Evaluation) -> Tensor:
    # One sum instead of a look at every entry: whatever is not finite makes it so.
    return torch.isfinite(value.loss + value.gradient.sum(1))


def _relative(old: Tensor, new: Tensor) -> Tensor:
    return (old - new) / old.abs().clamp_min(1e-12)


def _nothing(step: int, loss: Tensor) -> None:
    pass
