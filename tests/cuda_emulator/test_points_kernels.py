"""The points and loss kernels, run on the CPU, against the plain torch operators in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor

from eft_fast.body.plan import PointRows, make_points_plan
from eft_fast.geometry.rotations import axis_angle_to_matrix, matrix_to_rot6d
from eft_fast.ops import reference
from eft_fast.ops.plans import PointsPlan
from tests.cuda_emulator import points_call
from tests.cuda_emulator.emulator import ASCENDING, DESCENDING, RANDOM
from tests.cuda_emulator.points_call import SHARED_LIMIT, LossTerms, arena_bytes
from tests.helpers import make_tiny_arrays

PEOPLE = [0, 1, 3, 17]
DTYPES = [torch.float32, torch.float64]
FORWARD = {torch.float32: (1e-5, 2e-6), torch.float64: (1e-9, 1e-10)}  # rtol, atol
# Gradients: error over a person's largest entry (at least 1). In float32 plain torch itself is off
# by 5e-5 here, where a projected limb is short.
GRADIENT = {torch.float32: 1e-4, torch.float64: 1e-11}
FULL_WEIGHTS = (2.0, 0.3, 0.7, 0.5)


@lru_cache(maxsize=4)
def make_plan(points: int = 30) -> PointsPlan:
    """Kinematic joints, picked vertices, sums of both, one point of nothing, and repeats."""
    rng = np.random.default_rng(0)
    joints: list[dict[int, float]] = [{7: 1.0}, {}, {3: 0.5, 8: 0.25}, {}, {7: 1.0}, {2: 0.4}]
    # All 37 vertices of a point that comes early: cheaper as one row per joint than per vertex.
    dense = {i: 0.01 + 0.001 * i for i in range(37)}
    vertices: list[dict[int, float]] = [{}, {5: 1.0}, dense, {}, {}, {4: 0.3, 9: 0.3}]
    while len(joints) < points:
        count = int(rng.choice([1, 3, 20]))
        picked = rng.choice(37, count, replace=False).tolist()
        joints.append({})
        vertices.append(dict(zip(picked, rng.dirichlet(np.ones(count)).tolist(), strict=True)))
    names = tuple(f"p{i}" for i in range(points))
    arrays = make_tiny_arrays(37, landmarks=False)
    return make_points_plan(arrays, PointRows(names, tuple(joints), tuple(vertices)))


def make_body(people: int, form: str = "axis_angle") -> list[Tensor]:
    """Betas, pose and transl, numbers that float32 holds."""
    generator = torch.Generator().manual_seed(people)
    pose = torch.randn(people, 24, 3, dtype=torch.float64, generator=generator) * 0.5
    pose[:1, 3:9] = 0
    if form != "axis_angle":
        pose = axis_angle_to_matrix(pose)
    if form == "rot6d":
        pose = matrix_to_rot6d(pose) * 1.3
    betas, transl = (
        torch.randn(people, n, dtype=torch.float64, generator=generator) for n in (10, 3)
    )
    return [x.float().double() for x in (betas, pose, transl)]


def make_terms(people: int, points: int, camera: str = "weak", **options) -> LossTerms:
    generator = torch.Generator().manual_seed(people)
    noise = torch.randn(people, points, 3, dtype=torch.float64, generator=generator)
    keypoints = torch.cat([noise[..., :2], noise[..., 2:].abs().clamp(max=1)], -1)
    keypoints[:, ::4, 2] = 0
    keypoints[:, ::8, 0] = torch.nan  # Confidence 0 hides whatever is there.
    if camera == "weak":
        values = torch.tensor([0.8, 0.1, -0.2]).double() + 0.1 * noise[:, 0]
    else:
        intrinsics = torch.tensor([[2.0, 0, 0.3], [0, 2.1, -0.2], [0, 0, 1]]).double()
        rotation = axis_angle_to_matrix(0.3 * noise[:, 1])
        shift = noise[:, 2] * 0.1 + torch.tensor([0, 0, 6.0]).double()
        values = torch.cat(
            [intrinsics.expand(people, 3, 3).flatten(1), rotation.flatten(1), shift], 1
        )
    index = torch.tensor([[1, 6], [2, 9], [6, 9]], dtype=torch.int32)
    target = torch.nn.functional.normalize(noise[:, :3, :2], dim=-1)
    target = torch.cat([target, noise[:, :3, 2:].abs()], -1)
    tensors = [x.float().double().contiguous() for x in (values, keypoints, target)]
    return LossTerms(
        tensors[0], tensors[1], index, tensors[2], **{"weights": FULL_WEIGHTS, **options}
    )


def cast(values: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [x.to(dtype) for x in values]


def cast_terms(terms: LossTerms, dtype: torch.dtype) -> LossTerms:
    names = ("camera", "keypoints", "limb_target")
    moved = {n: getattr(terms, n).to(dtype) for n in names if getattr(terms, n) is not None}
    return replace(terms, **moved)


def check_gradients(got, want, dtype: torch.dtype) -> None:
    """Against the largest entry of a person's gradient, since sums cancel."""
    for name, value, right in zip(("betas", "pose", "transl", "camera"), got, want, strict=False):
        scale = right.flatten(1).abs().amax(1).clamp(min=1.0)
        scale = scale.reshape(-1, *[1] * (right.ndim - 1))
        error = (value.double() - right).abs() / scale
        assert not value.isnan().any(), name
        assert not (error > GRADIENT[dtype]).any(), f"{name}: {error.max():.2e}"


def expected_points(plan, body, weights):
    inputs = [x.clone().requires_grad_() for x in body]
    points = reference.smpl_points(plan, *inputs)
    return points.detach(), torch.autograd.grad((points * weights).sum(), inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("people", PEOPLE)
def test_points_match_the_reference(gpu, people, dtype):
    plan, body = make_plan(), make_body(people)
    weights = torch.randn(people, plan.num_points, 3).double()
    points, gradients = expected_points(plan, body, weights)
    plan, body = plan.to(dtype=dtype), cast(body, dtype)
    got = points_call.forward(gpu, plan, *body)
    rtol, atol = FORWARD[dtype]
    torch.testing.assert_close(got.double(), points, rtol=rtol, atol=atol)
    back = points_call.backward(gpu, plan, *body, weights.to(dtype))
    check_gradients((back.betas, back.pose, back.transl), gradients, dtype)


@pytest.mark.parametrize("form", ["rot6d", "matrix"])
def test_points_take_every_form_of_pose(gpu, form):
    plan, body = make_plan(), make_body(3, form)
    weights = torch.randn(3, plan.num_points, 3).double()
    points, gradients = expected_points(plan, body, weights)
    torch.testing.assert_close(points_call.forward(gpu, plan, *body), points, rtol=0, atol=1e-12)
    back = points_call.backward(gpu, plan, *body, weights)
    check_gradients((back.betas, back.pose, back.transl), gradients, torch.float64)


def test_large_plans_work_in_the_workspace(gpu):
    """A plan whose block needs more memory than there is shared memory."""
    plan, body = make_plan(700), make_body(9)
    assert arena_bytes(make_plan(), 8) <= SHARED_LIMIT < arena_bytes(plan, 8)
    weights = torch.randn(9, plan.num_points, 3).double()
    points, gradients = expected_points(plan, body, weights)
    torch.testing.assert_close(points_call.forward(gpu, plan, *body), points, rtol=0, atol=1e-12)
    back = points_call.backward(gpu, plan, *body, weights)
    check_gradients((back.betas, back.pose, back.transl), gradients, torch.float64)


LOSS_CASES = {
    "plain": dict(weights=(1.0, 0.0, 0.0, 0.0)),
    "everything": dict(unit=1.7),
    "robust": dict(sigma=0.6, unit=1.3),
    "full camera": dict(camera="full"),
    "robust full camera": dict(camera="full", sigma=0.5),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("people", PEOPLE)
@pytest.mark.parametrize("case", LOSS_CASES)
def test_loss_matches_the_reference(gpu, case, people, dtype):
    plan, body = make_plan(), make_body(people)
    terms = make_terms(people, plan.num_points, **LOSS_CASES[case])
    inputs = [x.clone().requires_grad_() for x in (*body, terms.camera)]
    loss, parts = reference.keypoint_loss(
        plan,
        *inputs,
        torch.nan_to_num(terms.keypoints),
        terms.limb_index,
        terms.limb_target,
        terms.weights,
        terms.unit,
        terms.sigma,
    )
    gradients = torch.autograd.grad(loss.sum(), inputs)
    got_loss, got_parts, back, g_camera = points_call.loss(
        gpu, plan.to(dtype=dtype), *cast(body, dtype), cast_terms(terms, dtype)
    )
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    )
    torch.testing.assert_close(got_loss.double(), loss.detach(), **tolerance)
    torch.testing.assert_close(got_parts.double(), parts, **tolerance)
    check_gradients((back.betas, back.pose, back.transl, g_camera), gradients, dtype)


def test_loss_without_limbs_and_transl(gpu):
    plan, body = make_plan(), make_body(3)
    terms = replace(make_terms(3, plan.num_points), limb_index=None, limb_target=None)
    loss, _ = reference.keypoint_loss(
        plan,
        *body[:2],
        None,
        terms.camera,
        torch.nan_to_num(terms.keypoints),
        None,
        None,
        terms.weights,
        1.0,
        0.0,
    )
    got, parts, back, _ = points_call.loss(gpu, plan, *body[:2], None, terms)
    torch.testing.assert_close(got, loss, rtol=1e-12, atol=1e-12)
    assert (parts[:, 3] == 0).all()
    assert back.transl.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_order_of_threads_gives_the_same_bits(gpu, dtype):
    plan, body = make_plan().to(dtype=dtype), cast(make_body(11), dtype)
    terms = cast_terms(make_terms(11, plan.num_points, sigma=0.4), dtype)
    weights = torch.randn(11, plan.num_points, 3).to(dtype)
    seen = []
    for order, seed in [(ASCENDING, 0), (DESCENDING, 0), (RANDOM, 1), (RANDOM, 2), (ASCENDING, 0)]:
        gpu.schedule(order, seed)
        back = points_call.backward(gpu, plan, *body, weights)
        loss, parts, loss_back, g_camera = points_call.loss(gpu, plan, *body, terms)
        values = [points_call.forward(gpu, plan, *body), loss, parts, g_camera]
        values += [back.betas, back.pose, back.transl]
        seen.append([*values, loss_back.betas, loss_back.pose, loss_back.transl])
    for values in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], values, strict=True))


def test_a_person_does_not_depend_on_the_others(gpu):
    """Eleven people at once equal each alone, bit for bit; a NaN stays with its person."""
    plan, body = make_plan().to(dtype=torch.float32), cast(make_body(11), torch.float32)
    terms = cast_terms(make_terms(11, plan.num_points), torch.float32)
    broken = [x.clone() for x in body]
    broken[1][4, 7] = torch.nan
    loss, _, back, g_camera = points_call.loss(gpu, plan, *broken, terms)
    assert loss[4].isnan()
    for i in (0, 3, 10):
        one = replace(
            terms,
            camera=terms.camera[i : i + 1],
            keypoints=terms.keypoints[i : i + 1],
            limb_target=terms.limb_target[i : i + 1],
        )
        alone = points_call.loss(gpu, plan, *(x[i : i + 1] for x in body), one)
        assert torch.equal(alone[0][0], loss[i])
        assert torch.equal(alone[2].pose[0], back.pose[i])
        assert torch.equal(alone[3][0], g_camera[i])


def test_a_limb_of_missing_points_makes_the_loss_nan(gpu):
    """A kernel cannot raise; it must not read beyond its memory either."""
    plan, body = make_plan(), make_body(3)
    terms = make_terms(3, plan.num_points)
    broken = replace(terms, limb_index=torch.tensor([[1, 6], [-1, 9], [2, 30]], dtype=torch.int32))
    loss, parts, back, _ = points_call.loss(gpu, plan, *body, broken)
    assert loss.isnan().all()
    assert not parts[:, :3].isnan().any()
    assert back.pose.isnan().any()


@pytest.mark.slow
def test_a_block_takes_several_groups_of_people(gpu):
    """More people than all blocks serve at once: a block's memory is used again."""
    people = points_call.BLOCKS_LIMIT * 8 + 5
    plan = make_plan(8).to(dtype=torch.float32)
    body = cast(make_body(people), torch.float32)
    weights = torch.randn(people, plan.num_points, 3)
    back = points_call.backward(gpu, plan, *body, weights)
    for chosen in (slice(0, 8), slice(people - 5, people)):
        part = [x[chosen].contiguous() for x in body]
        alone = points_call.backward(gpu, plan, *part, weights[chosen].contiguous())
        assert torch.equal(back.pose[chosen], alone.pose)
        assert torch.equal(back.betas[chosen], alone.betas)
