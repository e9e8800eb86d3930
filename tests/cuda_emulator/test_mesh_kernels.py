"""The mesh kernels, run on the CPU, against a plain body function in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from eft_fast.body.arrays import BodyArrays
from eft_fast.body.plan import make_mesh_plan
from eft_fast.geometry.rotations import axis_angle_to_matrix, matrix_to_rot6d, rot6d_to_matrix
from eft_fast.ops.plans import MeshPlan
from tests.cuda_emulator import mesh_call
from tests.cuda_emulator.emulator import ASCENDING, DESCENDING, RANDOM
from tests.cuda_emulator.mesh_call import FLOAT32, THREE_TF32
from tests.helpers import make_tiny_arrays, plain_body

SHAPES = [(0, 37), (1, 1), (3, 37), (17, 37), (131, 37), (17, 6890)]
FORMS = ["axis_angle", "rot6d", "matrix"]
DTYPES = [torch.float32, torch.float64]
# rtol, atol. Measured in float32 with this body's large random directions: 2.6e-6.
FORWARD = {torch.float32: (1e-5, 4e-6), torch.float64: (1e-9, 1e-9)}
GRADIENT = {torch.float32: (1e-4, 1e-5), torch.float64: (1e-9, 1e-9)}


@dataclass
class Case:
    """Inputs and answers in float64."""

    plan: MeshPlan
    inputs: list[Tensor]  # betas, pose, transl
    outputs: tuple[Tensor, Tensor]  # vertices, joints
    weights: tuple[Tensor, Tensor]  # gradients of the outputs
    gradients: list[Tensor]

    def run(self, gpu, dtype, arithmetic=FLOAT32):
        plan, inputs = self.plan.to(dtype=dtype), [x.to(dtype) for x in self.inputs]
        return mesh_call.forward(gpu, plan, *inputs, arithmetic)

    def run_backward(self, gpu, dtype, posed):
        plan, inputs = self.plan.to(dtype=dtype), [x.to(dtype) for x in self.inputs]
        return mesh_call.backward(gpu, plan, *inputs, posed, *(w.to(dtype) for w in self.weights))


def _first_vertices(arrays: BodyArrays, count: int) -> BodyArrays:
    names = ("v_template", "shapedirs", "posedirs", "joint_idx", "joint_weight")
    values = {name: getattr(arrays, name)[:count] for name in names}
    return replace(arrays, **values, J_regressor=arrays.J_regressor[:, :count])


def _to_matrix(form: str, pose: Tensor) -> Tensor:
    if form == "axis_angle":
        return axis_angle_to_matrix(pose)
    return rot6d_to_matrix(pose) if form == "rot6d" else pose


@lru_cache(maxsize=8)
def make_case(people: int, vertices: int, form: str = "axis_angle") -> Case:
    generator = torch.Generator().manual_seed(people + vertices)
    arrays = _first_vertices(make_tiny_arrays(max(vertices, 37), landmarks=False), vertices)
    pose = torch.randn(people, 24, 3, dtype=torch.float64, generator=generator) * 0.5
    pose[:1, 3:9] = 0  # The formulas change form near zero.
    if form != "axis_angle":
        pose = axis_angle_to_matrix(pose)
    if form == "rot6d":
        pose = matrix_to_rot6d(pose) * 1.3
    betas, transl = (
        torch.randn(people, n, dtype=torch.float64, generator=generator) for n in (10, 3)
    )
    # Numbers that float32 holds: the test is about the kernels' rounding, not the inputs'.
    inputs = [x.float().double().requires_grad_() for x in (betas, pose, transl)]
    betas, pose, transl = inputs
    if people:
        outputs = plain_body(arrays, betas, _to_matrix(form, pose), transl)
    else:
        outputs = torch.zeros(0, vertices, 3).double(), torch.zeros(0, 24, 3).double()
    weights = tuple(torch.randn(x.shape, dtype=torch.float64, generator=generator) for x in outputs)
    gradients = [torch.zeros_like(x) for x in inputs]
    if people:
        loss = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
        gradients = list(torch.autograd.grad(loss, inputs))
    return Case(
        make_mesh_plan(arrays),
        [x.detach() for x in inputs],
        tuple(x.detach() for x in outputs),
        weights,
        gradients,
    )


def check(got, case: Case, dtype: torch.dtype) -> None:
    rtol, atol = FORWARD[dtype]
    torch.testing.assert_close(got.vertices.double(), case.outputs[0], rtol=rtol, atol=atol)
    torch.testing.assert_close(got.joints.double(), case.outputs[1], rtol=rtol, atol=atol)


def check_gradients(got, case: Case, dtype: torch.dtype) -> None:
    """Errors are measured against the largest entry of a person's gradient: sums cancel."""
    rtol, atol = GRADIENT[dtype]
    for name, want in zip(("betas", "pose", "transl"), case.gradients, strict=True):
        scale = want.flatten(1).abs().amax(1).clamp(min=1.0).reshape(-1, *[1] * (want.ndim - 1))
        error = (getattr(got, name).double() - want).abs() / scale
        assert got_all_finite(getattr(got, name)), name
        assert not (error > rtol + atol).any(), f"{name}: {error.max():.2e}"


def got_all_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("people", "vertices"), SHAPES)
def test_mesh_matches_the_plain_body(gpu, people, vertices, dtype):
    case = make_case(people, vertices)
    got = case.run(gpu, dtype)
    check(got, case, dtype)
    check_gradients(case.run_backward(gpu, dtype, got.posed), case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_mesh_takes_every_form_of_pose(gpu, form, dtype):
    case = make_case(3, 37, form)
    got = case.run(gpu, dtype)
    check(got, case, dtype)
    check_gradients(case.run_backward(gpu, dtype, got.posed), case, dtype)


@pytest.mark.parametrize(("people", "vertices"), [(17, 37), (70, 37), (17, 300)])
def test_three_tf32_keeps_float32_tolerances(gpu, people, vertices):
    case = make_case(people, vertices)
    plain, split = (
        case.run(gpu, torch.float32, arithmetic) for arithmetic in (FLOAT32, THREE_TF32)
    )
    check(split, case, torch.float32)
    assert not torch.equal(plain.posed, split.posed), "the flag chose no other kernel"


def test_transl_may_be_absent(gpu):
    case = make_case(3, 37)
    betas, pose, transl = case.inputs
    got = mesh_call.forward(gpu, case.plan, betas, pose, None)
    torch.testing.assert_close(got.vertices, case.outputs[0] - transl[:, None], rtol=0, atol=1e-12)
    torch.testing.assert_close(got.joints, case.outputs[1] - transl[:, None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("arithmetic", [FLOAT32, THREE_TF32])
@pytest.mark.parametrize(
    ("people", "dtype"), [(3, torch.float32), (17, torch.float32), (3, torch.float64)]
)
def test_every_order_of_threads_gives_the_same_bits(gpu, people, dtype, arithmetic):
    case = make_case(people, 37)
    seen = []
    for order, seed in [(ASCENDING, 0), (DESCENDING, 0), (RANDOM, 1), (RANDOM, 2), (ASCENDING, 0)]:
        gpu.schedule(order, seed)
        got = case.run(gpu, dtype, arithmetic)
        back = case.run_backward(gpu, dtype, got.posed)
        seen.append([got.vertices, got.joints, back.betas, back.pose, back.transl])
    for values in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], values, strict=True))


@pytest.mark.parametrize("people", [3, 40])
def test_gradients_do_not_depend_on_how_many_people_there_are(gpu, people):
    """Kernels for few and for many people; 300 vertices are more than one split of a sum."""
    many = make_case(140, 300)
    few = replace(
        many,
        inputs=[x[:people].clone() for x in many.inputs],
        weights=tuple(x[:people].clone() for x in many.weights),
    )
    seen = []
    for case in (many, few):
        posed = case.run(gpu, torch.float32, THREE_TF32).posed
        seen.append(case.run_backward(gpu, torch.float32, posed))
    for name in ("betas", "pose", "transl"):
        got, want = (getattr(gradients, name)[:people] for gradients in seen)
        assert torch.equal(got, want), name


@pytest.mark.parametrize("people", [3, 20])
def test_nan_stays_with_its_person(gpu, people):
    case = make_case(people, 37)
    broken = replace(case, inputs=[x.clone() for x in case.inputs])
    broken.inputs[1][1, 5] = torch.nan
    others = [i for i in range(people) if i != 1]
    good, bad = (x.run(gpu, torch.float32) for x in (case, broken))
    assert bad.vertices[1].isnan().any()
    assert torch.equal(good.vertices[others], bad.vertices[others])
    good, bad = (
        x.run_backward(gpu, torch.float32, y.posed) for x, y in ((case, good), (broken, bad))
    )
    assert bad.pose[1].isnan().any()
    assert torch.equal(good.pose[others], bad.pose[others])
    assert torch.equal(good.betas[others], bad.betas[others])
