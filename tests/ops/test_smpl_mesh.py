"""smpl_mesh: against the plain body function, its twin, numeric derivatives and smplx."""

from __future__ import annotations

import pytest
import torch

from eft_fast import ops
from eft_fast.body.plan import make_mesh_plan
from eft_fast.ops import _checks, reference
from tests.helpers import make_tiny_arrays, plain_body
from tests.ops.op_inputs import FORMS, make_inputs, make_plans, tolerance

SHAPES = [(0, 37), (1, 1), (3, 37), (17, 600), (40, 48)]  # people, vertices
DTYPES = [torch.float32, torch.float64]


def gradients(plan, inputs, seed=3, backend="auto"):
    """Output and gradients of a random weighting of all outputs."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = torch.cat(ops.smpl_mesh(plan, *inputs, backend=backend), 1)
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out)
    return out, torch.autograd.grad((out * factor).sum(), inputs)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_mesh_matches_the_plain_body_function(backend):
    arrays = make_tiny_arrays(37)
    betas, pose, transl = make_inputs(5, dtype=torch.float64)
    got = ops.smpl_mesh(make_mesh_plan(arrays), betas, pose, transl, backend=backend)
    expected = plain_body(arrays, betas, reference.pose_to_matrices(pose), transl)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mesh_matches_its_twin(device, shape, form, dtype):
    people, vertices = shape
    plan, _ = make_plans(vertices, device, dtype)
    inputs = make_inputs(people, form, device, dtype)
    out, grads = gradients(plan, inputs)
    expected, expected_grads = gradients(plan, inputs, backend="torch")
    torch.testing.assert_close(out, expected, **tolerance(dtype))
    for got, want in zip(grads, expected_grads, strict=True):
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        torch.testing.assert_close(got / scale, want / scale, **tolerance(dtype, gradient=True))


@pytest.mark.parametrize("form", FORMS)
def test_mesh_gradcheck(device, form):
    plan, _ = make_plans(5, device, torch.float64)
    inputs = make_inputs(2, form, device, torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda *x: ops.smpl_mesh(plan, *x, backend="native"), inputs)


@pytest.mark.parametrize("form", FORMS)
def test_mesh_no_gradient_row_is_missing(device, form):
    """Every joint, direction and component moves the mesh: no row of a gradient may be zero."""
    plan, _ = make_plans(37, device, torch.float32)
    inputs = make_inputs(3, form, device)
    _, grads = gradients(plan, inputs)
    _, expected = gradients(plan, inputs, backend="torch")
    for got, want in zip(grads, expected, strict=True):
        assert (want.abs() > 1e-6).all()
        ratio = got / want
        assert (ratio > 0.9).all()
        assert (ratio < 1.1).all()


def test_mesh_at_special_angles(device):
    """At zero, near zero, near pi, at pi and beyond a turn, values and gradients hold."""
    plan, _ = make_plans(37, device, torch.float64)
    angles = [0.0, 1e-12, 1e-6, 0.0999999, 0.1000001, 3.1415926, torch.pi, 6.4, 700.0]
    betas, pose, transl = make_inputs(len(angles), device=device, dtype=torch.float64)
    pose = torch.nn.functional.normalize(pose, dim=-1)
    pose = pose * torch.tensor(angles, dtype=pose.dtype, device=device)[:, None, None]
    out, grads = gradients(plan, (betas, pose, transl))
    expected, expected_grads = gradients(plan, (betas, pose, transl), backend="torch")
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-7, atol=1e-7)
    single = plan.to(dtype=torch.float32)
    out32, grads32 = gradients(single, (betas.float(), pose.float(), transl.float()))
    torch.testing.assert_close(out32[:-1], expected[:-1].float(), rtol=1e-5, atol=2e-5)
    scale = expected_grads[1][:-1].abs().max().float()
    torch.testing.assert_close(
        grads32[1][:-1] / scale, expected_grads[1][:-1].float() / scale, rtol=1e-4, atol=1e-5
    )


def test_mesh_gradient_at_rest_is_the_generator(device):
    """At pose zero the Rodrigues series must not lose the first derivative."""
    plan, _ = make_plans(37, device, torch.float64)
    pose = torch.zeros(1, 24, 3, dtype=torch.float64, device=device, requires_grad=True)
    betas = torch.zeros(1, 10, dtype=torch.float64, device=device)
    _, joints = ops.smpl_mesh(plan, betas, pose, backend="native")
    (grad,) = torch.autograd.grad(joints[0, 4, 1], pose)
    # d (omega x r)_y / d omega_z = r_x, with r from the root joint to joint 4.
    arm = (joints[0, 4] - joints[0, 0]).detach()
    torch.testing.assert_close(grad[0, 0, 2], arm[0])
    torch.testing.assert_close(grad[0, 0, 0], -arm[2])


def test_mesh_degenerate_rot6d(device):
    """Columns without a direction give the identity and no gradient; never NaN."""
    plan, _ = make_plans(37, device, torch.float32)
    betas, pose, transl = make_inputs(2, "rot6d", device)
    pose[0, 3] = 0
    pose[0, 5] = torch.tensor([1.0, 2, 1, 2, 1, 2])
    out, grads = gradients(plan, (betas, pose, transl))
    expected, _ = gradients(plan, (betas, pose, transl), backend="torch")
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)
    assert torch.isfinite(grads[1]).all()
    assert (grads[1][0, [3, 5]] == 0).all()


def test_mesh_takes_non_contiguous_inputs(device):
    plan, _ = make_plans(37, device, torch.float32)
    betas, pose, transl = make_inputs(6, "matrix", device)
    strided = (betas.t().contiguous().t(), pose.transpose(2, 3), transl.flip(1))
    assert not any(t.is_contiguous() for t in strided[:2])
    out, grads = gradients(plan, strided)
    expected, expected_grads = gradients(plan, [t.contiguous() for t in strided])
    assert torch.equal(out, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads, strict=True))
    # A gradient that arrives expanded, as sum() sends it.
    leaf = pose.clone().requires_grad_()
    ops.smpl_mesh(plan, betas, leaf, transl)[0].sum().backward()
    other = pose.clone().requires_grad_()
    ops.smpl_mesh(plan, betas, other, transl, backend="torch")[0].sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_mesh_nan_stays_in_its_person(device):
    plan, _ = make_plans(37, device, torch.float32)
    betas, pose, transl = make_inputs(19, device=device)
    clean, clean_grads = gradients(plan, (betas, pose, transl))
    pose[7, 4, 1] = torch.nan
    out, grads = gradients(plan, (betas, pose, transl))
    others = torch.arange(19, device=device) != 7
    assert torch.equal(out[others], clean[others])
    assert torch.isnan(out[7]).any()
    for got, want in zip(grads, clean_grads, strict=True):
        assert torch.equal(got[others], want[others])


def test_mesh_does_not_depend_on_the_batch(device):
    """A person's bits are the same alone, in another place, and in another company."""
    plan, _ = make_plans(600, device, torch.float32)
    inputs = make_inputs(21, device=device)
    out, _ = gradients(plan, inputs)
    full = [t.detach().requires_grad_() for t in inputs]
    grads = torch.autograd.grad(ops.smpl_mesh(plan, *full)[0].square().sum(), full)
    for chosen in ([0], [20], [3, 4, 5], list(range(7, 20))):
        part = [t[chosen].detach().requires_grad_() for t in inputs]
        vertices, joints = ops.smpl_mesh(plan, *part)
        assert torch.equal(torch.cat([vertices, joints], 1), out[chosen])
        part_grads = torch.autograd.grad(vertices.square().sum(), part)
        for got, want in zip(part_grads, grads, strict=True):
            assert torch.equal(got, want[chosen])


def test_mesh_without_transl(device):
    plan, _ = make_plans(37, device, torch.float32)
    betas, pose, transl = make_inputs(3, device=device)
    moved = ops.smpl_mesh(plan, betas, pose, transl)
    still = ops.smpl_mesh(plan, betas, pose)
    torch.testing.assert_close(moved[0], still[0] + transl[:, None])
    torch.testing.assert_close(moved[1], still[1] + transl[:, None])
    pose.requires_grad_()
    ops.smpl_mesh(plan, betas, pose)[1].sum().backward()
    assert pose.grad is not None


def test_mesh_registration(device):
    plan, _ = make_plans(37, device, torch.float32)
    rest = (plan.tensors, plan.num_vertices)
    ops._operators.load()
    for grad in (False, True):
        betas, pose, transl = make_inputs(3, device=device, grad=grad)
        op = torch.ops.eft_fast.smpl_mesh.default
        torch.library.opcheck(op, (betas, pose, transl, *rest, True))
        torch.library.opcheck(op, (betas, pose, None, *rest, True))
    torch.library.opcheck(op, (betas.detach(), pose.detach(), None, *rest, False))
    out = torch.ops.eft_fast.smpl_mesh(betas, pose, transl, *rest, True)
    args = [t.detach() for t in (*out, betas, pose, transl)]
    torch.library.opcheck(torch.ops.eft_fast.smpl_mesh_backward.default, (*args, *rest))


def test_questions_of_the_build_carry_torchs_own_mark():
    marked = torch.compiler.assume_constant_result(lambda: True)
    for function in (_checks._is_built, _checks._has_cuda):
        assert function._dynamo_marked_constant is marked._dynamo_marked_constant is True


def test_mesh_compiles_as_one_graph():
    plan, _ = make_plans(37, "cpu", torch.float32)
    betas, pose, transl = make_inputs(3, grad=True)

    def loss(betas, pose, transl):
        return ops.smpl_mesh(plan, betas, pose, transl)[0].square().sum()

    expected = torch.autograd.grad(loss(betas, pose, transl), (betas, pose))
    ops._operators.load()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(betas, pose, transl), (betas, pose))
    torch.testing.assert_close(got, expected)


def test_mesh_refuses_second_derivatives_and_vmap():
    plan, _ = make_plans(37, "cpu", torch.float32)
    betas, pose, transl = make_inputs(2, grad=True)
    vertices, _ = ops.smpl_mesh(plan, betas, pose, transl)
    (grad,) = torch.autograd.grad(vertices.square().sum(), pose, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives .* backend='torch'"):
        grad.sum().backward()
    with pytest.raises(RuntimeError, match="vmap is not supported"):
        torch.func.vmap(lambda b, p: ops.smpl_mesh(plan, b[None], p[None])[0])(betas, pose)


def test_twin_gives_second_derivatives():
    plan, points = make_plans(5, "cpu", torch.float64)
    betas, pose, transl = make_inputs(1, dtype=torch.float64, grad=True)
    assert torch.autograd.gradgradcheck(
        lambda p: ops.smpl_mesh(plan, betas, p, transl, backend="torch")[0].sum(1),
        (pose,),
        fast_mode=True,
    )
    assert torch.autograd.gradgradcheck(
        lambda p: ops.smpl_points(points, betas, p, transl, backend="torch").sum(1),
        (pose,),
        fast_mode=True,
    )


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"betas": torch.zeros(2, 9)}, ValueError, r"betas must be \[B, 10\], got \[2, 9\]"),
        ({"betas": torch.zeros(2, 10).half()}, TypeError, "float32 or float64, got torch.float16"),
        ({"betas": [0.0] * 10}, TypeError, "betas must be a tensor, got list"),
        ({"pose": torch.zeros(2, 72)}, ValueError, r"pose must be .* B = 2 .* got \[2, 72\]"),
        ({"pose": torch.zeros(3, 24, 3)}, ValueError, r"with B = 2 as in betas"),
        ({"pose": torch.zeros(2, 24, 3).double()}, TypeError, "pose must be torch.float32"),
        ({"transl": torch.zeros(2, 2)}, ValueError, r"transl must be \[2, 3\], got \[2, 2\]"),
        ({"transl": (0, 0, 0)}, TypeError, "transl must be a tensor, got tuple"),
        ({"backend": "cpp"}, ValueError, "backend must be 'auto', 'native' or 'torch', got 'cpp'"),
        ({"pose": torch.zeros(2, 24, 3, device="meta")}, ValueError, "pose must be on cpu"),
    ],
)
def test_mesh_refuses_bad_inputs(change, kind, words):
    plan, points = make_plans(37, "cpu", torch.float32)
    inputs = {"betas": torch.zeros(2, 10), "pose": torch.zeros(2, 24, 3), "transl": None} | change
    with pytest.raises(kind, match=words):
        ops.smpl_mesh(plan, **inputs)
    with pytest.raises(kind, match=words):
        ops.smpl_points(points, **inputs)


def test_mesh_refuses_a_plan_of_another_type():
    plan, _ = make_plans(37, "cpu", torch.float64)
    betas, pose, _ = make_inputs(2)
    with pytest.raises(ValueError, match=r"the plan is torch.float64 on cpu.* plan.to"):
        ops.smpl_mesh(plan, betas, pose)


def test_native_checks_guard_direct_calls():
    """The C++ side says a sentence too, with the sizes."""
    plan, _ = make_plans(37, "cpu", torch.float32)
    ops._operators.load()
    betas, pose, _ = make_inputs(2)
    rest = (plan.tensors, plan.num_vertices)
    op = torch.ops.eft_fast.smpl_mesh
    with pytest.raises(RuntimeError, match=r"smpl_mesh: pose must be .* got \[2, 24, 4\]"):
        op(betas, torch.zeros(2, 24, 4), None, *rest, False)
    with pytest.raises(RuntimeError, match="smpl_mesh: betas must be float32 or float64"):
        op(betas.half(), pose, None, *rest, False)
    with pytest.raises(RuntimeError, match="smpl_mesh: run_joint must be int32"):
        op(
            betas,
            pose,
            None,
            [*plan.tensors[:6], plan.run_joint.long(), plan.run_weight],
            37,
            False,
        )
    with pytest.raises(RuntimeError, match=r"smpl_mesh: basis must be \[4, 218, 3, 16\]"):
        op(betas, pose, None, plan.tensors, 64, False)
    with pytest.raises(RuntimeError, match="smpl_mesh: plan must be 8 tensors, got 7"):
        op(betas, pose, None, plan.tensors[1:], 37, False)
