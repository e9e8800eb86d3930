"""The one-call loss of EFT equals the long way, value and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eft_fast.body.model_io import load_arrays
from eft_fast.body.smpl import Smpl
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.losses.keypoints import eft_loss
from eft_fast.losses.native import native_eft_loss
from eft_fast.losses.weights import EftLossWeights

WEIGHTS = {
    "the reference's": EftLossWeights(),
    "all keypoints": EftLossWeights(openpose=0.7, gt=0.9, with_hips=True, with_ankles=True),
    "strong terms": EftLossWeights(keypoint=2.0, beta=0.3, camera=0.4, leg=0.6, total=3.0),
}


@pytest.fixture(scope="module")
def body() -> Smpl:
    return Smpl(load_arrays("open"), dtype=torch.float64)


def make_case(people: int, dtype: torch.dtype = torch.float64):
    """Betas, rotations and camera, then keypoints and pinholes."""
    generator = torch.Generator().manual_seed(people)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    camera = torch.tensor([0.9, 0.05, -0.1], dtype=torch.float64) + 0.05 * normal(people, 3)
    inputs = [normal(people, 10), axis_angle_to_matrix(0.4 * normal(people, 24, 3)), camera]
    keypoints = normal(people, 49, 3) * 0.5
    keypoints[..., 2] = keypoints[..., 2].abs().clamp(max=1)
    keypoints[:, ::6, 2] = 0
    keypoints[:, ::6, :2] = torch.nan
    pinhole = torch.tensor([[9.0, 0, 0.2], [0, 9.5, -0.1], [0, 0, 1]], dtype=torch.float64)
    values = [*inputs, keypoints, pinhole.expand(people, 3, 3).clone()]
    return [value.to(dtype) for value in values]


def long_way(body: Smpl, inputs, keypoints, weights, intrinsics):
    betas, rotmat, camera = inputs
    points = body.keypoints(betas, rotmat[:, 1:], rotmat[:, :1], joint_set="spin49", pose2rot=False)
    terms = eft_loss(points, betas, camera, keypoints, weights, intrinsics=intrinsics)
    return terms.total, terms.keypoint


@pytest.mark.parametrize("with_pinhole", [False, True])
@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("people", [0, 1, 5])
def test_equals_the_long_way(body, people, name, backend, with_pinhole):
    *inputs, keypoints, pinhole = make_case(people)
    inputs = [value.requires_grad_() for value in inputs]
    intrinsics = pinhole if with_pinhole else None
    want, want_term = long_way(body, inputs, keypoints, WEIGHTS[name], intrinsics)
    plan = body.points_plan("spin49")
    got, term = native_eft_loss(
        plan, *inputs, keypoints, WEIGHTS[name], intrinsics=intrinsics, backend=backend
    )
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(term, want_term, rtol=1e-11, atol=1e-11)
    assert not term.requires_grad
    factor = torch.arange(1.0, people + 1, dtype=torch.float64)
    grads = torch.autograd.grad((got * factor).sum(), inputs)
    expected = torch.autograd.grad((want * factor).sum(), inputs)
    torch.testing.assert_close(grads, expected, rtol=1e-10, atol=1e-10)
    if people:
        assert all((gradient != 0).any() for gradient in grads)


def test_float32_is_as_exact_as_the_long_way(body):
    *inputs, keypoints, _ = make_case(4)
    exact, _ = long_way(body, inputs, keypoints, EftLossWeights(), None)
    plan = body.points_plan("spin49").to(dtype=torch.float32)
    single = [value.float() for value in (*inputs, keypoints)]
    got, _ = native_eft_loss(plan, *single)
    torch.testing.assert_close(got, exact.float(), rtol=1e-5, atol=1e-5)


def test_each_weight_counts(body):
    """A term that the call forgets is noticed."""
    *inputs, keypoints, _ = make_case(2)
    plan = body.points_plan("spin49")
    base = EftLossWeights()
    values = [native_eft_loss(plan, *inputs, keypoints, base)[0]]
    for change in ({"keypoint": 6.0}, {"beta": 1.0}, {"camera": 9.0}, {"leg": 1.0}, {"total": 1.0}):
        values.append(native_eft_loss(plan, *inputs, keypoints, replace(base, **change))[0])
    assert len({round(float(value[0]), 9) for value in values}) == len(values)


def test_keypoints_are_not_changed(body):
    *inputs, keypoints, _ = make_case(2)
    before = keypoints.clone()
    native_eft_loss(body.points_plan("spin49"), *inputs, keypoints)
    assert torch.equal(keypoints.nan_to_num(), before.nan_to_num())


def test_a_labelled_keypoint_that_is_not_finite_spoils_its_person_alone(body):
    *inputs, keypoints, _ = make_case(3)
    plan = body.points_plan("spin49")
    clean, _ = native_eft_loss(plan, *inputs, keypoints)
    for value in (torch.nan, torch.inf):
        for place in (1, 40):  # Of the block that counts 0, and of the other.
            broken = keypoints.clone()
            broken[1, place] = torch.tensor([value, 0.1, 1.0])
            loss, _ = native_eft_loss(plan, *inputs, broken)
            want, _ = long_way(body, inputs, broken, EftLossWeights(), None)
            assert torch.equal(loss.isfinite(), want.isfinite())
            assert not loss[1].isfinite()
            assert torch.equal(loss[[0, 2]], clean[[0, 2]])
