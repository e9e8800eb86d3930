"""Minimisers of many people against known minima and against scipy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eft_fast.smplify.objective import Evaluation
from eft_fast.smplify.solvers import minimise

SOLVERS = ("adam", "lbfgs", "lm")


class Valleys:
    """Rosenbrock's function of each person, scaled by their own steepness."""

    def __init__(self, steepness: Tensor, *, frozen: bool = False) -> None:
        self.steepness = steepness
        self.free = torch.tensor([1.0, 0.0 if frozen else 1.0]).double()

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.steepness * (x[:, 1] - x[:, 0] ** 2)
        jacobian = torch.zeros(len(x), 2, 2, dtype=x.dtype)
        jacobian[:, 0, 0], jacobian[:, 0, 1] = -2 * self.steepness * x[:, 0], self.steepness
        jacobian[:, 1, 0] = -1
        return torch.stack([a, 1 - x[:, 0]], 1), jacobian

    def evaluate(self, x: Tensor) -> Evaluation:
        r, jacobian = self.residuals(x)
        gradient = 2 * (jacobian.transpose(1, 2) @ r[..., None])[..., 0] * self.free
        loss = r.square().sum(1)
        return Evaluation(loss, gradient, loss)

    def curvature(self, x: Tensor) -> Tensor:
        _, jacobian = self.residuals(x)
        total = 2 * jacobian.transpose(1, 2) @ jacobian
        return total * self.free * self.free[:, None] + (1 - self.free).diag()


def start() -> Tensor:
    return torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, -1.0]]).double()


STEEPNESS = torch.tensor([10.0, 3.0, 5.0]).double()


@pytest.mark.parametrize(("solver", "steps"), [("lbfgs", 200), ("lm", 100), ("adam", 6000)])
def test_everybody_reaches_the_minimum(solver, steps):
    found = minimise(Valleys(STEEPNESS), start(), solver=solver, steps=steps, lr=0.01)
    tolerance = 0.1 if solver == "adam" else 1e-4
    torch.testing.assert_close(found.x, torch.ones(3, 2).double(), rtol=0, atol=tolerance)
    assert found.finite.all()
    if solver != "adam":
        assert found.converged.all()
        assert len(set(found.steps.tolist())) > 1


def test_lbfgs_needs_about_as_many_steps_as_scipy():
    scipy = pytest.importorskip("scipy.optimize")
    valleys = Valleys(STEEPNESS[:1])

    def value(x):
        got = valleys.evaluate(torch.from_numpy(x)[None])
        return float(got.loss), got.gradient[0].numpy()

    theirs = scipy.minimize(value, start()[0].numpy(), jac=True, method="L-BFGS-B")
    ours = minimise(valleys, start()[:1], solver="lbfgs", steps=200, lr=1.0)
    assert float(ours.loss) < 1e-8
    assert int(ours.steps) < 2 * theirs.nit


@pytest.mark.parametrize("solver", SOLVERS)
def test_nobody_depends_on_the_others(solver):
    together = minimise(Valleys(STEEPNESS), start(), solver=solver, steps=15, lr=0.01)
    for person in range(3):
        one = slice(person, person + 1)
        alone = minimise(Valleys(STEEPNESS[one]), start()[one], solver=solver, steps=15, lr=0.01)
        assert torch.equal(alone.x, together.x[one])
        assert torch.equal(alone.steps, together.steps[one])


@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_people_stop_and_keep_their_place(solver):
    x = start()
    x[1, 0] = float("nan")
    found = minimise(Valleys(STEEPNESS), x, solver=solver, steps=5, lr=0.01)
    assert found.finite.tolist() == [True, False, True]
    assert found.steps[1] == 0
    assert torch.equal(found.x[1].isnan(), torch.tensor([True, False]))
    assert torch.isfinite(found.x[[0, 2]]).all()


class Cliff(Valleys):
    """Not a number as soon as somebody moves past 1.5."""

    def evaluate(self, x: Tensor) -> Evaluation:
        value = super().evaluate(x)
        loss = torch.where(x[:, 0] > 1.5, float("nan"), value.loss - 10 * x[:, 0])
        gradient = value.gradient.clone()
        gradient[:, 0] -= 10
        return Evaluation(loss, gradient * self.free, loss)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_to_nowhere_is_not_taken(solver):
    begin = torch.tensor([[1.4, 2.0]]).double()
    found = minimise(Cliff(STEEPNESS[:1]), begin, solver=solver, steps=60, lr=0.05)
    assert torch.isfinite(found.x).all()
    assert torch.isfinite(found.loss).all()
    assert float(found.x[0, 0]) <= 1.5
    assert found.finite.all() == (solver != "adam")


@pytest.mark.parametrize("solver", SOLVERS)
def test_frozen_parameters_do_not_move(solver):
    begin = start()
    found = minimise(Valleys(STEEPNESS, frozen=True), begin, solver=solver, steps=20, lr=0.01)
    assert torch.equal(found.x[:, 1], begin[:, 1])
    assert (found.x[:, 0] != begin[:, 0]).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_stop_rule(solver):
    found = minimise(Valleys(STEEPNESS), start(), solver=solver, steps=500, lr=0.05, stop_below=0.9)
    assert found.converged.all()
    assert (found.loss < 0.9).all()
    met = minimise(Valleys(STEEPNESS), start(), solver=solver, steps=5, stop_below=1e9)
    assert met.steps.tolist() == [0, 0, 0]
    assert torch.equal(met.x, start())


@pytest.mark.parametrize("solver", SOLVERS)
def test_nobody_at_all(solver):
    found = minimise(Valleys(STEEPNESS[:0]), start()[:0], solver=solver, steps=3)
    assert found.x.shape == (0, 2)


def test_callback_sees_the_losses_before_each_update():
    seen: list[tuple[int, Tensor]] = []
    valleys = Valleys(STEEPNESS)
    minimise(
        valleys, start(), solver="lm", steps=3, on_step=lambda step, loss: seen.append((step, loss))
    )
    assert [step for step, _ in seen] == [0, 1, 2]
    assert torch.equal(seen[0][1], valleys.evaluate(start()).loss)


def test_unknown_solver():
    with pytest.raises(ValueError, match="solver must be one of adam, lbfgs, lm, got 'sgd'"):
        minimise(Valleys(STEEPNESS), start(), solver="sgd", steps=1)
