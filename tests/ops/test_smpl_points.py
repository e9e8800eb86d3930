"""smpl_points: the contraction is exact, and the operator agrees with its twin."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from eft_fast import ops
from eft_fast.body.plan import (
    PointRows,
    make_mesh_plan,
    make_points_plan,
    regressor_rows,
    vertex_rows,
)
from tests.helpers import make_tiny_arrays
from tests.ops.op_inputs import (
    FORMS,
    make_inputs,
    make_plans,
    make_points,
    make_smpl_sized,
    tolerance,
)

SHAPES = [(0, 37), (1, 1), (3, 37), (17, 37), (40, 48)]
DTYPES = [torch.float32, torch.float64]


def gradients(plan, inputs, backend="auto"):
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = ops.smpl_points(plan, *inputs, backend=backend)
    generator = torch.Generator().manual_seed(3)
    factor = torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out)
    return out, torch.autograd.grad((out * factor).sum(), inputs)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_points_equal_sums_over_the_mesh(backend):
    """The contraction is an identity, not an approximation."""
    arrays = make_tiny_arrays(37)
    points = make_points(37)
    betas, pose, transl = make_inputs(6, dtype=torch.float64)
    vertices, joints = ops.smpl_mesh(make_mesh_plan(arrays), betas, pose, transl, backend="torch")
    expected = []
    for joint_part, vertex_part in zip(points.joints, points.vertices, strict=True):
        total = torch.zeros(6, 3, dtype=torch.float64)
        for j, factor in joint_part.items():
            total = total + factor * joints[:, j]
        for i, factor in vertex_part.items():
            total = total + factor * vertices[:, i]
        expected.append(total)
    plan = make_points_plan(arrays, points)
    got = ops.smpl_points(plan, betas, pose, transl, backend=backend)
    torch.testing.assert_close(got, torch.stack(expected, 1), rtol=0, atol=4e-15)


def test_points_share_sources_and_take_the_cheaper_rows():
    arrays = make_smpl_sized()
    dense = torch.rand(2, 6890, dtype=torch.float64).numpy()
    points = vertex_rows([5, 5, 9], "abc") + regressor_rows(dense, ["x", "y"])
    plan = make_points_plan(arrays, points)
    assert plan.output_index.tolist() == [0, 0, 1, 2, 3]
    # One row for each vertex, 24 (one per joint) for each dense row: 50, padded to 64.
    assert int((plan.basis.abs().sum((0, 1)) > 0).sum()) == 50
    assert plan.basis.shape == (218, 3, 64)
    assert torch.equal(plan.basis_t[:, :218].t().reshape(218, 3, 64), plan.basis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_points_match_their_twin(device, shape, form, dtype):
    people, vertices = shape
    _, plan = make_plans(vertices, device, dtype)
    inputs = make_inputs(people, form, device, dtype)
    out, grads = gradients(plan, inputs)
    expected, expected_grads = gradients(plan, inputs, backend="torch")
    torch.testing.assert_close(out, expected, **tolerance(dtype))
    for got, want in zip(grads, expected_grads, strict=True):
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        torch.testing.assert_close(got / scale, want / scale, **tolerance(dtype, gradient=True))


@pytest.mark.parametrize("form", FORMS)
def test_points_gradcheck(device, form):
    _, plan = make_plans(5, device, torch.float64)
    inputs = make_inputs(2, form, device, torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda *x: ops.smpl_points(plan, *x, backend="native"), inputs)


def test_points_no_gradient_row_is_missing(device):
    _, plan = make_plans(37, device, torch.float32)
    inputs = make_inputs(3, "matrix", device)
    _, grads = gradients(plan, inputs)
    _, expected = gradients(plan, inputs, backend="torch")
    for got, want in zip(grads, expected, strict=True):
        assert (want.abs() > 1e-6).all()
        ratio = got / want
        assert (ratio > 0.9).all()
        assert (ratio < 1.1).all()


def test_points_of_joints_alone_or_none(device):
    arrays = make_tiny_arrays(37)
    betas, pose, transl = make_inputs(3, device=device)
    joints = PointRows(("a",), ({4: 1.0},), ({},))
    plan = make_points_plan(arrays, joints).to(device, torch.float32)
    assert plan.basis.shape[2] == 0
    out, grads = gradients(plan, (betas, pose, transl))
    expected, expected_grads = gradients(plan, (betas, pose, transl), backend="torch")
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=2e-5)
    empty = make_points_plan(arrays, PointRows((), (), ())).to(device, torch.float32)
    assert ops.smpl_points(empty, betas, pose, transl).shape == (3, 0, 3)


def test_points_do_not_depend_on_the_batch(device):
    _, plan = make_plans(37, device, torch.float32)
    inputs = make_inputs(21, device=device)
    full = [t.detach().requires_grad_() for t in inputs]
    out = ops.smpl_points(plan, *full)
    grads = torch.autograd.grad(out.square().sum(), full)
    for chosen in ([0], [20], [3, 4, 5], list(range(7, 20))):
        part = [t[chosen].detach().requires_grad_() for t in inputs]
        points = ops.smpl_points(plan, *part)
        assert torch.equal(points, out[chosen])
        part_grads = torch.autograd.grad(points.square().sum(), part)
        for got, want in zip(part_grads, grads, strict=True):
            assert torch.equal(got, want[chosen])


def test_points_nan_stays_in_its_person(device):
    _, plan = make_plans(37, device, torch.float32)
    betas, pose, transl = make_inputs(19, device=device)
    clean, clean_grads = gradients(plan, (betas, pose, transl))
    betas[7, 0] = torch.nan
    out, grads = gradients(plan, (betas, pose, transl))
    others = torch.arange(19, device=device) != 7
    assert torch.equal(out[others], clean[others])
    assert torch.isnan(out[7]).any()
    for got, want in zip(grads, clean_grads, strict=True):
        assert torch.equal(got[others], want[others])


def test_points_registration(device):
    _, plan = make_plans(37, device, torch.float32)
    ops._operators.load()
    rest = (plan.tensors,)
    for grad in (False, True):
        betas, pose, transl = make_inputs(3, device=device, grad=grad)
        op = torch.ops.eft_fast.smpl_points.default
        torch.library.opcheck(op, (betas, pose, transl, *rest))
        torch.library.opcheck(op, (betas, pose, None, *rest))
    points = torch.randn(3, plan.num_points, 3, device=device)
    args = (points, *(t.detach() for t in (betas, pose, transl)))
    torch.library.opcheck(torch.ops.eft_fast.smpl_points_backward.default, (*args, *rest))


def test_points_refuse_second_derivatives_and_vmap():
    _, plan = make_plans(37, "cpu", torch.float32)
    betas, pose, transl = make_inputs(2, grad=True)
    points = ops.smpl_points(plan, betas, pose, transl)
    (grad,) = torch.autograd.grad(points.square().sum(), betas, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivatives .* backend='torch'"):
        grad.sum().backward()
    with pytest.raises(RuntimeError, match="vmap is not supported"):
        torch.func.vmap(lambda b, p: ops.smpl_points(plan, b[None], p[None]))(betas, pose)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (vertex_rows([37], ["tail"]), r"vertex index of point 'tail' must be in 0..36, got 37"),
        (PointRows(("x",), ({24: 1.0},), ({},)), "joint index of point 'x' must be in 0..23"),
        (PointRows(("x",), ({},), ({0: float("nan")},)), "must be finite, got nan"),
    ],
)
def test_points_plan_refuses_bad_rows(points, words):
    with pytest.raises(ValueError, match=words):
        make_points_plan(make_tiny_arrays(37), points)


def test_point_rows_must_have_equal_lengths():
    with pytest.raises(ValueError, match="one entry per point, got 2, 1 and 1"):
        PointRows(("a", "b"), ({},), ({},))


@pytest.mark.parametrize(
    ("kind", "field", "place", "value", "words"),
    [
        ("mesh", "parents", 5, 7, "MeshPlan: parents must be -1 at the root and parent < child"),
        ("mesh", "run_joint", 0, 24, r"MeshPlan: run_joint must be in 0..23, got 24"),
        ("mesh", "run_joint", 1, 0, "MeshPlan: run_joint must ascend within a tile"),
        ("mesh", "run_ptr", 1, -1, r"MeshPlan: run_ptr must be in 0..\d+, got -1"),
        ("mesh", "slot_idx", (0, 0, 3), 99, r"MeshPlan: slot_idx must be in 0..23, got 99"),
        ("points", "parents", 0, 0, "PointsPlan: parents must be -1 at the root"),
        ("points", "term_index", (0, 0), -2, r"PointsPlan: term_index, rows, must be .*, got -2"),
        ("points", "term_index", (0, 1), 24, r"PointsPlan: term_index, joints, must be in 0..23"),
        ("points", "joint_index", (0, 1), 500, r"PointsPlan: joint_index, sources, .*, got 500"),
        ("points", "output_index", 0, 500, r"PointsPlan: output_index must be in .*, got 500"),
    ],
)
def test_plans_check_their_indices_once(kind, field, place, value, words):
    """The kernels trust them: an index outside would read other memory, and a cycle never end."""
    mesh, points = make_plans(37, "cpu", torch.float32)
    plan = mesh if kind == "mesh" else points
    wrong = getattr(plan, field).clone()
    wrong[place] = value
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(plan, **{field: wrong})


def test_grouping_lists_every_item_by_its_key():
    """What the GPU kernels walk instead of searching: in order within a key, and nothing twice."""
    _, plan = make_plans(37, "cpu", torch.float64)
    rows, joints, sources = plan.term_index.T
    lists = [
        (sources, len(plan.transl_weight)),
        (rows, plan.basis.shape[2]),
        (plan.output_index, len(plan.transl_weight)),
        (plan.joint_index[:, 1], len(plan.transl_weight)),
        (plan.joint_index[:, 0], 24),
    ]
    grouping, at = plan.grouping, 0
    assert grouping.dtype == torch.int32
    for keys, count in lists:
        start, at = grouping[at : at + count + 1], at + count + 1
        order, at = grouping[at : at + len(keys)], at + len(keys)
        for key in range(count):
            items = order[start[key] : start[key + 1]]
            assert items.tolist() == (keys == key).nonzero().flatten().tolist()
    assert grouping[at:].tolist() == [int((joints < joint).sum()) for joint in range(25)]
    assert torch.equal(plan.to(dtype=torch.float32).grouping, grouping)
