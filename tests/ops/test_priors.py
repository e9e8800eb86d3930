"""The native priors against their closed forms, which tests/losses derives; bits and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eft_fast import ops
from eft_fast.losses import priors
from eft_fast.losses.priors import PriorWeights, prior_gradients
from eft_fast.smplify.prior import load_pose_prior

ALL = PriorWeights(pose=22.8, angle=231.0, limits=25.0, shape=4.0, anchor=9.0)
ALONE = [PriorWeights(**{name: 2.0}) for name in ("pose", "angle", "limits", "shape", "anchor")]
TYPES = [torch.float32, torch.float64]


def make_people(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Poses about several Gaussians' centres, so that winners differ, some beyond the limits."""
    generator = torch.Generator().manual_seed(count)
    means = load_pose_prior().mixture.means
    pose = 0.3 * torch.randn(count, 69, generator=generator, dtype=torch.float64)
    pose[:, :63] += means[torch.arange(count) % len(means)]
    betas = torch.randn(count, 10, generator=generator, dtype=torch.float64)
    return pose.to(dtype), betas.to(dtype)


def anchor_of(pose: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    return pose.roll(1, 0), betas.roll(1, 0)


def both(count: int, weights: PriorWeights, dtype: torch.dtype, with_anchor: bool = True):
    pose, betas = make_people(count, dtype)
    prior = load_pose_prior().to(pose)
    anchor = anchor_of(pose, betas) if with_anchor else None
    return tuple(
        prior_gradients(
            prior.mixture, prior.limits, pose, betas, weights, anchor=anchor, backend=backend
        )
        for backend in ("native", "torch")
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("weights", [ALL, *ALONE])
@pytest.mark.parametrize("count", [1, 3, 17, 64])
def test_native_equals_the_closed_forms(count, weights, dtype):
    got, want = both(count, weights, dtype)
    rtol = 1e-11 if dtype == torch.float64 else 2e-5
    for some, other in zip(got, want, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(some, other, rtol=rtol, atol=rtol * scale)
    assert len(priors.mixture_winner(load_pose_prior().mixture, make_people(17)[0]).unique()) > 3


def test_gradients_are_those_of_autograd():
    pose, betas = make_people(9)
    prior = load_pose_prior()
    start = anchor_of(pose, betas)
    got = prior_gradients(prior.mixture, prior.limits, pose, betas, ALL, anchor=start)
    at = pose.clone().requires_grad_(), betas.clone().requires_grad_()
    loss = (
        ALL.pose * priors.mixture_loss(prior.mixture, at[0])
        + ALL.angle * priors.angle_loss(at[0])
        + ALL.limits * priors.limits_loss(prior.limits, at[0])
        + ALL.shape * priors.shape_loss(at[1])
        + ALL.anchor * (priors.anchor_loss(at[0], start[0]) + priors.anchor_loss(at[1], start[1]))
    )
    torch.testing.assert_close(got.loss, loss.detach(), rtol=1e-11, atol=0)
    by_pose, by_betas = torch.autograd.grad(loss.sum(), at)
    torch.testing.assert_close(got.body_pose, by_pose, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.betas, by_betas, rtol=1e-9, atol=1e-9)
    assert (by_pose != 0).any(0).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_without_an_anchor_the_start_is_zero(dtype):
    got, want = both(5, PriorWeights(anchor=3.0), dtype, with_anchor=False)
    pose, _ = make_people(5, dtype)
    torch.testing.assert_close(got.body_pose, 6 * pose)
    torch.testing.assert_close(got.loss, want.loss)


def test_a_prior_of_69_numbers():
    """The size of the published mixture; its last rows fill no block of eight."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(3, 69, 69, generator=generator, dtype=torch.float64)
    mixture = priors.make_mixture(
        torch.randn(3, 69, generator=generator, dtype=torch.float64),
        root @ root.transpose(1, 2) + torch.eye(69),
        [1.0, 2.0, 3.0],
    )
    limits = load_pose_prior().limits
    pose, betas = make_people(11)
    got, want = (
        prior_gradients(mixture, limits, pose, betas, PriorWeights(pose=1.0), backend=backend)
        for backend in ("native", "torch")
    )
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(got.body_pose, want.body_pose, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("simd", ops.build_info()["simd_available"])
def test_nobodys_bits_depend_on_the_others(simd):
    """A person alone, among others, and beside NaN, with every instruction set."""
    pose, betas = make_people(37, torch.float32)
    prior = load_pose_prior().to(pose)
    before = ops.build_info()["simd"]
    ops.choose_simd(simd)
    try:
        together = prior_gradients(prior.mixture, prior.limits, pose, betas, ALL)
        bad = pose.clone()
        bad[3, 7] = float("nan")
        beside = prior_gradients(prior.mixture, prior.limits, bad, betas, ALL)
        for person in (0, 5, 36):
            one = slice(person, person + 1)
            alone = prior_gradients(prior.mixture, prior.limits, pose[one], betas[one], ALL)
            for some, own, near in zip(together, alone, beside, strict=True):
                assert torch.equal(some[one], own)
                assert torch.equal(near[one], own)
        assert beside.loss[3].isnan()
    finally:
        ops.choose_simd(before)


def test_far_beyond_a_limit_nothing_overflows():
    pose, betas = make_people(2, torch.float32)
    pose[0] = 30.0
    prior = load_pose_prior().to(pose)
    got = prior_gradients(prior.mixture, prior.limits, pose, betas, PriorWeights(limits=1.0))
    assert all(torch.isfinite(part).all() for part in got)


def test_nobody_is_a_batch():
    got, _ = both(0, ALL, torch.float32)
    assert got.loss.shape == (0,)
    assert got.body_pose.shape == (0, 69)


def arguments(dtype: torch.dtype = torch.float64) -> tuple:
    pose, betas = make_people(3, dtype)
    prior = load_pose_prior().to(pose)
    mixture, limits = prior.mixture, prior.limits
    return (
        pose, betas, mixture.means, mixture.factors, mixture.offset, limits.lower, limits.upper,
        *anchor_of(pose, betas), limits.softness, *ALL.as_tuple(),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
def test_opcheck(dtype):
    # No autograd formula is registered: the gradients are outputs.
    both(1, ALL, dtype)
    utilities = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.eft_fast.body_priors, arguments(dtype), test_utils=utilities)
    without = list(arguments(dtype))
    without[7:9] = [None, None]
    torch.library.opcheck(torch.ops.eft_fast.body_priors, tuple(without), test_utils=utilities)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, torch.zeros(3, 72).double(), r"body_pose must be \[3, 69\], got \[3, 72\]"),
        (1, torch.zeros(3, 10), "body_pose must have the type of betas"),
        (2, torch.zeros(8, 70).double(), r"means must be \[M, D\]"),
        (3, torch.zeros(63, 8).double(), r"factors must be \[63, 504\]"),
        (5, torch.zeros(63).double(), r"lower must be \[69\]"),
        (7, None, "anchor_pose and anchor_betas must come together"),
    ],
)
def test_wrong_calls_are_refused(place, value, words):
    both(1, ALL, torch.float64)
    given = list(arguments())
    given[place] = value
    with pytest.raises(RuntimeError, match=words):
        torch.ops.eft_fast.body_priors(*given)


def test_wrong_use_is_refused():
    pose, betas = make_people(2)
    prior = load_pose_prior()
    for args, words in (
        ((pose[:, :63], betas, ALL), r"body_pose must be \[B, 69\]"),
        ((pose, betas[:1], ALL), r"betas must be \[2, 10\]"),
    ):
        with pytest.raises(ValueError, match=words):
            prior_gradients(prior.mixture, prior.limits, *args)
    with pytest.raises(ValueError, match="native priors run on cpu"):
        prior_gradients(
            prior.mixture, prior.limits, pose.to("meta"), betas.to("meta"), ALL, backend="native"
        )
