"""keypoint_loss: value and gradients in one call, against the twin and numeric derivatives."""

from __future__ import annotations

import pytest
import torch

from eft_fast import ops
from tests.ops.op_inputs import FORMS, make_inputs, make_plans, tolerance

WEIGHTS = ops.LossWeights(keypoints=3.0, betas=0.1, camera=0.7, limbs=0.4)
LIMBS = ((4, 5), (12, 7))


def make_case(people, camera="weak", form="axis_angle", device="cpu", dtype=torch.float32):
    """Plan, inputs (betas, pose, transl, camera), keypoints."""
    _, plan = make_plans(37, device, dtype)
    betas, pose, transl = make_inputs(people, form, device, dtype)
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    if camera == "weak":
        view = normal(people, 3).abs() + 0.2
    else:
        intrinsics = normal(people, 3, 3)
        intrinsics[:, 2] = torch.tensor([0.0, 0.0, 1.0])
        rotation = torch.linalg.qr(normal(people, 3, 3))[0]
        shift = torch.tensor([0.1, 0.2, 6.0]).expand(people, 3)
        view = ops.pack_full_camera(intrinsics, rotation, shift)
    keypoints = normal(people, plan.num_points, 3)
    keypoints[..., 2] = keypoints[..., 2].clamp(min=0)
    return plan, (betas, pose, transl, view.to(device, dtype)), keypoints.to(device, dtype)


def call(function, plan, inputs, keypoints, **options):
    betas, pose, transl, camera = inputs
    return function(plan, betas, pose, camera, keypoints, transl=transl, **options)


@pytest.mark.parametrize("sigma", [0.0, 0.7])
@pytest.mark.parametrize("camera", ["weak", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("people", [0, 1, 3, 19])
def test_loss_matches_its_twin(device, people, dtype, camera, sigma):
    plan, inputs, keypoints = make_case(people, camera, device=device, dtype=dtype)
    options = {
        "limbs": ops.make_limb_targets(keypoints, LIMBS),
        "weights": WEIGHTS,
        "unit": 1.5,
        "sigma": sigma,
    }
    got = call(ops.keypoint_gradients, plan, inputs, keypoints, **options)
    want = call(ops.keypoint_gradients, plan, inputs, keypoints, **options, backend="torch")
    torch.testing.assert_close(got.loss, want.loss, **tolerance(dtype))
    torch.testing.assert_close(got.parts, want.parts, **tolerance(dtype))
    for ours, theirs in zip(got[2:], want[2:], strict=True):
        scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(ours / scale, theirs / scale, **tolerance(dtype, gradient=True))


@pytest.mark.parametrize("camera", ["weak", "full"])
@pytest.mark.parametrize("form", FORMS)
def test_loss_gradcheck(device, form, camera):
    plan, inputs, keypoints = make_case(2, camera, form, device, torch.float64)
    limbs = ops.make_limb_targets(keypoints, LIMBS)

    def loss(*inputs):
        return call(
            ops.keypoint_loss,
            plan,
            inputs,
            keypoints,
            limbs=limbs,
            weights=WEIGHTS,
            sigma=0.9,
            backend="native",
        ).loss

    assert torch.autograd.gradcheck(loss, [t.requires_grad_() for t in inputs])


def test_loss_no_gradient_row_is_missing(device):
    plan, inputs, keypoints = make_case(3, "full", "matrix", device)
    keypoints[..., 2] = 1
    got = call(ops.keypoint_gradients, plan, inputs, keypoints, weights=WEIGHTS)
    want = call(ops.keypoint_gradients, plan, inputs, keypoints, weights=WEIGHTS, backend="torch")
    for name in ("betas", "pose", "transl", "camera"):
        ours, theirs = getattr(got, name), getattr(want, name)
        if name == "camera":  # The third row of K is fixed.
            assert (ours[:, 6:9] == 0).all()
            keep = [i for i in range(21) if i not in (6, 7, 8)]
            ours, theirs = ours[:, keep], theirs[:, keep]
        assert (theirs.abs() > 1e-7).all(), name
        ratio = ours / theirs
        assert (ratio > 0.9).all(), name
        assert (ratio < 1.1).all(), name


def test_loss_backward_scales_by_person(device):
    plan, inputs, keypoints = make_case(5, device=device)
    leaves = [t.clone().requires_grad_() for t in inputs]
    factor = torch.arange(5.0, device=device)
    out = call(ops.keypoint_loss, plan, leaves, keypoints, weights=WEIGHTS)
    grads = torch.autograd.grad((out.loss * factor).sum(), leaves)
    plain = call(ops.keypoint_gradients, plan, inputs, keypoints, weights=WEIGHTS)
    torch.testing.assert_close(grads[0], plain.betas * factor[:, None])
    torch.testing.assert_close(grads[1], plain.pose * factor[:, None, None])
    torch.testing.assert_close(grads[2], plain.transl * factor[:, None])
    torch.testing.assert_close(grads[3], plain.camera * factor[:, None])
    assert not out.parts.requires_grad


def test_loss_parts_and_weights(device):
    plan, inputs, keypoints = make_case(4, device=device)
    limbs = ops.make_limb_targets(keypoints, LIMBS)
    out = call(ops.keypoint_loss, plan, inputs, keypoints, limbs=limbs, weights=WEIGHTS)
    weights = torch.tensor(WEIGHTS.as_tuple(), device=device)
    torch.testing.assert_close(out.loss, out.parts @ weights)
    torch.testing.assert_close(out.parts[:, 1], inputs[0].square().mean(1))
    torch.testing.assert_close(out.parts[:, 2], (-10 * inputs[3][:, 0]).exp().square())
    points = ops.smpl_points(plan, *inputs[:3])
    image = inputs[3][:, None, :1] * points[..., :2] + inputs[3][:, None, 1:]
    error = keypoints[..., 2:] * (image - keypoints[..., :2]).square()
    torch.testing.assert_close(out.parts[:, 0], error.mean((1, 2)))


def test_loss_hides_unlabelled_points(device):
    """Confidence 0 leaves a point out, even where its coordinates are NaN."""
    plan, inputs, keypoints = make_case(3, device=device)
    keypoints[:, 2, 2] = 0
    clean = call(ops.keypoint_gradients, plan, inputs, keypoints)
    keypoints[:, 2, :2] = torch.nan
    for backend in ("native", "torch"):
        out = call(ops.keypoint_gradients, plan, inputs, keypoints, backend=backend)
        assert torch.isfinite(out.pose).all()
        torch.testing.assert_close(out.loss, clean.loss)
    assert torch.equal(
        call(ops.keypoint_gradients, plan, inputs, keypoints, backend="native").pose, clean.pose
    )


def test_loss_of_a_limb_without_length(device):
    """Both ends on one point: cos counts as 0, and nothing is NaN."""
    plan, inputs, keypoints = make_case(2, device=device)
    index = torch.tensor([[5, 7]], dtype=torch.int32, device=device)  # one vertex, twice
    target = torch.tensor([[[1.0, 0.0, 0.5]]] * 2, device=device)
    limbs = ops.LimbTargets(index, target)
    weights = ops.LossWeights(keypoints=0.0, limbs=2.0)
    for backend in ("native", "torch"):
        out = call(
            ops.keypoint_gradients,
            plan,
            inputs,
            keypoints,
            limbs=limbs,
            weights=weights,
            backend=backend,
        )
        torch.testing.assert_close(out.loss, torch.ones(2, device=device))
        assert (out.pose == 0).all()


def test_loss_behind_the_camera_is_finite(device):
    plan, inputs, keypoints = make_case(2, "full", device=device)
    inputs[3][:, 20] = -5
    for backend in ("native", "torch"):
        out = call(ops.keypoint_gradients, plan, inputs, keypoints, backend=backend)
        assert torch.isfinite(out.loss).all()
        assert torch.isfinite(out.pose).all()
        assert (out.camera[:, 20] == 0).all()


def test_limb_targets():
    keypoints = torch.tensor([[[0.0, 0, 0.5], [0, 2, 0.5], [0, 2.001, 1], [9, 9, 0]]])
    limbs = ops.make_limb_targets(keypoints, ((0, 1), (1, 2), (1, 3)), min_length=0.01)
    expected = torch.tensor([[[0.0, 1, 0.25], [0, 0, 0], [0, 0, 0]]])
    torch.testing.assert_close(limbs.target, expected)
    assert limbs.index.dtype == torch.int32


def test_loss_nan_stays_in_its_person(device):
    plan, inputs, keypoints = make_case(19, device=device)
    clean = call(ops.keypoint_gradients, plan, inputs, keypoints)
    inputs[1][7, 4, 1] = torch.nan
    out = call(ops.keypoint_gradients, plan, inputs, keypoints)
    others = torch.arange(19, device=device) != 7
    for got, want in zip(out, clean, strict=True):
        assert torch.equal(got[others], want[others])
    assert torch.isnan(out.loss[7])


def test_loss_registration(device):
    plan, inputs, keypoints = make_case(3, device=device)
    ops._operators.load()
    limbs = ops.make_limb_targets(keypoints, LIMBS)
    rest = (*WEIGHTS.as_tuple(), 1.0, 0.0)
    op = torch.ops.eft_fast.keypoint_loss.default
    for grad in (False, True):
        betas, pose, transl, camera = (t.requires_grad_(grad) for t in inputs)
        head = (betas, pose, transl, camera, plan.tensors, keypoints)
        torch.library.opcheck(op, (*head, limbs.index, limbs.target, *rest))
        torch.library.opcheck(op, (*head, None, None, *rest))


def test_loss_refuses_second_derivatives_and_vmap():
    plan, inputs, keypoints = make_case(2)
    leaves = [t.requires_grad_() for t in inputs]
    loss = call(ops.keypoint_loss, plan, leaves, keypoints).loss
    factor = torch.ones(2, requires_grad=True)
    grads = torch.autograd.grad((loss * factor).sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives .* backend='torch'"):
        grads[1].sum().backward()

    def one(betas, pose, camera, keypoints):
        return ops.keypoint_loss(plan, betas[None], pose[None], camera[None], keypoints[None]).loss

    with pytest.raises(RuntimeError, match="vmap is not supported"):
        torch.func.vmap(one)(*(t.detach() for t in (*inputs[:2], inputs[3])), keypoints)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"camera": torch.zeros(2, 4)}, ValueError, r"camera must be \[B, 3\].* got \[2, 4\]"),
        ({"camera": torch.zeros(3, 3)}, ValueError, r"camera must be \[2, 3\], got \[3, 3\]"),
        ({"keypoints": torch.zeros(2, 5, 3)}, ValueError, r"keypoints must be \[2, 32, 3\]"),
        ({"keypoints": torch.zeros(2, 32, 3).double()}, TypeError, "keypoints must be torch.float"),
        (
            {"limbs": ops.LimbTargets(torch.zeros(1, 2).int(), torch.zeros(2, 2, 3))},
            ValueError,
            r"limbs.target must be \[2, 1, 3\]",
        ),
        (
            {"limbs": ops.LimbTargets(torch.zeros(1, 2).long(), torch.zeros(2, 1, 3))},
            TypeError,
            "limbs.index must be torch.int32",
        ),
    ],
)
def test_loss_refuses_bad_inputs(change, kind, words):
    plan, (betas, pose, _, camera), keypoints = make_case(2)
    assert plan.num_points == 32
    options = {"camera": camera, "keypoints": keypoints} | change
    for backend in ("native", "torch"):
        with pytest.raises(kind, match=words):
            ops.keypoint_loss(plan, betas, pose, **options, backend=backend)


def test_loss_refuses_limbs_of_points_that_are_not_there():
    plan, inputs, keypoints = make_case(2)
    limbs = ops.LimbTargets(torch.full((1, 2), 99).int(), torch.zeros(2, 1, 3))
    with pytest.raises(RuntimeError, match=r"limb_index must be in 0..31, got 99"):
        call(ops.keypoint_loss, plan, inputs, keypoints, limbs=limbs, backend="native")
    with pytest.raises(ValueError, match=r"limbs must join points 0..31, got 32"):
        ops.make_limb_targets(keypoints, ((3, 32),))
