"""Priors against their formulas written out in numpy, and closed forms against autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from eft_fast.losses import priors


def make_arrays(dims: int, count: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(dims)
    means = 0.3 * rng.normal(size=(count, dims))
    mixing = rng.normal(size=(count, dims, dims))
    covars = 0.02 * mixing @ mixing.transpose(0, 2, 1) / dims + 0.01 * np.eye(dims)
    covars *= np.arange(1, count + 1)[:, None, None]
    return means, covars, np.array([0.1, 0.4, 0.3, 0.2][:count])


def make_pose(people: int = 7) -> Tensor:
    return 0.4 * torch.randn(people, 69, dtype=torch.float64)


@pytest.mark.parametrize("dims", [63, 69])
def test_mixture_is_the_published_formula(dims):
    means, covars, weights = make_arrays(dims)
    pose = make_pose()
    root = np.sqrt(np.linalg.det(covars))
    scale = weights / ((2 * math.pi) ** (dims / 2) * root / root.min())
    expected = [
        min(
            0.5 * (p - m) @ np.linalg.inv(c) @ (p - m) - math.log(s)
            for m, c, s in zip(means, covars, scale, strict=True)
        )
        for p in pose[:, :dims].numpy()
    ]
    prior = priors.make_mixture(means, covars, weights)
    torch.testing.assert_close(priors.mixture_loss(prior, pose), torch.tensor(expected))
    nearest = torch.zeros(1, 69, dtype=torch.float64)
    nearest[:, :dims] = torch.from_numpy(means[2])
    assert priors.mixture_winner(prior, nearest).item() == 2


def closed_forms() -> dict[str, tuple]:
    prior = priors.make_mixture(*make_arrays(63))
    limits = priors.JointLimits(
        -0.3 * torch.ones(69, dtype=torch.float64), 0.2 * torch.ones(69, dtype=torch.float64)
    )
    return {
        "mixture": (
            lambda pose: priors.mixture_loss(prior, pose),
            lambda pose: priors.mixture_term(prior, pose),
            lambda pose: priors.mixture_curvature(prior, pose),
        ),
        "angle": (priors.angle_loss, priors.angle_term, priors.angle_curvature),
        "limits": (
            lambda pose: priors.limits_loss(limits, pose),
            lambda pose: priors.limits_term(limits, pose),
            lambda pose: priors.limits_curvature(limits, pose),
        ),
    }


@pytest.mark.parametrize("name", ["mixture", "angle", "limits"])
def test_closed_forms_match_autograd(name):
    loss, term, _ = closed_forms()[name]
    pose = make_pose().requires_grad_()
    value = loss(pose)
    (gradient,) = torch.autograd.grad(value.sum(), pose)
    got = term(pose.detach())
    torch.testing.assert_close(got.loss, value.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.gradient, gradient, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(loss, make_pose(2).requires_grad_())


def test_curvature_of_the_mixture_is_exact():
    """The winner is a quadratic, so its Gauss-Newton curvature is its second derivative."""
    prior = priors.make_mixture(*make_arrays(63))
    pose = make_pose(1)
    hessian = torch.autograd.functional.hessian(
        lambda p: priors.mixture_loss(prior, p).sum(), pose
    )[0, :63, 0, :63]
    torch.testing.assert_close(priors.mixture_curvature(prior, pose)[0, :63, :63], hessian)


def angle_residuals(pose: Tensor) -> Tensor:
    return torch.stack([pose[52].exp(), (-pose[55]).exp(), (-pose[9]).exp(), (-pose[12]).exp()])


def limits_residuals(pose: Tensor) -> Tensor:
    ends = torch.cat([pose - 0.2, -0.3 - pose]) / 0.05
    return torch.nn.functional.softplus(ends)


@pytest.mark.parametrize(
    ("name", "residuals"), [("angle", angle_residuals), ("limits", limits_residuals)]
)
def test_diagonal_curvature_is_gauss_newton(name, residuals):
    """E = sum r^2 gives 2 J^T J."""
    pose = make_pose(1)
    jacobian = torch.autograd.functional.jacobian(residuals, pose[0])
    loss, _, diagonal = closed_forms()[name]
    torch.testing.assert_close(loss(pose)[0], residuals(pose[0]).square().sum())
    curvature = 2 * jacobian.T @ jacobian
    torch.testing.assert_close(diagonal(pose)[0], curvature.diagonal())
    assert not (curvature - curvature.diag().diag()).any()


def test_bending_signs_punish_overstretching():
    """Knees flex to +x, the left elbow to -y and the right one to +y."""
    rest = priors.angle_loss(torch.zeros(1, 69)).item()
    assert rest == pytest.approx(4.0)
    for joint, axis, flexed in ((4, 0, 1.0), (5, 0, 1.0), (18, 1, -1.0), (19, 1, 1.0)):
        for turn in (-0.5, 0.5):
            pose = torch.zeros(1, 69)
            pose[0, 3 * (joint - 1) + axis] = turn * flexed
            assert (priors.angle_loss(pose).item() < rest) == (turn > 0)


def test_limits_count_what_is_outside():
    limits = priors.JointLimits(-torch.ones(69), torch.ones(69))
    pose = torch.zeros(2, 69)
    pose[1, 3], pose[1, 4] = 1.2, -1.5
    torch.testing.assert_close(priors.limits_exceeded(limits, pose), torch.tensor([0, 2 / 69]))
    inside, outside = priors.limits_loss(limits, pose)
    assert inside < 1e-10
    # Far outside, softplus is the excess itself.
    assert outside.item() == pytest.approx((0.2 / 0.05) ** 2 + (0.5 / 0.05) ** 2, rel=0.02)


def test_shape_and_anchor_are_sums_of_squares():
    betas = torch.randn(3, 10)
    torch.testing.assert_close(priors.shape_loss(betas), (betas**2).sum(1))
    start = torch.randn(3, 10)
    torch.testing.assert_close(priors.anchor_loss(betas, start), ((betas - start) ** 2).sum(1))


@pytest.mark.parametrize("people", [1, 2, 31, 33, 200])
def test_no_bit_depends_on_the_others(people):
    prior = priors.make_mixture(*make_arrays(63)).to(torch.zeros(0))
    pose = make_pose(257).float()
    everybody, some = priors.mixture_term(prior, pose), priors.mixture_term(prior, pose[-people:])
    assert torch.equal(everybody.loss[-people:], some.loss)
    assert torch.equal(everybody.gradient[-people:], some.gradient)


def test_mean_pose_is_weighted():
    means, covars, weights = make_arrays(63)
    mean = priors.make_mixture(means, covars, weights).mean_pose()
    assert mean.shape == (69,)
    np.testing.assert_allclose(mean[:63], weights @ means)
    assert not mean[63:].any()


def test_wrong_input_is_refused():
    means, covars, weights = make_arrays(63)
    with pytest.raises(ValueError, match=r"means must be \[M, 63\] or"):
        priors.make_mixture(means[:, :60], covars, weights)
    with pytest.raises(ValueError, match="covars must be"):
        priors.make_mixture(means, covars[:, :60], weights)
    with pytest.raises(ValueError, match="positive definite"):
        priors.make_mixture(means, -covars, weights)
    with pytest.raises(ValueError, match="positive weights"):
        priors.make_mixture(means, covars, 0 * weights)
    prior = priors.make_mixture(means, covars, weights)
    for call in (
        lambda pose: priors.mixture_loss(prior, pose),
        priors.angle_loss,
        lambda pose: priors.limits_loss(priors.JointLimits(pose, pose), pose),
    ):
        with pytest.raises(ValueError, match=r"body_pose must be \[B, 69\]"):
            call(torch.zeros(2, 63))
