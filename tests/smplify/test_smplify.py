"""SMPLify against a plain implementation; starts, turns, stops, neighbours and bad people."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import eft_fast
from eft_fast.geometry.cameras import to_cam_transl
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.losses import priors
from eft_fast.models.base import RegressorOutput
from eft_fast.smplify import objective as obj
from eft_fast.smplify.config import RECIPES, SmplifyConfig, resolve_recipe
from eft_fast.smplify.fit import (
    fit_smplify,
    start_from,
    turn_around,
)
from eft_fast.smplify.prior import load_pose_prior
from eft_fast.smplify.solvers import minimise
from tests.smplify import smplify_reference as reference

TRACE = 20


@pytest.fixture(scope="module")
def body():
    return eft_fast.load_body(dtype=torch.float64)


@pytest.fixture(scope="module")
def plain_body():
    plain = eft_fast.load_body(dtype=torch.float64)
    plain.backend = "torch"
    return plain


@pytest.fixture(scope="module")
def body32():
    return eft_fast.load_body()


def make_people(
    body, count: int = 3, *, turned: float = 0.0, noise: float = 0.01
) -> tuple[RegressorOutput, Tensor]:
    """Answers of a regressor that are off, and keypoints of the true bodies."""
    generator = torch.Generator().manual_seed(11)
    like = body.v_template
    mean = load_pose_prior().mixture.mean_pose()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pose = mean + 0.15 * normal(count, 69)
    orient = torch.zeros(count, 3, dtype=torch.float64)
    orient[:, 0] = math.pi
    orient = turn_around(orient) if turned else orient
    orient = orient + 0.1 * normal(count, 3)
    betas = 0.5 * normal(count, 10)
    points = body.keypoints(
        betas.to(like), pose.to(like), orient.to(like), joint_set="spin49"
    ).double()
    target = 0.75 * points[..., :2] + 0.1 + noise * normal(count, 49, 2)
    confidence = torch.rand(count, 49, 1, generator=generator, dtype=torch.float64)
    confidence = torch.where(confidence < 0.15, 0.0, confidence)
    rotmat = axis_angle_to_matrix(
        torch.cat([orient, pose + 0.1 * normal(count, 69)], 1).reshape(count, 24, 3)
    )
    camera = torch.tensor([0.8, 0.05, 0.08], dtype=torch.float64).expand(count, 3)
    init = RegressorOutput(rotmat.to(like), (betas + 0.3).to(like), camera.to(like).clone())
    return init, torch.cat([target, confidence], -1).to(like)


def begin(recipe, init: RegressorOutput) -> Tensor:
    x = start_from(init)
    if recipe.camera == "perspective":
        x[:, obj.CAMERA] = to_cam_transl(x[:, obj.CAMERA])
    return x


@pytest.mark.parametrize("name", RECIPES)
def test_losses_and_gradients_of_every_stage(name, body, plain_body):
    init, target = make_people(body)
    recipe = resolve_recipe(SmplifyConfig(recipe=name))
    x = begin(recipe, init)
    moved = x + 0.02 * torch.randn_like(x)
    expected = reference.RECIPES[name]
    assert len(recipe.stages) == len(expected.stages)
    for stage, numbers in zip(recipe.stages, expected.stages, strict=True):
        objective = obj.StageObjective(body, load_pose_prior().to(x), recipe, stage, target, x, x)
        got = objective.evaluate(moved)
        for person in range(len(x)):
            at = moved[person].clone().requires_grad_()
            want = reference.loss(expected, numbers, plain_body, target[person], at, x[person, 84])
            (gradient,) = torch.autograd.grad(want, at)
            gradient = gradient * reference.free_parameters(numbers)
            torch.testing.assert_close(got.loss[person], want.detach(), rtol=1e-7, atol=0)
            scale = float(gradient.abs().max())
            torch.testing.assert_close(got.gradient[person], gradient, rtol=1e-6, atol=1e-8 * scale)


def test_a_trusted_start_ties_the_root(body):
    """Prior ``anchor``: the same square as of the body pose, about where the fit began."""
    init, target = make_people(body, 2)
    tied = resolve_recipe(SmplifyConfig(recipe="smplify_tied", prior="anchor", anchor_weight=20.0))
    spin = resolve_recipe(SmplifyConfig(recipe="smplify_spin", prior="anchor", anchor_weight=20.0))
    x = begin(tied, init)
    moved = x + 0.02 * torch.randn_like(x)
    prior = load_pose_prior().to(x)

    def stage_of(root_anchor: float):
        stage = replace(tied.stages[1], root_anchor=root_anchor)
        return obj.StageObjective(body, prior, tied, stage, target, moved, x)

    assert (tied.stages[1].root_anchor, spin.stages[1].root_anchor) == (20.0, 0.0)
    with_root, without = stage_of(20.0), stage_of(0.0)
    turned = moved[:, :3] - x[:, :3]
    more = with_root.evaluate(moved).loss - without.evaluate(moved).loss
    torch.testing.assert_close(more, 400 * turned.square().sum(1), rtol=1e-6, atol=1e-9)
    slope = with_root.evaluate(moved).gradient - without.evaluate(moved).gradient
    torch.testing.assert_close(slope[:, :3], 800 * turned, rtol=1e-6, atol=1e-9)
    assert not slope[:, 3:].any()
    bend = with_root.curvature(moved) - without.curvature(moved)
    want = torch.zeros_like(bend)
    want[:, range(3), range(3)] = 800
    torch.testing.assert_close(bend, want, rtol=0, atol=1e-6)


def test_without_a_start_nothing_is_trusted():
    """From the mean pose somebody has to turn the root."""
    tied, mean = (
        resolve_recipe(SmplifyConfig(recipe="smplify_tied", prior="anchor", start=start))
        for start in (None, "mean")
    )
    assert tied.stages[0].free == ("camera",)
    assert mean.stages[0].free == ("global_orient", "camera")
    assert mean.stages[1].root_anchor == 0


def test_torso_stage_of_a_trusted_start_keeps_the_root(body):
    init, target = make_people(body, 2)
    recipe = resolve_recipe(SmplifyConfig(recipe="smplify_tied"))
    x = begin(recipe, init)
    prior = load_pose_prior().to(x)
    objective = obj.StageObjective(body, prior, recipe, recipe.stages[0], target, x, x)
    end = minimise(objective, x, solver="adam", steps=10, lr=1e-2).x
    assert torch.equal(end[:, :82], x[:, :82])
    assert not torch.equal(end[:, 82:], x[:, 82:])


@pytest.mark.parametrize("name", RECIPES)
def test_traces_of_every_recipe(name, body, plain_body):
    """Twenty updates of each stage, one stage after the other."""
    init, target = make_people(body, 2)
    traces: dict[int, list[Tensor]] = {}
    config = SmplifyConfig(
        recipe=name, solver="adam", lr=1e-2, max_steps=TRACE, start="regressor", threshold=0.0
    )
    recipe = resolve_recipe(config)
    assert not obj.has_openpose_torso(target).all()
    fits = fit_smplify(
        body, init, target, config=config,
        on_step=lambda stage, step, loss: traces.setdefault(stage, []).append(loss[:2]),
    )  # fmt: skip
    x = begin(recipe, init)
    for person in range(2):
        if fits.turned[person]:
            continue
        want, end = reference.adam_traces(
            reference.RECIPES[name], plain_body, target[person], x[person], TRACE
        )
        for stage, losses in enumerate(want):
            got = torch.stack(traces[stage])[:, person]
            np.testing.assert_allclose(got.numpy(), losses, rtol=1e-4)
        rotmat = axis_angle_to_matrix(end[:72].reshape(24, 3))
        torch.testing.assert_close(fits.final.pred_rotmat[person], rotmat, rtol=0, atol=1e-5)
    assert not fits.turned.any()


def test_levenberg_marquardt_trace_of_2016(body, plain_body):
    init, target = make_people(body, 1)
    recipe = resolve_recipe(SmplifyConfig(recipe="smplify2016"))
    x = begin(recipe, init)
    for number in (0, 4):
        stage = recipe.stages[number]
        objective = obj.StageObjective(body, load_pose_prior().to(x), recipe, stage, target, x, x)
        trace: list[Tensor] = []

        def keep(step: int, loss: Tensor, trace: list[Tensor] = trace) -> None:
            trace.append(loss)

        minimise(objective, x, solver="lm", steps=6, on_step=keep)
        expected = reference.RECIPES["smplify2016"]
        for person in range(1):
            want = reference.lm_trace(
                expected, expected.stages[number], plain_body, target[person], x[person], 6
            )
            got = torch.stack(trace)[:, person].tolist()
            np.testing.assert_allclose(got, want[: len(got)], rtol=1e-4)
            assert got[-1] < 0.5 * got[0] or number == 4


@pytest.mark.parametrize("name", ["smplify2016", "smplify_eft_baseline"])
def test_curvature_is_that_of_the_residuals(name, body, plain_body):
    """Pinhole and weak camera, torso and body, against a Jacobian of autograd."""
    init, target = make_people(body, 1)
    recipe = resolve_recipe(SmplifyConfig(recipe=name))
    x = begin(recipe, init)
    expected = reference.RECIPES[name]
    for number in (0, len(recipe.stages) - 1):
        numbers = expected.stages[number]
        objective = obj.StageObjective(
            body, load_pose_prior().to(x), recipe, recipe.stages[number], target, x, x
        )
        free = reference.free_parameters(numbers).bool()
        jacobian = torch.autograd.functional.jacobian(
            lambda at, numbers=numbers: reference.residuals(
                expected, numbers, plain_body, target[0], at, x[0, 84]
            ),
            x[0],
        )
        want = 2 * (jacobian.T @ jacobian)[free][:, free]
        got = objective.curvature(x)[0]
        torch.testing.assert_close(
            got[free][:, free], want, rtol=1e-6, atol=1e-9 * float(want.max())
        )
        assert torch.equal(got[~free][:, ~free], torch.eye(int((~free).sum())).double())


def last_stage(prior: str, **options) -> obj.Stage:
    return resolve_recipe(SmplifyConfig(prior=prior, **options)).stages[-1]


def test_priors_are_what_their_names_say(body):
    full = last_stage("gmm")
    assert (full.pose, full.shape, full.angle, full.limits, full.anchor) == (4.78, 5, 15.2, 0, 0)
    assert last_stage("angle_off") == replace(full, angle=0.0)
    assert last_stage("none") == replace(full, pose=0.0, shape=0.0, angle=0.0)
    assert last_stage("limits") == replace(full, pose=0.0, angle=0.0, limits=5.0)
    anchored = last_stage("anchor", anchor_weight=7.0)
    assert anchored == replace(full, pose=0.0, shape=0.0, angle=0.0, anchor=7.0)
    init, target = make_people(body)
    recipe = resolve_recipe(SmplifyConfig())
    x = begin(recipe, init)
    other = x + 0.1
    prior = load_pose_prior().to(x)

    def value(stage: obj.Stage, anchor: Tensor = x) -> Tensor:
        made = obj.StageObjective(body, prior, recipe, stage, target, x, anchor)
        return made.evaluate(other).loss

    bare = value(last_stage("none"))
    moved = other[:, 3:72] - x[:, 3:72], other[:, 72:82] - x[:, 72:82]
    torch.testing.assert_close(
        value(anchored) - bare, 49 * sum(part.square().sum(1) for part in moved)
    )
    limits = 25 * priors.limits_loss(prior.limits, other[:, 3:72])
    shape = 25 * priors.shape_loss(other[:, 72:82])
    torch.testing.assert_close(value(last_stage("limits")) - bare, limits + shape)
    torch.testing.assert_close(
        value(full) - value(last_stage("angle_off")), 15.2**2 * priors.angle_loss(other[:, 3:72])
    )


@pytest.mark.parametrize("prior", ["limits", "anchor"])
def test_gradients_of_the_other_priors(prior, body):
    init, target = make_people(body, 2)
    recipe = resolve_recipe(SmplifyConfig(prior=prior))
    x = begin(recipe, init)
    objective = obj.StageObjective(
        body, load_pose_prior().to(x), recipe, recipe.stages[-1], target, x, x
    )
    at = x + 0.05
    got = objective.evaluate(at).gradient
    for place in (0, 5, 12, 60, 75):
        step = torch.zeros_like(x)
        step[:, place] = 1e-6
        high, low = objective.evaluate(at + step).loss, objective.evaluate(at - step).loss
        torch.testing.assert_close(got[:, place], (high - low) / 2e-6, rtol=1e-4, atol=1e-3)


def test_strict_mode_holds_the_weak_camera(body):
    """The reference's term of 100^2 lands on t_y of the weak camera; strict mode repeats it."""
    assert resolve_recipe(SmplifyConfig(recipe="smplify_eft_baseline")).stages[0].depth == 0
    strict = SmplifyConfig(recipe="smplify_eft_baseline", strict_reference=True, max_steps=30)
    init, target = make_people(body)
    free = replace(strict, strict_reference=False)
    held = fit_smplify(body, init, target, config=strict).final.pred_cam
    loose = fit_smplify(body, init, target, config=free).final.pred_cam
    start = init.pred_cam[:, 2]
    assert ((held[:, 2] - start).abs() < 0.2 * (loose[:, 2] - start).abs()).all()


def fields(fits) -> list[Tensor]:
    return [*fits.final, fits.loss, fits.init_loss, fits.keypoint, fits.steps, fits.converged]


def pick(init: RegressorOutput, rows) -> RegressorOutput:
    return RegressorOutput(*(part[rows] for part in init))


@pytest.mark.parametrize("name", RECIPES)
def test_batch_equals_loop(name, body32):
    """Bit for bit, in float32, whoever else is fitted."""
    init, target = make_people(body32, 5)
    config = SmplifyConfig(recipe=name, max_steps=6)
    together = fit_smplify(body32, init, target, config=config)
    for person in range(5):
        one = slice(person, person + 1)
        alone = fit_smplify(body32, pick(init, one), target[one], config=config)
        for some, own in zip(fields(together), fields(alone), strict=True):
            assert torch.equal(some[one], own)


@pytest.mark.parametrize("name", RECIPES)
def test_nan_stays_with_its_person(name, body32):
    init, target = make_people(body32, 4)
    bad = RegressorOutput(*(part.clone() for part in init))
    bad.pred_betas[1, 3] = float("nan")
    config = SmplifyConfig(recipe=name, start="regressor", max_steps=6)
    expected = fit_smplify(body32, init, target, config=config)
    got = fit_smplify(body32, bad, target, config=config)
    assert got.finite.tolist() == [True, False, True, True]
    others = [0, 2, 3]
    for want, have in zip(fields(expected), fields(got), strict=True):
        assert torch.equal(want[others], have[others])


def test_a_person_without_labels_costs_nothing(body32):
    init, target = make_people(body32, 2)
    target[1] = float("nan")
    target[1, :, 2] = 0
    fits = fit_smplify(body32, init, target, config=SmplifyConfig(max_steps=3))
    assert fits.finite.all()
    assert fits.keypoint[1] == 0


def test_the_callers_keypoints_keep_every_bit(body32):
    """The reference zeroes the ignored joints' confidence in the caller's tensor."""
    init, target = make_people(body32)
    before = target.clone()
    fit_smplify(body32, init, target, config=SmplifyConfig(max_steps=2))
    assert torch.equal(target, before)


def test_stop_rule_is_each_persons_own(body32):
    init, target = make_people(body32, 4, noise=0.0)
    config = SmplifyConfig(recipe="smplify_eft_baseline", prior="none")
    free = fit_smplify(body32, init, target, config=replace(config, threshold=0.0))
    assert free.steps.tolist() == [200] * 4
    stopped = fit_smplify(body32, init, target, config=config)
    assert stopped.converged.all()
    assert (stopped.keypoint < 2.0).all()
    assert (stopped.steps < 200).all()
    assert len(set(stopped.steps.tolist())) > 1
    assert (stopped.keypoint > free.keypoint).all()


def test_frozen_parameters_keep_every_bit(body32):
    init, target = make_people(body32, 2)
    recipe = resolve_recipe(SmplifyConfig())
    x = begin(recipe, init)
    for solver in ("adam", "lbfgs", "lm"):
        for stage in recipe.stages:
            objective = obj.StageObjective(
                body32, load_pose_prior().to(x), recipe, stage, target, x, x
            )
            end = minimise(objective, x, solver=solver, steps=4, lr=1e-2).x
            frozen = objective.free == 0
            assert torch.equal(end[:, frozen], x[:, frozen])
            assert (end[:, ~frozen] != x[:, ~frozen]).any()
